"""LatentGate: scikit-learn's contract, labels, languages, weights, persistence and bad input."""

from __future__ import annotations

import io

import joblib
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from shifted import pooled_gate
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.metrics import get_scorer, roc_auc_score
from sklearn.model_selection import TunedThresholdClassifierCV, cross_val_predict
from sklearn.utils.estimator_checks import parametrize_with_checks

from skgate import LatentGate

CALIBRATIONS = ["shrinkage", "refit", "threshold", None]
SOURCES = ["de", "en", "fr"]
D = 6


def draw(rng, n_per_class, shift=0.0):
    """Rows of one language, harmful along every coordinate; labels alternate 0, 1."""
    y = np.tile([0, 1], n_per_class)
    return rng.normal(size=(len(y), D)) + 1.5 * y[:, None] + shift, y


@pytest.fixture
def data():
    """Rows of three source languages and of "sw", whose scores are shifted far towards harmful."""
    rng = np.random.default_rng(0)
    shifts = {"de": -0.1, "en": 0.0, "fr": 0.1, "sw": 2.0}
    drawn = {language: draw(rng, 40, shift) for language, shift in shifts.items()}
    X = np.concatenate([rows for rows, _ in drawn.values()])
    y = np.concatenate([labels for _, labels in drawn.values()])
    return X, y, np.repeat(list(drawn), 80)


@pytest.fixture
def sources(data):
    X, y, language = data
    rows = language != "sw"
    return X[rows], y[rows], language[rows]


@pytest.fixture
def target(data):
    X, y, language = data
    return X[language == "sw"], y[language == "sw"]


def copy_by_pickle(gate):
    buffer = io.BytesIO()
    joblib.dump(gate, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


# They fit labels such as 1 and 2, which don't say which is harmful; classes_[1] is right for them.
@pytest.mark.filterwarnings(
    "ignore:Got harmful_label=None, and neither of the classes .* in y is 'harmful':UserWarning"
)
@parametrize_with_checks(
    [
        *(LatentGate(calibration=c, rank=r) for c in CALIBRATIONS for r in (None, 1, 10)),
        *(LatentGate(rank=r, C=1.0, direction="probe") for r in (None, 1, 10)),
        LatentGate(unknown_language="source"),
    ],
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


# Labels


@pytest.mark.filterwarnings("ignore:.*is taken as the harmful one:UserWarning")
@pytest.mark.parametrize(
    ("labels", "harmful_label"),
    [
        (["harmless", "harmful"], None),
        ([0, 1], None),
        ([False, True], None),
        (["b", "a"], "a"),
        (["a", "b"], None),
        ([1, 2], None),
        ([1, 0], 0),
    ],
)
@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_labels_of_any_kind_come_out_right(sources, labels, harmful_label, calibration):
    X, y, language = sources
    named = np.array(labels)[y]
    gate = pooled_gate(harmful_label=harmful_label, calibration=calibration)
    gate.fit(X, named, language=language)
    plain = pooled_gate(calibration=calibration).fit(X, y, language=language)
    assert gate.harmful_label_ == labels[1]
    np.testing.assert_array_equal(gate.harm_score(X), plain.harm_score(X))
    np.testing.assert_array_equal(gate.predict(X), np.array(labels)[plain.predict(X)])
    np.testing.assert_array_equal(
        gate.decision_function(X) > 0, gate.predict(X) == gate.classes_[1]
    )
    np.testing.assert_allclose(
        X @ gate.coef_[0] + gate.intercept_, gate.decision_function(X), atol=1e-9
    )
    harmful_column = gate.classes_.tolist().index(labels[1])
    np.testing.assert_allclose(
        gate.predict_proba(X)[:, harmful_column], plain.predict_proba(X)[:, 1]
    )
    np.testing.assert_allclose(np.exp(gate.predict_log_proba(X)), gate.predict_proba(X))
    expected = roc_auc_score(y, plain.harm_score(X))
    assert expected > 0.95
    assert get_scorer("roc_auc")(gate, X, named) == pytest.approx(expected)
    assert roc_auc_score(named == labels[1], gate.harm_score(X)) == pytest.approx(expected)
    assert gate.score(X, named) == plain.score(X, y)


@pytest.mark.parametrize(
    ("labels", "harmful_label"), [([0, 1], None), (["harmless", "harmful"], None), ("ba", "a")]
)
def test_scikit_learns_meta_estimators_keep_the_labels(sources, labels, harmful_label):
    X, y, _ = sources
    named = np.array(list(labels))[y]
    gate = pooled_gate(harmful_label=harmful_label)
    for wrapped in (TunedThresholdClassifierCV(gate), CalibratedClassifierCV(gate)):
        assert (wrapped.fit(X, named).predict(X) == named).mean() > 0.9
    assert (cross_val_predict(gate, X, named) == named).mean() > 0.9


def test_shots_of_the_class_that_sorts_first_are_counted_in_its_column(sources, target):
    X, y, language = sources
    named = np.array(["harmless", "harmful"])
    gate = pooled_gate().fit(X, named[y], language=language)
    gate.partial_fit(target[0][:5], named[target[1][:5]], language="sw")  # 3 harmless, 2 harmful
    assert gate.classes_.tolist() == ["harmful", "harmless"]
    assert gate.languages_.tolist() == ["de", "en", "fr", "sw"]
    assert gate.n_shots_.tolist() == [[0, 0], [0, 0], [0, 0], [2, 3]]
    gate.partial_fit(target[0][5:6], named[target[1][5:6]], language="sw")
    assert gate.n_shots_[-1].tolist() == [3, 3]


# Languages


@pytest.mark.parametrize("calibration", ["shrinkage", "refit", "threshold"])
def test_shots_mend_a_shifted_language_and_leave_the_others_alone(sources, target, calibration):
    X, y, language = sources
    X_shots, y_shots, X_test, y_test = *(part[:8] for part in target), *(p[8:] for p in target)
    gate = pooled_gate(calibration=calibration).fit(X, y, language=language)
    before = gate.decision_function(X, language=language)
    with pytest.warns(UserWarning, match=r"Got language \['sw'\], which the gate has never seen"):
        assert gate.score(X_test, y_test, language="sw") < 0.7
    gate.partial_fit(X_shots, y_shots, language="sw")
    assert gate.score(X_test, y_test, language="sw") > 0.85
    np.testing.assert_array_equal(gate.decision_function(X, language=language), before)
    assert gate.language_bias_[gate.languages_ == "sw"] < -1


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_shots_through_fit_equal_shots_through_partial_fit(data, sources, target, calibration):
    X, y, language = data
    at_once = pooled_gate(calibration=calibration, source_languages=SOURCES)
    in_two = pooled_gate(calibration=calibration)
    if calibration is None:
        with pytest.warns(UserWarning, match="ignores shots"):
            at_once.fit(X, y, language=language)
        with pytest.warns(UserWarning, match="ignores shots"):
            in_two.fit(*sources[:2], language=sources[2]).partial_fit(*target, language="sw")
    else:
        at_once.fit(X, y, language=language)
        in_two.fit(*sources[:2], language=sources[2]).partial_fit(*target, language="sw")
    np.testing.assert_array_equal(at_once.direction_, in_two.direction_)
    np.testing.assert_array_equal(at_once.languages_, in_two.languages_)
    np.testing.assert_array_equal(at_once.n_shots_, in_two.n_shots_)
    np.testing.assert_allclose(
        at_once.decision_function(X, language=language),
        in_two.decision_function(X, language=language),
        rtol=1e-9,
    )


@pytest.mark.parametrize("calibration", CALIBRATIONS[:-1])
def test_the_order_and_number_of_calls_do_not_matter(sources, target, calibration):
    X, y, language = sources
    X_shots, y_shots = (part[:8] for part in target)
    at_once = pooled_gate(calibration=calibration).fit(X, y, language=language)
    at_once.partial_fit(X_shots, y_shots, language="sw")
    backwards = pooled_gate(calibration=calibration).fit(X, y, language=language)
    for start in (6, 4, 2, 0):
        backwards.partial_fit(
            X_shots[start : start + 2], y_shots[start : start + 2], language=["sw", "sw"]
        )
    np.testing.assert_allclose(
        at_once.decision_function(X, language="sw"),
        backwards.decision_function(X, language="sw"),
        rtol=1e-7,
        atol=1e-7,
    )


def test_shots_of_several_languages_in_one_call(sources, target):
    X, y, language = sources
    X_shots, y_shots = (part[:8] for part in target)
    together = pooled_gate().fit(X, y, language=language)
    names = np.tile(["sw", "sw", "yo", "yo"], 2)
    together.partial_fit(X_shots, y_shots, language=names)
    apart = pooled_gate().fit(X, y, language=language)
    for name in ("yo", "sw"):
        apart.partial_fit(X_shots[names == name], y_shots[names == name], language=name)
    np.testing.assert_array_equal(together.language_bias_, apart.language_bias_)
    np.testing.assert_array_equal(together.n_shots_, apart.n_shots_)


@pytest.mark.parametrize("calibration", ["shrinkage", "refit", "threshold"])
def test_shots_without_a_language_recalibrate_the_pooled_source(sources, target, calibration):
    X, y, language = sources
    gate = pooled_gate(calibration=calibration).fit(X, y, language=language)
    german = gate.decision_function(X, language="de")
    gate.partial_fit(target[0][:8], target[1][:8])
    assert gate.score(target[0][8:], target[1][8:]) > 0.85
    np.testing.assert_allclose(gate.decision_function(X, language="de"), german, atol=1e-9)
    np.testing.assert_allclose(X @ gate.coef_[0] + gate.intercept_, gate.decision_function(X))


def test_partial_fit_of_an_unfitted_gate_is_fit(sources):
    X, y, language = sources
    fitted = pooled_gate().fit(X, y, language=language)
    partial = pooled_gate().partial_fit(X, y, language=language, classes=[0, 1])
    np.testing.assert_array_equal(partial.coef_, fitted.coef_)
    assert partial.n_shots_.sum() == 0
    with pytest.raises(ValueError, match=r"Got \[0, 1\] in classes, expected labels out of"):
        (unfitted := pooled_gate()).partial_fit(X, y + 2, language=language, classes=[0, 1])
    assert not hasattr(unfitted, "classes_")


def test_one_string_is_the_language_of_every_row(sources):
    X, y, language = sources
    gate = pooled_gate().fit(X, y, language=language)
    np.testing.assert_array_equal(
        gate.decision_function(X, language="de"),
        gate.decision_function(X, language=pd.Series(["de"] * len(X))),
    )


@pytest.mark.parametrize("form", ["frame", "by index", "array"])
def test_language_as_a_column_equals_the_keyword(data, form):
    X, y, language = data
    by_keyword = pooled_gate(source_languages=SOURCES).fit(X, y, language=language)
    if form == "array":
        with_column, column = np.column_stack([language.astype(object), X]), 0
    else:
        with_column = pd.DataFrame(X, columns=[f"h{i}" for i in range(D)]).assign(lang=language)
        column = "lang" if form == "frame" else -1
    gate = pooled_gate(source_languages=SOURCES, language_column=column).fit(with_column, y)
    assert gate.n_features_in_ == D
    np.testing.assert_array_equal(
        gate.predict_proba(with_column), by_keyword.predict_proba(X, language=language)
    )
    gate.partial_fit(with_column[-8:], y[-8:])
    assert gate.n_shots_[-1].tolist() == [44, 44]


def test_an_unknown_language_can_be_an_error(sources):
    X, y, language = sources
    gate = pooled_gate(unknown_language="error").fit(X, y, language=language)
    with pytest.raises(
        ValueError, match=r"\['sw', 'yo'\], which the gate has never seen, expected \['de'"
    ):
        gate.predict(X[:3], language=["yo", "de", "sw"])
    gate.predict(X)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA], ids=str)
def test_a_row_without_a_language_is_decided_as_if_none_was_given(sources, missing):
    X, y, language = sources
    gate = LatentGate().fit(X, y, language=language)
    names = [missing, "de", missing, "fr"]
    given = gate.decision_function(X[:4], language=names)
    np.testing.assert_array_equal(given[[0, 2]], gate.decision_function(X[:4])[[0, 2]])
    assert given[1] == gate.decision_function(X[1:2], language="de")[0]
    with_column = np.column_stack([np.array(names, dtype=object), X[:4]])
    gate.set_params(language_column=0)
    np.testing.assert_array_equal(given, gate.decision_function(with_column))


def test_a_language_that_differs_in_case_or_region_is_named(sources):
    X, y, language = sources
    gate = pooled_gate().fit(X, y, language=language)
    with pytest.warns(UserWarning, match=r"Did you mean \['de', 'fr'\]\?"):
        gate.predict(X[:2], language=["DE", "fr-CA"])


# Weights and numerics


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_a_weight_counts_as_repetition_and_zero_as_absence(data, calibration):
    X, y, language = data
    weight = np.random.default_rng(1).integers(0, 3, size=len(y))
    gate = pooled_gate(calibration=calibration)
    if calibration is not None:
        gate.set_params(source_languages=SOURCES)
    weighted = clone(gate).fit(X, y, language=language, sample_weight=weight)
    repeated = clone(gate).fit(
        np.repeat(X, weight, axis=0), np.repeat(y, weight), language=np.repeat(language, weight)
    )
    np.testing.assert_allclose(weighted.direction_, repeated.direction_)
    np.testing.assert_allclose(
        weighted.decision_function(X, language=language),
        repeated.decision_function(X, language=language),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_fitting_twice_gives_the_same_bits(sources, calibration):
    X, y, language = sources
    gate = pooled_gate(calibration=calibration)
    first = gate.fit(X, y, language=language).decision_function(X, language=language)
    second = gate.fit(X, y, language=language).decision_function(X, language=language)
    other = clone(gate).fit(X, y, language=language).decision_function(X, language=language)
    assert first.tobytes() == second.tobytes() == other.tobytes()


@pytest.mark.parametrize("calibration", ["shrinkage", "refit", "threshold"])
def test_the_order_of_the_rows_changes_rounding_alone(data, calibration):
    X, y, language = data
    order = np.random.default_rng(2).permutation(len(X))
    gate = pooled_gate(calibration=calibration, source_languages=SOURCES)
    straight = clone(gate).fit(X, y, language=language)
    shuffled = clone(gate).fit(X[order], y[order], language=language[order])
    np.testing.assert_allclose(
        straight.decision_function(X, language=language),
        shuffled.decision_function(X, language=language),
        atol=1e-7,
    )


def test_the_scale_of_the_activations_does_not_matter(data):
    X, y, language = data
    gate = pooled_gate(source_languages=SOURCES)
    plain = clone(gate).fit(X, y, language=language)
    scaled = clone(gate).fit(1000 * X, y, language=language)
    np.testing.assert_allclose(
        plain.decision_function(X, language=language),
        scaled.decision_function(1000 * X, language=language),
        atol=1e-6,
    )
    assert scaled.projection_gap_ == pytest.approx(1000 * plain.projection_gap_)


def test_more_features_than_rows(sources):
    X, y, language = sources
    rng = np.random.default_rng(3)
    wide = X @ rng.normal(size=(D, 400)) + 0.01 * rng.normal(size=(len(X), 400))
    assert pooled_gate().fit(wide, y, language=language).score(wide, y) > 0.9


# Persistence


def test_joblib_keeps_everything(data, tmp_path):
    X, y, language = data
    gate = pooled_gate(source_languages=SOURCES).fit(X, y, language=language)
    joblib.dump(gate, tmp_path / "gate.joblib")
    loaded = joblib.load(tmp_path / "gate.joblib")
    np.testing.assert_array_equal(
        loaded.predict_proba(X, language=language), gate.predict_proba(X, language=language)
    )
    for one in (gate, loaded):
        one.partial_fit(X[:4] + 5, y[:4], language="yo")
    np.testing.assert_array_equal(loaded.language_bias_, gate.language_bias_)


def test_a_pickle_of_another_version_warns(sources, monkeypatch):
    X, y, language = sources
    gate = pooled_gate().fit(X, y, language=language)
    copy_by_pickle(gate)  # the same version: no warning, which would be an error
    monkeypatch.setattr("skgate._base.version", lambda name: "0.0.1")
    state = gate.__getstate__()
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"written by skgate 0\.0\.1 and is read by"):
        LatentGate.__new__(LatentGate).__setstate__(state)


def test_the_warning_points_to_the_line_that_loads_the_gate(sources, monkeypatch, tmp_path):
    X, y, language = sources
    gate = pooled_gate().fit(X, y, language=language)
    monkeypatch.setattr("skgate._base.version", lambda name: "0.0.1")
    joblib.dump(gate, tmp_path / "gate.joblib")
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="written by skgate") as found:
        joblib.load(tmp_path / "gate.joblib")
    assert [one.filename for one in found] == [__file__]


def test_an_unfitted_gate_says_so(sources):
    with pytest.raises(NotFittedError):
        pooled_gate().harm_score(sources[0])


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": sparse.csr_array}, TypeError, "[Ss]parse data was passed"),
        ({"X": lambda X: np.where(X > 3, np.nan, X)}, ValueError, "contains NaN"),
        ({"X": lambda X: np.where(X > 3, np.inf, X)}, ValueError, "contains infinity"),
        ({"X": lambda X: X[:, 0]}, ValueError, "Expected 2D array"),
        ({"X": lambda X: X[:-1]}, ValueError, "inconsistent numbers of samples"),
        ({"X": np.zeros_like}, ValueError, "Got the same mean of X for both classes"),
        ({"y": np.zeros_like}, ValueError, r"y with 1 class\(es\), \[0\], expected exactly 2"),
        ({"y": lambda y: np.arange(len(y)) % 3}, ValueError, r"y with 3 class\(es\)"),
        ({"y": lambda y: y + 0.5}, ValueError, "[Uu]nknown label type"),
        ({"language": lambda v: v[:-1]}, ValueError, "language of length 239, expected 240"),
        ({"language": lambda v: [None, *v[1:]]}, TypeError, r"language\[0\]=None"),
        ({"language": lambda v: [7, *v[1:]]}, TypeError, r"language\[0\]=7"),
        ({"language": lambda v: ["", *v[1:]]}, ValueError, r"Got language\[0\]='', expected"),
        ({"language": lambda v: pd.DataFrame({"language": v})}, TypeError, "type DataFrame"),
        ({"language": lambda v: b"en"}, TypeError, "type bytes"),
        ({"language": lambda v: 7}, TypeError, "language=7 of type int"),
        (
            {"sample_weight": lambda v: np.zeros(240)},
            ValueError,
            "weight=0 for|one non-zero",
        ),
        ({"sample_weight": lambda v: np.full(240, -1.0)}, ValueError, "[Nn]egative"),
        ({"sample_weight": lambda v: np.ones(3)}, ValueError, "sample_weight"),
    ],
)
def test_bad_rows(sources, change, error, message):
    arguments = dict(zip(["X", "y", "language"], sources, strict=True))
    for name, make in change.items():
        arguments[name] = make(arguments.get(name))
    with pytest.raises(error, match=message):
        pooled_gate().fit(**arguments)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rank": 0}, "'rank' parameter"),
        ({"rank": 2.5}, "'rank' parameter"),
        ({"C": 0.0}, "'C' parameter"),
        ({"calibration": "platt"}, "'calibration' parameter"),
        ({"unknown_language": "ignore"}, "'unknown_language' parameter"),
        (
            {"source_languages": "en"},
            "'source_languages' .* Got 'en'",
        ),
        ({"source_languages": ["xx"]}, r"Got source_languages=\['xx'\] and rows in"),
        (
            {"harmful_label": "harmful"},
            r"Got harmful_label='harmful', expected one of the classes \[0, 1",
        ),
        ({"language_column": "language"}, "Got language together with language_column"),
    ],
)
def test_bad_parameters(sources, params, message):
    X, y, language = sources
    with pytest.raises(ValueError, match=message):
        pooled_gate(**params).fit(X, y, language=language)


@pytest.mark.parametrize(
    ("column", "as_frame", "message"),
    [
        ("lang", True, "Got language_column='lang', expected one of the 6 columns of X"),
        ("lang", False, "Got language_column='lang', but X is a ndarray without"),
        (9, True, "Got language_column=9, expected one of the 6 columns of X"),
        ("f", False, "after set_output.transform='pandas'., or an index such as -1"),
        ("step", True, "'a' to 'lang__step'.*use this name, or ColumnTransformer"),
        (None, True, "Got text in the column 'lang__step' of X, expected numbers"),
        (6, False, r"Got language_column=6, expected the index .* shape \(240, 6\)"),
    ],
)
def test_bad_language_columns(sources, column, as_frame, message):
    X, y, _ = sources
    if as_frame:
        X = (
            pd.DataFrame(X, columns=list("abcdef"))
            .assign(f="en")
            .rename(columns={"f": "lang__step"})
        )
    with pytest.raises(ValueError, match=message):
        pooled_gate(language_column=column).fit(X, y)


def test_source_languages_need_a_language_and_both_classes(data):
    X, y, language = data
    with pytest.raises(ValueError, match="without language, expected the language of every row"):
        pooled_gate(source_languages=SOURCES).fit(X, y)
    keep = (y == 0) | (language == "sw")
    with pytest.raises(ValueError, match="one class in y among the rows of the source languages"):
        pooled_gate(source_languages=SOURCES).fit(X[keep], y[keep], language=language[keep])


def test_bad_shots(sources, target):
    X, y, language = sources
    gate = pooled_gate().fit(X, y, language=language)
    with pytest.raises(ValueError, match="X has 3 features, but LatentGate is expecting 6"):
        gate.partial_fit(X[:4, :3], y[:4], language="sw")
    with pytest.raises(ValueError, match=r"Got \[2\] in y, expected labels out of \[0, 1\]"):
        gate.partial_fit(X[:4], [0, 1, 2, 1], language="sw")
    with pytest.raises(ValueError, match=r"Got \[5\] in classes, expected labels out of"):
        gate.partial_fit(X[:4], y[:4], language="sw", classes=[0, 5])
    with pytest.raises(ValueError, match=r"Got \[1\] alone in y, expected rows of both classes"):
        LatentGate().partial_fit(X[y == 1], y[y == 1], language="sw", classes=[0, 1])
    with pytest.raises(ValueError, match="Got text as X, expected activations"):
        gate.predict(["boil an egg"])
    assert gate.languages_.tolist() == SOURCES
    with pytest.raises(ValueError, match="X has 3 features"):
        gate.predict(X[:, :3])
    with pytest.raises(ValueError, match="language of length 2, expected 240"):
        gate.predict(X, language=["de", "en"])


def test_labels_that_do_not_say_which_is_harmful_are_warned_of(sources):
    X, y, language = sources
    with pytest.warns(UserWarning, match="The second, 'benign', is taken as the harmful one"):
        LatentGate().fit(X, np.array(["attack", "benign"])[y], language=language)
    gate = LatentGate().fit(X, np.array(["harmless", "attack"])[y], language=language)
    assert gate.harmful_label_ == "attack"


@pytest.mark.parametrize("method", ["partial_fit", "adapt"])
def test_a_call_that_fails_by_its_warning_changes_nothing(sources, method):
    X, y, language = sources
    calibration = "threshold" if method == "partial_fit" else "shrinkage"
    gate = pooled_gate(calibration=calibration).fit(X, y, language=language)
    harmless = X[(language == "en") & (y == 0)]
    labels = [np.zeros(len(harmless), dtype=int)] if method == "partial_fit" else []
    with pytest.raises(UserWarning, match=r"don't move its boundary|With a probability of"):
        getattr(gate, method)(harmless, *labels, language="sw")
    assert gate.languages_.tolist() == SOURCES
    assert gate.n_shots_.sum() == gate.n_unlabelled_.sum() == 0


def test_a_failed_fit_changes_nothing(sources):
    X, y, language = sources
    gate = pooled_gate().fit(X, y, language=language)
    expected, state = gate.predict(X), set(gate.__dict__)
    with pytest.raises(ValueError, match="same mean"):
        gate.fit(np.ones((4, 9)), [0, 1, 0, 1])
    np.testing.assert_array_equal(gate.predict(X), expected)
    assert set(gate.__dict__) == state
    unfitted = pooled_gate(source_languages=["xx"])
    with pytest.raises(ValueError, match="expected rows in at least one source language"):
        unfitted.fit(X, y, language=language)
    with pytest.raises(NotFittedError):
        unfitted.predict(X)
    assert unfitted.set_params(source_languages=None).partial_fit(X, y).score(X, y) > 0.8


def test_source_languages_that_are_absent_are_named(sources):
    X, y, language = sources
    with pytest.warns(UserWarning, match=r"no row is in \['xx'\]"):
        pooled_gate(source_languages=["en", "xx"]).fit(X, y, language=language)
    with pytest.raises(TypeError, match=r"source_languages\[0\]=1"):
        pooled_gate(source_languages=[1]).fit(X, y, language=language)


def test_importing_and_fitting_needs_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, numpy as np; from skgate import LatentGate;"
        "LatentGate().fit(np.eye(4), [0, 0, 1, 1]).predict(np.eye(4));"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
