"""Labels as they come out of files: right, or refused by name."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from bare import GREEDY, LANGUAGE, PROMPTS, Y, let_harmful_words_share
from shifted import draw_sources
from sklearn.pipeline import make_pipeline
from tiny import make_model

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.inspection import ProjectionDisplay
from skgate.metrics import language_report, refusal_selectivity

SPELLINGS = [
    ("harmless", "harmful"),
    ("Harmless", "Harmful"),
    ("HARMLESS", "HARMFUL"),
    ("harmless", "Harmful"),
    ("Safe", "Harmful"),
    ("safe", "HARMFUL"),
    ("unsafe-ish", "harmFul"),
    ("Harmless", "Unsafe"),
    ("HARMLESS", "Bad"),
]


def text(y, harmless="harmless", harmful="harmful"):
    return np.array([harmless, harmful], dtype=object)[y]


FORMS = {
    "object_bools": lambda y: y.astype(bool).astype(object),
    "list_of_bools": lambda y: y.astype(bool).tolist(),
    "series_of_object_bools": lambda y: pd.Series(y.astype(bool), dtype=object),
    "nullable_bools": lambda y: pd.Series(y.astype(bool), dtype="boolean"),
    "object_ints": lambda y: y.astype(object),
    "nullable_ints": lambda y: pd.Series(y, dtype="Int64"),
    "floats": lambda y: y.astype(float),
    "nullable_floats": lambda y: pd.Series(y, dtype="Float64"),
    "string": lambda y: pd.Series(text(y), dtype="string"),
    "string_pyarrow": lambda y: pd.Series(text(y), dtype="string[pyarrow]"),
    "str": lambda y: pd.Series(text(y), dtype="str"),
    "object_texts": lambda y: pd.Series(text(y), dtype=object),
    "category": lambda y: pd.Series(text(y)).astype("category"),
    "category_of_bools": lambda y: pd.Series(y.astype(bool)).astype("category"),
    "column": lambda y: pd.DataFrame({"y": text(y)})["y"],
    "shuffled_index": lambda y: pd.Series(text(y), index=np.arange(len(y))[::-1]),
    "polars_texts": lambda y: pl.Series("y", text(y).tolist()),
    "polars_bools": lambda y: pl.Series("y", y.astype(bool)),
    "polars_category": lambda y: pl.Series("y", text(y).tolist(), dtype=pl.Categorical),
}
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def rows():
    return draw_sources(np.random.default_rng(0), n_per_class=12)


@pytest.fixture(scope="module")
def expected(rows):
    X, y, language = rows
    return LatentGate().fit(X, y, language=language).harm_score(X, language=language)


def fit(rows, labels, **params):
    X, _, language = rows
    return LatentGate(**params).fit(X, labels, language=language)


@every_form
def test_every_form_of_labels_comes_out_right(rows, expected, form):
    """Object bools, nullable dtypes, StringDType, categories: as plain 0 and 1."""
    X, y, language = rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate = fit(rows, FORMS[form](y))
    np.testing.assert_allclose(gate.harm_score(X, language=language), expected)
    harmful = gate.predict(X, language=language) == gate.harmful_label_
    np.testing.assert_array_equal(harmful, expected > 0)
    assert gate.score(X, FORMS[form](y), language=language) == np.mean(harmful == y)
    proba = gate.predict_proba(X, language=language)
    column = gate.classes_.tolist().index(gate.harmful_label_)
    np.testing.assert_array_equal(proba[:, column] > 0.5, expected > 0)


@every_form
def test_every_form_of_shots_comes_out_right(rows, form):
    """``partial_fit`` takes the same forms, and counts the shots in their columns."""
    X, y, _ = rows
    gate = fit(rows, FORMS[form](y))
    gate.partial_fit(X[:3] + 1, FORMS[form](y[:3]), language="sw")
    plain = fit(rows, y).partial_fit(X[:3] + 1, y[:3], language="sw")
    shots = gate.n_shots_[gate.languages_ == "sw"][0]
    harmful = gate.classes_.tolist().index(gate.harmful_label_)
    assert shots[harmful] == y[:3].sum()
    np.testing.assert_allclose(
        gate.harm_score(X + 1, language="sw"), plain.harm_score(X + 1, language="sw")
    )


@pytest.mark.parametrize(("harmless", "harmful"), SPELLINGS)
def test_harmful_in_any_case_is_harmful(rows, expected, harmless, harmful):
    """The label "Harmful" sorts before "Harmless" and is still harmful, without a warning."""
    X, y, language = rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate = fit(rows, text(y, harmless, harmful))
    assert gate.harmful_label_ == harmful
    np.testing.assert_allclose(gate.harm_score(X, language=language), expected)


@pytest.mark.parametrize(("harmless", "harmful"), SPELLINGS)
def test_metrics_take_the_same_spellings(rows, expected, harmless, harmful):
    """Reports and Displays find the same class as the gate."""
    _, y, language = rows
    labels, called = text(y, harmless, harmful), text((expected > 0).astype(int), harmless, harmful)
    plain = language_report(y, (expected > 0).astype(int), expected, language=language, fprs=())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = language_report(labels, called, expected, language=language, fprs=())
        pd.testing.assert_frame_equal(found, plain)
        assert refusal_selectivity(labels, expected > 0) == refusal_selectivity(y, expected > 0)
        display = ProjectionDisplay.from_predictions(labels, expected)
    assert (display.frame_["prompts"] == "harmful").sum() == y.sum()


@every_form
def test_metrics_take_the_same_forms(rows, expected, form):
    """``language_report`` reads every form that ``fit`` reads."""
    _, y, language = rows
    plain = language_report(y, (expected > 0).astype(int), expected, language=language, fprs=())
    called = FORMS[form]((expected > 0).astype(int))
    found = language_report(FORMS[form](y), called, expected, language=language, fprs=())
    pd.testing.assert_frame_equal(found, plain)


UNTOLD = [(1, 2), (2, 1), (1.0, 2.0), (2, 3), (0, 2), (-1, 0), ("1", "2")]
every_untold = pytest.mark.parametrize("values", UNTOLD)


@every_untold
def test_labels_that_do_not_say_which_is_harmful_warn(rows, values):
    """With 1 and 2, ``classes_[1]`` is harmful, as scikit-learn's positive class is.

    The warning names ``y``, both values and ``harmful_label``.
    """
    _, y, _ = rows
    labels = np.array(values)[y]
    with pytest.warns(UserWarning, match=r"(?s)harmful_label.*\by\b.*Set harmful_label") as caught:
        gate = fit(rows, labels)
    assert len(caught) == 1
    for value in values:
        assert str(value) in str(caught[0].message)
    assert gate.harmful_label_ == gate.classes_[1] == max(values)


@every_untold
def test_metrics_warn_of_the_same_labels(rows, values):
    """Metrics and Displays take the same class, and say so."""
    _, y, _ = rows
    labels, refused = np.array(values)[y], y.astype(bool)
    with pytest.warns(UserWarning, match=r"(?s)pos_label.*\by_true\b.*Set pos_label"):
        found = refusal_selectivity(labels, refused)
    assert found == (1.0 if max(values) == values[1] else -1.0)


@pytest.mark.parametrize("values", [(0, 1), (-1, 1), (0.0, 1.0), (False, True)])
def test_labels_that_say_which_is_harmful_by_themselves(rows, expected, values):
    """1 beside 0 or -1, True beside False, without a warning."""
    X, y, language = rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate = fit(rows, np.array(values)[y])
    assert gate.harmful_label_ == values[1]
    np.testing.assert_allclose(gate.harm_score(X, language=language), expected)


@pytest.mark.parametrize("harmful_label", [1, 2])
def test_labels_that_are_told_apart_by_harmful_label(rows, expected, harmful_label):
    """Either may be the harmful one, if ``harmful_label`` says so."""
    X, y, language = rows
    gate = fit(rows, np.where(y, harmful_label, 3 - harmful_label), harmful_label=harmful_label)
    np.testing.assert_allclose(gate.harm_score(X, language=language), expected)


MISSING = {
    "none_among_texts": lambda y: np.where(np.arange(len(y)) == 3, None, text(y)),
    "none_among_bools": lambda y: np.where(np.arange(len(y)) == 3, None, y.astype(bool)),
    "none_in_a_list": lambda y: [None if i == 3 else v for i, v in enumerate(text(y))],
    "none_in_a_series": lambda y: pd.Series(
        [None if i == 3 else v for i, v in enumerate(y)], dtype=object
    ),
    "nan_among_floats": lambda y: np.where(np.arange(len(y)) == 3, np.nan, y),
    "nan_among_texts": lambda y: np.where(np.arange(len(y)) == 3, np.nan, text(y)),
    "NA_in_string": lambda y: pd.Series(text(y), dtype="string").mask(np.arange(len(y)) == 3),
    "NA_in_boolean": lambda y: pd.Series(y.astype(bool), dtype="boolean").mask(
        np.arange(len(y)) == 3
    ),
    "NA_in_Int64": lambda y: pd.Series(y, dtype="Int64").mask(np.arange(len(y)) == 3),
    "nan_in_a_category": lambda y: (
        pd.Series(text(y)).mask(np.arange(len(y)) == 3).astype("category")
    ),
    "null_in_polars": lambda y: pl.Series(
        [None if i == 3 else v for i, v in enumerate(text(y).tolist())]
    ),
}
every_gap = pytest.mark.parametrize("gap", MISSING)


@every_gap
def test_a_missing_label_names_its_row(rows, gap):
    """Errors say "y[3]", not "Unknown label type: unknown"."""
    _, y, _ = rows
    with pytest.raises(ValueError, match=r"\by\[3\]"):
        fit(rows, MISSING[gap](y))


@every_gap
def test_a_missing_label_among_shots_names_its_row(rows, gap):
    """In ``partial_fit`` too, and nothing is learned."""
    X, y, _ = rows
    gate = fit(rows, text(y) if "text" in gap or "string" in gap or "polars" in gap else y)
    before = gate.languages_.tolist()
    with pytest.raises(ValueError, match=r"\by\[3\]"):
        gate.partial_fit(X[:6], MISSING[gap](y)[:6], language="sw")
    assert gate.languages_.tolist() == before


def test_a_missing_label_keeps_its_place_in_a_shuffled_series(rows):
    """The row is the place, as in "X[500]", whatever the index."""
    X, y, language = rows
    labels = pd.Series(text(y), index=np.arange(len(y))[::-1])
    labels.iloc[7] = None
    with pytest.raises(ValueError, match=r"\by\[7\]"):
        LatentGate().fit(X, labels, language=language)


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["harmful", "harmless", "unsure"], "unsure"),
        ([True, False, "harmful"], "harmful"),
        ([0, 1, -1], "-1"),
        (["Harmful", "harmful", "harmless"], "Harmful"),
    ],
)
def test_other_labels_name_y_value_and_what_was_expected(rows, labels, shown):
    """A third label, mixed types or two spellings at once are named."""
    X, y, language = rows
    values = np.array(labels, dtype=object)[np.arange(len(y)) % 3]
    with pytest.raises(ValueError, match=r"(?s)\by\b.*expected") as caught:
        LatentGate().fit(X, values, language=language)
    assert shown in str(caught.value)


@pytest.mark.parametrize("form", ["object_bools", "string", "polars_texts", "category"])
def test_wrappers_take_the_same_labels(form, tokenizer):
    """``SteeringWrapper.fit``, ``partial_fit`` and ``score``."""

    class Words:
        def is_refusal(self, replies, prompts=None, language=None):
            return np.array(["who" in reply for reply in replies])

    model = let_harmful_words_share(make_model("llama"), tokenizer)

    def fitted(labels):
        pipeline = make_pipeline(
            ActivationTransformer(model, tokenizer=tokenizer, layer=1), LatentGate()
        )
        wrapper = SteeringWrapper(pipeline, judge=Words(), generate_kwargs=GREEDY, strength=1.0)
        wrapper.fit(PROMPTS, labels(Y), language=LANGUAGE)
        return wrapper.partial_fit(PROMPTS[10:20], labels(Y[10:20]), language="sw")

    found, plain = fitted(FORMS[form]), fitted(np.asarray)
    np.testing.assert_array_equal(
        found.predict(PROMPTS, language="sw") == found.gate_[-1].harmful_label_,
        plain.predict(PROMPTS, language="sw") == 1,
    )
    assert found.score(PROMPTS, FORMS[form](Y)) == plain.score(PROMPTS, Y)
