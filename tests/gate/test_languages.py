"""Calibrated languages: promises as properties, unlabelled prompts, detection, merging."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import replace
from enum import Enum

import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shifted import SOURCES, D, draw, draw_sources, place, pooled_gate

from skgate import LatentGate
from skgate.gate import _calibration, _shift_sampler
from skgate.gate._calibration import Calibrator
from skgate.gate._scores import LabelledScores
from skgate.gate._shift_posterior import ShiftModel
from skgate.gate._shift_prior import ShiftPrior
from skgate.gate._shift_sampler import adapt
from skgate.steering._router import gate_version

some = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 10_000)
PRIOR = ShiftPrior(
    boundary=0.0,
    gap=4.0,
    spread=np.ones(2),
    shift=0.3,
    squeeze=0.1,
    near=0.9,
    misfit=0.05,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Got harmful shots alone"),
    pytest.mark.filterwarnings("ignore:The scores of harmful and harmless prompts"),
]


@pytest.fixture(scope="module")
def rows():
    return draw_sources(np.random.default_rng(0))


@pytest.fixture(scope="module")
def gate(rows):
    X, y, language = rows
    return pooled_gate().fit(X, y, language=language)


def balanced_accuracy(gate, X, y, language):
    called = gate.predict(X, language=language)
    return np.mean([np.mean(called[y == label] == label) for label in (0, 1)])


def bias(gate, name):
    return float(gate.language_bias_[gate.languages_ == name][0])


# Promises


@some
@given(seed=seeds, cuts=st.lists(st.integers(0, 12), max_size=4))
def test_the_order_and_the_calls_do_not_matter(gate, seed, cuts):
    rng = np.random.default_rng(seed)
    X, y = draw(rng, 6, rng.normal())
    at_once = deepcopy(gate).partial_fit(X, y, language="sw").adapt(X + 0.1, language="sw")
    apart = deepcopy(gate).adapt(X + 0.1, language="sw")
    order = rng.permutation(len(X))
    for part in np.split(order, sorted(cuts)):
        if len(part):
            apart.partial_fit(X[part], y[part], language="sw")
    assert bias(apart, "sw") == pytest.approx(bias(at_once, "sw"), abs=1e-6)
    np.testing.assert_array_equal(apart.n_shots_, at_once.n_shots_)


@some
@given(seed=seeds, label=st.sampled_from([0, 1]), n=st.integers(1, 20))
def test_shots_of_one_class_alone_move_the_boundary_their_way(gate, seed, label, n):
    """Prompts that score lower than those of their class elsewhere lower the boundary."""
    X, _ = draw(np.random.default_rng(seed), n)
    X = X[: n or 1].copy()
    X[:, 0] = (label - 0.5) * 2 - 6.0
    moved = deepcopy(gate).partial_fit(X, np.full(len(X), label), language="sw")
    assert bias(moved, "sw") > 0
    assert moved.n_shots_[moved.languages_ == "sw"].tolist() == [[(1 - label) * n, label * n]]


@some
@given(seed=seeds)
def test_the_names_of_the_languages_do_not_matter(rows, seed):
    X, y, language = rows
    rng = np.random.default_rng(seed)
    names = dict(zip(SOURCES, rng.permutation(SOURCES), strict=True))
    shots = draw(rng, 2, 1.0)
    plain = LatentGate().fit(X, y, language=language).partial_fit(*shots, language="sw")
    renamed = LatentGate().fit(X, y, language=[names[name] for name in language])
    renamed.partial_fit(*shots, language="zz")
    assert bias(renamed, "zz") == pytest.approx(bias(plain, "sw"), abs=1e-6)
    for old, new in names.items():
        assert bias(renamed, new) == pytest.approx(bias(plain, old), abs=1e-6)


@some
@given(seed=seeds)
def test_swapped_labels_change_the_sign_alone(rows, seed):
    X, y, language = rows
    X_shots, y_shots = draw(np.random.default_rng(seed), 2, 1.0)
    plain = LatentGate().fit(X, y, language=language).partial_fit(X_shots, y_shots, language="sw")
    swapped = LatentGate(harmful_label=0).fit(X, 1 - y, language=language)
    swapped.partial_fit(X_shots, 1 - y_shots, language="sw")
    np.testing.assert_allclose(
        swapped.decision_function(X, language="sw"), -plain.decision_function(X, language="sw")
    )
    np.testing.assert_allclose(swapped.language_bias_, -plain.language_bias_)
    np.testing.assert_allclose(swapped.bias_interval_, -plain.bias_interval_[:, ::-1])
    np.testing.assert_allclose(swapped.language_scale_, plain.language_scale_)


@some
@given(seed=seeds, factor=st.sampled_from([1e-3, 0.5, 7.0, 1e4]))
def test_the_scale_of_the_activations_does_not_matter(rows, seed, factor):
    X, y, language = rows
    rng = np.random.default_rng(seed)
    (X_shots, y_shots), (X_more, _) = draw(rng, 2, 1.0), draw(rng, 10, 1.0)
    gates = []
    for scale in (1.0, factor):
        gate = LatentGate().fit(scale * X, y, language=language)
        gate.partial_fit(scale * X_shots, y_shots, language="sw")
        gates.append(gate.adapt(scale * X_more, language="sw"))
    np.testing.assert_allclose(gates[0].language_bias_, gates[1].language_bias_, atol=1e-4)
    np.testing.assert_allclose(
        gates[0].predict_language_proba(X[:5]),
        gates[1].predict_language_proba(factor * X[:5]),
        atol=1e-6,
    )


@pytest.mark.parametrize("calibration", ["shrinkage", "refit", "threshold", None])
def test_bias_and_scale_say_what_a_language_does_to_the_pooled_score(rows, calibration):
    X, y, language = rows
    gate = LatentGate(calibration=calibration).fit(X, y, language=language)
    if calibration != "refit":  # which moves the coefficients as well
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            gate.partial_fit(*draw(np.random.default_rng(1), 3, 1.0), language="sw")
            gate.partial_fit(*draw(np.random.default_rng(2), 3, 0.5))  # the pooled source
    pooled = X @ gate.coef_[0] + gate.intercept_
    for i, name in enumerate(gate.languages_):
        expected = gate.language_scale_[i] * (pooled + gate.language_bias_[i])
        np.testing.assert_allclose(gate.decision_function(X, language=name), expected, atol=1e-8)


def test_intervals_are_around_the_bias_and_narrow_with_shots(gate):
    rng = np.random.default_rng(3)
    X, y = draw(rng, 64, -1.0, 0.6)
    widths = []
    for n in (2, 8, 32, 128):
        known = deepcopy(gate).partial_fit(X[:n], y[:n], language="sw")
        (low, high), middle = known.bias_interval_[known.languages_ == "sw"][0], bias(known, "sw")
        assert low < middle < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    rule = LatentGate(calibration="threshold").fit(*draw(rng, 40))
    assert np.isnan(rule.partial_fit(X, y, language="sw").bias_interval_).all()


def test_few_shots_make_probabilities_cautious(gate):
    X, y = draw(np.random.default_rng(4), 64, -1.0)
    few, many = (deepcopy(gate).partial_fit(X[:n], y[:n], language="sw") for n in (2, 128))
    np.testing.assert_array_less(few.language_scale_[-1], many.language_scale_[-1])


# Harmless prompts alone


def test_harmless_prompts_alone_mend_a_shifted_and_squeezed_language(gate):
    gains = []
    for seed in range(10):
        rng = np.random.default_rng([5, seed])
        shift = rng.choice([-2.0, 2.0])
        X, y = draw(rng, 8, shift, 0.6)
        X_test, y_test = draw(rng, 300, shift, 0.6)
        known = deepcopy(gate).partial_fit(X[y == 0], y[y == 0], language="sw")
        before = balanced_accuracy(gate, X_test, y_test, None)
        gains.append(balanced_accuracy(known, X_test, y_test, "sw") - before)
    assert np.mean(gains) > 0.1


# Unlabelled prompts


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_unlabelled_prompts_mend_a_shifted_language(gate, share):
    before, after = [], []
    for seed in range(8):
        rng = np.random.default_rng([6, seed])
        X, y = draw(rng, 80, -2.0, 0.8)
        n = round(64 * share)
        traffic = np.concatenate([X[y == 0][: 64 - n], X[y == 1][:n]])
        X_test, y_test = draw(rng, 300, -2.0, 0.8)
        adapted = deepcopy(gate).adapt(traffic, language="sw")
        assert adapted.n_unlabelled_.tolist() == [0, 0, 0, 0, 64]
        assert adapted.n_shots_.sum() == 0
        before.append(balanced_accuracy(gate, X_test, y_test, None))
        after.append(balanced_accuracy(adapted, X_test, y_test, "sw"))
    assert np.mean(after) > np.mean(before) + 0.1


def test_all_harmless_traffic_is_recognised_and_told(gate):
    X, y = draw(np.random.default_rng(7), 300, -1.0)
    with pytest.warns(UserWarning, match=r"none of the unlabelled prompts of language 'sw'"):
        adapted = deepcopy(gate).adapt(X[y == 0], language="sw")
    X_test, y_test = draw(np.random.default_rng(8), 300, -1.0)
    assert balanced_accuracy(adapted, X_test, y_test, "sw") > 0.9


def test_shots_and_unlabelled_prompts_count_together(gate):
    X, y = draw(np.random.default_rng(9), 40, -2.0)
    both = deepcopy(gate).partial_fit(X[:4], y[:4], language="sw").adapt(X[4:], language="sw")
    shots, unlabelled = (
        deepcopy(gate).partial_fit(X[:4], y[:4], language="sw"),
        deepcopy(gate).adapt(X[4:], language="sw"),
    )
    width = [np.ptp(one.bias_interval_[-1]) for one in (both, shots, unlabelled)]
    assert width[0] < min(width[1:])
    assert both.n_shots_[-1].sum() == 4
    assert both.n_unlabelled_[-1] == 76


def test_many_unlabelled_prompts_are_condensed_without_loss(gate):
    X, y = draw(np.random.default_rng(10), 4000, -2.0)
    adapted = deepcopy(gate).adapt(X, language="sw")
    sample = deepcopy(gate).adapt(X[:512], language="sw")
    tenth = 0.1 * gate.coef_[0, 0]  # of a standard deviation within a class
    assert bias(adapted, "sw") == pytest.approx(bias(sample, "sw"), abs=2 * tenth)
    assert adapted.score(X, y, "sw") > gate.set_params(unknown_language="source").score(X, y) + 0.1


def test_only_shrinkage_learns_without_labels(rows):
    X, y, language = rows
    gate = LatentGate(calibration="refit").fit(X, y, language=language)
    with pytest.raises(ValueError, match=r"Got calibration='refit', expected 'shrinkage'"):
        gate.adapt(X, "sw")


# Languages told from activations


@pytest.fixture(scope="module")
def placed(rows):
    """A gate that detects languages, calibrated on two with opposite shifts, and test rows."""
    X, y, language = rows
    gate = LatentGate(unknown_language="detect").fit(X, y, language=language)
    test = {}
    for name, shift in (("sw", 3.0), ("yo", -3.0)):
        gate.partial_fit(*draw(np.random.default_rng(11), 2, shift, place=place(name)), name)
        test[name] = draw(np.random.default_rng(12), 200, shift, place=place(name))
    return gate, test


def test_no_language_given_is_almost_as_good(placed):
    gate, test = placed
    for name, (X, y) in test.items():
        given = balanced_accuracy(gate, X, y, name)
        assert balanced_accuracy(gate, X, y, None) > given - 0.01
        pooled = deepcopy(gate).set_params(unknown_language="source")
        assert balanced_accuracy(pooled, X, y, None) < given - 0.1


def test_languages_are_told_apart(placed):
    gate, test = placed
    for name, (X, _) in test.items():
        proba = gate.predict_language_proba(X)
        assert proba.shape == (len(X), len(gate.languages_) + 1)
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        found = gate.languages_[proba[:, :-1].argmax(axis=1)]
        assert (found == name).mean() > 0.95


def test_an_unseen_language_is_flagged_and_gets_the_pooled_boundary(placed):
    gate, _ = placed
    X, _ = draw(np.random.default_rng(13), 100, place=place("somewhere else"))
    assert (gate.predict_language_proba(X)[:, -1] > 0.5).mean() > 0.9
    with pytest.warns(
        UserWarning, match=r"of 200 prompts look like none of the languages that the gate"
    ):
        detected = gate.predict(X)
    with pytest.warns(UserWarning, match="of 50 prompts look like none"):
        gate.predict(X, language=[None, "sw", "yo", "sw"] * 50)
    pooled = deepcopy(gate).set_params(unknown_language="source").predict(X)
    assert (detected == pooled).mean() > 0.98
    with pytest.warns(UserWarning, match=r"\['ha'\], which the gate has never seen.*resemble"):
        np.testing.assert_array_equal(gate.predict(X, language="ha"), detected)


def test_between_two_languages_the_answer_is_between_theirs(placed):
    gate, _ = placed
    X, _ = draw(np.random.default_rng(14), 100, place=(place("sw") + place("yo")) / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mixed = gate.predict_proba(X)[:, 1]
    either = np.column_stack(
        [gate.predict_proba(X, language=name)[:, 1] for name in gate.languages_]
        + [gate.language_book_.calibrator.unseen().probe(gate.language_book_.readout.features(X))]
    )
    either[:, -1] = 1 / (1 + np.exp(-either[:, -1]))
    assert (mixed >= either.min(axis=1) - 1e-9).all()
    assert (mixed <= either.max(axis=1) + 1e-9).all()


def test_shots_without_a_language_have_a_place_of_their_own(rows):
    X, y, language = rows
    gate = LatentGate(unknown_language="detect").fit(X, y, language=language)
    X_shots, y_shots = draw(np.random.default_rng(15), 8, -3.0, place=place("nameless"))
    gate.partial_fit(X_shots, y_shots)
    X_test, y_test = draw(np.random.default_rng(16), 100, -3.0, place=place("nameless"))
    assert gate.score(X_test, y_test) > 0.9
    assert (gate.predict_language_proba(X_test)[:, -1] > 0.9).all()


def test_without_languages_there_is_nothing_to_detect(rows):
    X, y, _ = rows
    plain = pooled_gate().fit(X, y)
    detecting = LatentGate(unknown_language="detect").fit(X, y)
    np.testing.assert_array_equal(plain.decision_function(X), detecting.decision_function(X))
    assert detecting.predict_language_proba(X).tolist() == [[1.0]] * len(X)


# Which prompts to label


def test_suggested_prompts_are_spread_over_the_scores(gate):
    X, _ = draw(np.random.default_rng(0), 50)
    rank = gate.harm_score(X, language="de").argsort().argsort()
    assert rank[gate.suggest(X, language="de", n=4)].tolist() == [12, 37, 62, 87]
    assert rank[gate.suggest(X, language="de", n=100)].tolist() == list(range(100))
    assert gate.suggest(np.zeros((3, D)), language="de", n=2).tolist() == [0, 2]


def test_labels_of_suggested_prompts_are_worth_more_than_random_ones(gate):
    errors = {"suggested": [], "random": []}
    for seed in range(15):
        rng = np.random.default_rng([17, seed])
        X, y = draw(rng, 100, -1.5)
        pool = np.flatnonzero((y == 0) | (np.arange(200) < 40))  # 20 of 120 harmful
        X, y = X[pool], y[pool]
        for way, rows in {
            "suggested": gate.suggest(X, "sw", n=6),
            "random": rng.choice(len(X), 6, replace=False),
        }.items():
            known = deepcopy(gate).partial_fit(X[rows], y[rows], language="sw")
            truth = -float(gate.decision_function(np.eye(D)[:1] * -1.5)[0])
            errors[way].append(abs(bias(known, "sw") - truth))
    assert np.mean(errors["suggested"]) < 0.8 * np.mean(errors["random"])


@pytest.mark.parametrize("n", [0, 13, 1.5])
def test_a_bad_number_of_suggestions(gate, n):
    with pytest.raises((ValueError, TypeError), match="n"):
        gate.suggest(np.zeros((12, D)), "sw", n=n)


# Forgetting and merging


def test_forgetting_leaves_the_gate_as_it_was(gate):
    rng = np.random.default_rng(18)
    changed = deepcopy(gate)
    for language in ("sw", "en", None):
        changed.partial_fit(*draw(rng, 3, 1.0), language=language)
    changed.adapt(draw(rng, 20)[0], language="yo")
    changed.forget(["sw", "yo"]).forget("en").forget(None)
    X, _ = draw(rng, 20)
    np.testing.assert_array_equal(changed.languages_, gate.languages_)
    np.testing.assert_array_equal(changed.language_bias_, gate.language_bias_)
    np.testing.assert_array_equal(changed.decision_function(X), gate.decision_function(X))
    assert changed.n_shots_.sum() == 0
    for name in ("sw", "en"):
        with pytest.raises(ValueError, match=rf"'{name}', which has neither shots nor unlabelled"):
            changed.forget(name)


def test_merged_gates_know_the_languages_of_both(gate):
    rng = np.random.default_rng(19)
    shots = {name: draw(rng, 3, shift) for name, shift in (("sw", 1.0), ("yo", -1.0), ("en", 0.3))}
    first, second = deepcopy(gate), deepcopy(gate)
    first.partial_fit(*shots["sw"], language="sw").partial_fit(*shots["en"], language="en")
    second.partial_fit(*shots["yo"], language="yo").adapt(shots["sw"][0], language="ha")
    both = first.merge(second)
    other_way = second.merge(first)
    assert both.languages_.tolist() == sorted([*SOURCES, "ha", "sw", "yo"])
    np.testing.assert_allclose(both.language_bias_, other_way.language_bias_, rtol=1e-12)
    np.testing.assert_array_equal(both.n_shots_, other_way.n_shots_)
    assert "yo" not in first.languages_
    assert bias(both, "en") == bias(first, "en") != bias(second, "en")
    np.testing.assert_array_equal(both.merge(second).language_bias_, both.language_bias_)


def test_merging_says_what_does_not_fit(gate, rows, tmp_path):
    X, y, language = rows
    rng = np.random.default_rng(20)
    first = deepcopy(gate).partial_fit(*draw(rng, 3), language="sw")
    with pytest.raises(ValueError, match=r"Got different prompts of language 'sw'"):
        first.merge(deepcopy(gate).partial_fit(*draw(rng, 3), language="sw"))
    with pytest.raises(ValueError, match=r"other source rows or with other parameters"):
        first.merge(LatentGate().fit(X + 1, y, language=language))
    with pytest.raises(ValueError, match=r"other source rows or with other parameters"):
        first.merge(LatentGate(calibration="refit").fit(X, y, language=language))
    with pytest.raises(TypeError, match=r"Got other of type str"):
        first.merge("gate")
    joblib.dump(first, tmp_path / "gate.joblib")
    again = first.merge(joblib.load(tmp_path / "gate.joblib"))
    np.testing.assert_array_equal(again.n_shots_, first.n_shots_)


def test_a_source_language_of_two_rows_does_not_spoil_the_prior(rows):
    X, y, language = rows
    few = (language != "de") | (np.arange(len(y)) < 2)
    gate = LatentGate().fit(X[few], y[few], language=language[few])
    prior = gate.language_book_.calibrator.shifts.prior
    assert 0.1 < prior.shift < 1.5
    assert 0.05 < prior.squeeze < 1
    same = np.repeat(X[:1], 4, axis=0)  # a language that tells nothing
    gate = LatentGate().fit(
        np.concatenate([X, same]), np.append(y, [0, 1, 0, 1]), np.append(language, ["xx"] * 4)
    )
    assert np.isfinite(gate.language_book_.calibrator.shifts.prior.shift)


def test_a_call_that_fails_changes_nothing(rows):
    X, y, language = rows
    gate = LatentGate(calibration="threshold").fit(X, y, language=language)
    bad = draw(np.random.default_rng(21), 2)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Calibrator, "calibrate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gate.partial_fit(bad, [0, 1, 0, 1], language="sw")
    assert gate.languages_.tolist() == SOURCES
    before = dict(gate.__dict__)
    with pytest.raises(ValueError, match="expected activations that differ"):
        gate.fit(np.ones((4, 3)), [0, 1, 0, 1])
    assert gate.__dict__ == before
    gate.partial_fit(bad, [0, 1, 0, 1], language="sw")
    assert gate.n_shots_[-1].tolist() == [2, 2]
    assert gate.forget(["sw", "sw"]).languages_.tolist() == SOURCES


def test_a_further_language_leaves_a_source_without_a_name_alone(rows):
    X, y, _ = rows
    gate = LatentGate().fit(X, y)
    before = gate.predict(X)
    gate.partial_fit(*draw(np.random.default_rng(22), 4, -3.0, place=place("far")), language="sw")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its four languages are far apart
        assert (gate.predict(X) == before).mean() > 0.97
    assert gate.forget("sw").languages_.tolist() == []


def test_the_same_shots_in_another_order_merge(gate):
    X, y = draw(np.random.default_rng(23), 4)
    first = deepcopy(gate).partial_fit(X, y, language="sw")
    second = deepcopy(gate).partial_fit(X[::-1], y[::-1], language="sw")
    assert first.merge(second).n_shots_[-1].tolist() == [4, 4]
    with pytest.raises(ValueError, match="Got different prompts of language 'sw'"):
        first.merge(deepcopy(gate).partial_fit(X[:4], y[:4], language="sw"))


def test_the_gates_version_tells_gates_apart_that_decide_differently(placed):
    gate, _ = placed
    other = deepcopy(gate)
    assert gate_version(other) == gate_version(gate)
    other.set_params(unknown_language="source")
    assert gate_version(other) != gate_version(gate)
    X, y = draw(np.random.default_rng(24), 2, place=place("elsewhere"))
    nameless = deepcopy(gate).partial_fit(X, y)
    assert gate_version(nameless) != gate_version(gate)
    moved = deepcopy(gate).set_params(calibration="shrinkage")
    book = moved.language_book_
    moved.language_book_ = replace(book, evidence={**book.evidence, "sw": book.evidence["yo"]})
    assert gate_version(moved) != gate_version(gate)
    shot = LatentGate(calibration="refit").fit(X, y)
    assert gate_version(shot) != gate_version(shot.partial_fit(X + 1, y, language="sw"))


def test_the_detector_counts_a_weight_of_2_as_two_rows_whatever_their_order():
    X, y, language = draw_sources(np.random.default_rng(25), 700)
    weight = np.random.default_rng(26).integers(1, 4, len(X))
    weighted = LatentGate(rank=2).fit(X, y, language=language, sample_weight=weight)
    rows = np.random.default_rng(27).permutation(np.repeat(np.arange(len(X)), weight))
    repeated = LatentGate(rank=2).fit(X[rows], y[rows], language=language[rows])
    np.testing.assert_allclose(
        weighted.predict_language_proba(X), repeated.predict_language_proba(X), atol=1e-6
    )


@pytest.mark.parametrize("method", ["operating_point", "suggest"])
def test_one_language_is_one_string(gate, method):
    arguments = {"target_fpr": 0.1} if method == "operating_point" else {"X": np.zeros((9, D))}
    with pytest.raises(TypeError, match=r"Got language=\['sw'\] of type list, expected one str"):
        getattr(gate, method)(language=["sw"], **arguments)


def test_forget_lists_shots_without_a_language(gate):
    X, y = draw(np.random.default_rng(28), 2)
    calibrated = deepcopy(gate).partial_fit(X, y)
    with pytest.raises(ValueError, match=r"expected one of \[None\]"):
        calibrated.forget("sw")


def test_a_column_of_languages_that_is_not_used_is_not_checked(rows):
    X, y, language = rows
    with_column = np.column_stack([X.astype(object), language])
    gate = LatentGate(language_column=-1).fit(with_column, y)
    nameless = with_column.copy()
    nameless[:, -1] = None
    found = gate.predict_language_proba(nameless)
    np.testing.assert_array_equal(found, gate.predict_language_proba(with_column))
    np.testing.assert_array_equal(gate.suggest(nameless, n=3), gate.suggest(with_column, n=3))


def test_languages_may_be_an_enumeration(gate):
    class Language(str, Enum):  # noqa: UP042 - str() of it is its name
        SWAHILI = "sw"

    X, y = draw(np.random.default_rng(29), 2)
    calibrated = deepcopy(gate).partial_fit(X, y, language=Language.SWAHILI)
    assert "sw" in calibrated.languages_


@pytest.mark.parametrize("n_harmful", [1, 2])
@pytest.mark.parametrize("n_harmless", [1, 60])
@pytest.mark.parametrize("with_language", [True, False])
@pytest.mark.parametrize("weight", [1.0, 1e-4])
def test_sources_too_few_to_tell_a_spread_leave_shots_their_effect(
    rows, n_harmful, n_harmless, with_language, weight
):
    X, y, language = rows
    few = np.concatenate(
        [
            np.flatnonzero((language == name) & (y == label))[:n]
            for name in (SOURCES if with_language else SOURCES[:1])
            for label, n in ((0, n_harmless), (1, n_harmful))
        ]
    )
    gate = pooled_gate(rank=10, C=1.0).fit(
        X[few],
        y[few],
        language=language[few] if with_language else None,
        sample_weight=np.full(len(few), weight),
    )
    gate.partial_fit(*draw(np.random.default_rng(30), 8, 3.0), language="sw")
    X, y = draw(np.random.default_rng(31), 100, 3.0)
    assert bias(gate, "sw") != 0
    assert gate.score(X, y, language="sw") > 0.8
    probabilities = gate.predict_proba(X, language="sw")
    assert -np.log(probabilities[np.arange(len(y)), y]).mean() < 0.6


def test_equal_rows_tell_no_spread(rows):
    X, y, language = rows
    few = [np.flatnonzero((language == name) & (y == 1))[:1].repeat(5) for name in SOURCES]
    few = np.concatenate([*few, np.flatnonzero(y == 0)])
    gate = pooled_gate().fit(X[few], y[few], language=language[few])
    gate.partial_fit(*draw(np.random.default_rng(30), 8, 3.0), language="sw")
    X, y = draw(np.random.default_rng(31), 100, 3.0)
    assert gate.score(X, y, language="sw") > 0.8


@pytest.mark.parametrize("n_per_class", [2, 4, 16])
def test_few_source_rows_do_not_make_strangers_of_their_own_language(n_per_class):
    rng = np.random.default_rng(32)
    middle = {name: rng.normal(0, 0.5, size=256) for name in SOURCES}

    def draw_wide(n):
        y, language = np.tile([0, 1], n * len(SOURCES)), np.repeat(SOURCES, 2 * n)
        X = rng.normal(size=(len(y), 256)) + np.stack([middle[name] for name in language])
        X[:, 0] += 6 * y
        return X, y, language

    X, y, language = draw_wide(n_per_class)
    gate = LatentGate().fit(X, y, language=language)
    X, _, language = draw_wide(50)
    found = gate.predict_language_proba(X).argmax(axis=1)
    assert (found == len(SOURCES)).mean() < 0.25
    assert (np.array([*SOURCES, ""])[found] == language).mean() > 0.6


@pytest.mark.parametrize(
    ("shift", "squeeze", "width", "n"), [(10, 0.6, 1, 512), (-3, 1, 0.2, 300), (60, 1, 1, 200)]
)
def test_adapting_to_a_far_language_does_not_hang_on_the_draws(
    monkeypatch, shift, squeeze, width, n
):
    rng = np.random.default_rng(5)
    y = rng.random(n) < 0.5
    scores = shift + (y - 0.5) * PRIOR.gap * squeeze * width + width * rng.normal(size=n)
    found = []
    for seed in range(4):
        draws = np.random.default_rng(seed)
        monkeypatch.setattr(np.random, "default_rng", lambda _, draws=draws: draws)
        found.append(adapt(ShiftModel(PRIOR), LabelledScores.none(), scores).shift)
        monkeypatch.undo()
    boundaries = np.array([one.boundary for one in found])
    deviation = np.mean([one.deviation for one in found])
    assert np.ptp(boundaries) < deviation / 4
    assert abs(boundaries.mean() - shift) < 3 * deviation


def test_sampling_that_never_converges_warns(gate, monkeypatch):
    none, scores = LabelledScores.none(), np.random.default_rng(33).normal(size=50)
    assert adapt(ShiftModel(PRIOR), none, scores).settled
    with monkeypatch.context() as few:
        few.setattr(_shift_sampler, "_MOST_ROUNDS", 1)
        astray = adapt(ShiftModel(PRIOR), none, 9 + 0.1 * scores)
    assert not astray.settled
    monkeypatch.setattr(_calibration, "adapt", lambda *_: astray._replace(none_harmful=0.0))
    X, _ = draw(np.random.default_rng(33), 20)
    with pytest.warns(UserWarning, match="'sw' may be wrong: .* did not converge") as found:
        deepcopy(gate).adapt(X, language="sw")
    assert [one.filename for one in found] == [__file__]
