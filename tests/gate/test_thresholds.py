"""Decision boundaries, against slow literal transcriptions of METHOD.md section 3."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from shifted import pooled_gate

from skgate.gate._thresholds import balanced_f1_threshold, round_scores

exhaustive = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Got harmful shots alone"),
    pytest.mark.filterwarnings("ignore:The scores of harmful and harmless prompts"),
]


def literal_threshold(scores, harmful):
    """METHOD.md section 3, word for word; F1 values are exact fractions."""
    scores, harmful = [float(s) for s in scores], [bool(h) for h in harmful]
    n_harmful, n_harmless = harmful.count(True), harmful.count(False)
    distinct = sorted(set(scores))
    candidates = [min(scores) - 1e-6]
    candidates += [(low + high) / 2 for low, high in pairwise(distinct)]
    candidates += [max(scores) + 1e-6]
    best, chosen = Fraction(-1), None
    for candidate in candidates:
        tp = fp = fn = Fraction(0)
        for score, is_harmful in zip(scores, harmful, strict=True):
            called_harmful = score > candidate
            if is_harmful and called_harmful:
                tp += Fraction(1, 2 * n_harmful)
            elif is_harmful:
                fn += Fraction(1, 2 * n_harmful)
            elif called_harmful:
                fp += Fraction(1, 2 * n_harmless)
        f1 = 2 * tp / (2 * tp + fp + fn)
        if f1 > best:
            best, chosen = f1, candidate
    return chosen


def literal_probe(z, y):
    """The convex problem at C=1, by Newton's method; a function that scores rows of z."""
    mean, deviation = z.mean(axis=0), z.std(axis=0)
    A = np.column_stack([(z - mean) / deviation, np.ones(len(z))])
    sign = np.where(y == 1, 1.0, -1.0)
    weight = np.where(y == 1, len(y) / (2 * (y == 1).sum()), len(y) / (2 * (y == 0).sum()))
    penalty = np.append(np.ones(z.shape[1]), 0.0)

    def loss(w):
        return weight @ np.logaddexp(0, -sign * (A @ w)) + penalty @ w**2 / 2

    def gradient(w):
        return A.T @ (-sign * weight / (1 + np.exp(sign * (A @ w)))) + penalty * w

    def hessian(w):
        p = 1 / (1 + np.exp(-A @ w))
        return (A.T * (weight * p * (1 - p))) @ A + np.diag(penalty)

    start = np.zeros(A.shape[1])
    # The tolerance may be finer than the loss can be told apart: it need not be declared met.
    found = minimize(
        loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-10}
    )
    assert np.abs(gradient(found.x)).max() < 1e-5
    return lambda rows: (rows - mean) / deviation @ found.x[:-1] + found.x[-1]


def literal_basis(X, y, language, rank):
    units = []
    for name in sorted(set(language)):
        own = language == name
        difference = X[own & (y == 1)].mean(axis=0) - X[own & (y == 0)].mean(axis=0)
        units.append(difference / np.linalg.norm(difference))
    return np.linalg.svd(np.stack(units), full_matrices=False)[2][:rank].T


def literal_zero_shot(X, y, language, rank):
    basis = literal_basis(X, y, language, rank)
    probe = literal_probe(X @ basis, y)
    threshold = literal_threshold(probe(X @ basis), y)
    return lambda rows: probe(rows @ basis), threshold


def literal_rule_alone(X, y, language, X_shots, y_shots, rank):
    score, _ = literal_zero_shot(X, y, language, rank)
    return score, literal_threshold(score(X_shots), y_shots)


def literal_refit(X, y, language, X_shots, y_shots, rank):
    basis = literal_basis(X, y, language, rank)  # of the sources alone
    probe = literal_probe(np.vstack([X, X_shots]) @ basis, np.concatenate([y, y_shots]))
    return lambda rows: probe(rows @ basis), literal_threshold(probe(X_shots @ basis), y_shots)


LITERAL = {"refit": literal_refit, "threshold": literal_rule_alone}


def draw(rng, n_per_class, shift=0.0, gap=3.0, d=10):
    """Rows of one language, harmful along the first coordinates."""
    y = np.tile([0, 1], n_per_class)
    X = rng.normal(size=(2 * n_per_class, d))
    along = np.array([1.0, 0.4, 0.2, *np.zeros(d - 3)]) + 0.15 * rng.normal(size=d)
    return X + np.outer(y * gap + shift, along / np.linalg.norm(along)), y


def sources(rng, names=("de", "en", "es", "fr"), n_per_class=30):
    drawn = [draw(rng, n_per_class, shift=0.3 * rng.normal()) for _ in names]
    X, y = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    return X, y, np.repeat(names, 2 * n_per_class)


# The threshold rule


@exhaustive
@given(
    harmful=st.lists(st.integers(-4, 4), min_size=1, max_size=12),
    harmless=st.lists(st.integers(-4, 4), min_size=1, max_size=12),
    scale=st.sampled_from([1.0, 0.1, 1 / 3, 1e3]),
)
def test_the_threshold_equals_the_literal_one_with_heavy_ties(harmful, harmless, scale):
    scores = scale * np.array(harmful + harmless, dtype=float)
    is_harmful = np.arange(len(scores)) < len(harmful)
    found = balanced_f1_threshold(scores, is_harmful, np.ones(len(scores)))
    assert found == literal_threshold(scores, is_harmful)


@exhaustive
@given(
    harmful=st.lists(st.floats(-50, 50), min_size=1, max_size=8),
    harmless=st.lists(st.floats(-50, 50), min_size=1, max_size=8),
)
def test_the_threshold_equals_the_literal_one_on_any_scores(harmful, harmless):
    scores = np.array(harmful + harmless)
    is_harmful = np.arange(len(scores)) < len(harmful)
    found = balanced_f1_threshold(scores, is_harmful, np.ones(len(scores)))
    assert found == literal_threshold(scores, is_harmful)


@pytest.mark.parametrize(("n_harmful", "n_harmless"), [(1, 1), (1, 64), (64, 1), (3, 97), (40, 41)])
def test_the_threshold_equals_the_literal_one_with_unbalanced_classes(n_harmful, n_harmless):
    rng = np.random.default_rng([n_harmful, n_harmless])
    for digits in (0, 1, 8):
        for _ in range(10):
            is_harmful = rng.permutation(np.arange(n_harmful + n_harmless) < n_harmful)
            scores = np.round(rng.normal(size=len(is_harmful)) + is_harmful, digits)
            found = balanced_f1_threshold(scores, is_harmful, np.ones(len(scores)))
            assert found == literal_threshold(scores, is_harmful)


@pytest.mark.parametrize(
    ("harmless", "harmful", "expected"),
    [
        ([0.0], [1.0], 0.5),  # apart: between them
        ([1.0], [0.0], -1e-6),  # the wrong way round: everything is harmful
        ([2.0], [2.0], 2.0 - 1e-6),  # tied: the first of the candidates
        ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], 0.5),
    ],
)
def test_the_threshold_of_a_few_scores_worked_by_hand(harmless, harmful, expected):
    scores = np.array(harmless + harmful)
    is_harmful = np.arange(len(scores)) >= len(harmless)
    assert balanced_f1_threshold(scores, is_harmful, np.ones(len(scores))) == expected


@exhaustive
@given(
    rows=st.lists(
        st.tuples(st.integers(-4, 4), st.booleans(), st.integers(1, 4)), min_size=2, max_size=14
    ).filter(lambda rows: len({harmful for _, harmful, _ in rows}) == 2)
)
def test_a_weighted_score_counts_as_repeated_ones(rows):
    scores, harmful, weight = (np.array(column) for column in zip(*rows, strict=True))
    found = balanced_f1_threshold(scores.astype(float), harmful, weight.astype(float))
    assert found == literal_threshold(np.repeat(scores, weight), np.repeat(harmful, weight))


# The gate's boundaries


@pytest.mark.parametrize("rank", [1, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_zero_shot_is_the_literal_probe_and_threshold(seed, rank):
    rng = np.random.default_rng([1, seed])
    X, y, language = sources(rng)
    X_test, _ = draw(rng, 100, shift=1.0)
    score, threshold = literal_zero_shot(X, y, language, rank)
    gate = pooled_gate(rank=rank, C=1.0, calibration="refit").fit(X, y, language=language)
    np.testing.assert_allclose(gate.decision_function(X_test), score(X_test) - threshold, atol=1e-5)
    np.testing.assert_array_equal(gate.predict(X_test), score(X_test) > threshold)


@pytest.mark.parametrize("calibration", ["threshold", "refit"])
@pytest.mark.parametrize("budget", [1, 2, 4])
@pytest.mark.parametrize("rank", [1, 10])
def test_calibrated_languages_are_the_literal_probe_and_threshold(calibration, budget, rank):
    for seed in range(5):
        rng = np.random.default_rng([2, seed, budget])
        X, y, language = sources(rng)
        gate = pooled_gate(rank=rank, C=1.0, calibration=calibration).fit(X, y, language=language)
        zero_shot = gate.decision_function(X)
        basis = gate.basis_.copy()
        targets = {"sw": draw(rng, budget, 1.0, 2.0), "yo": draw(rng, budget, -2.0, 1.0)}
        for name, (X_shots, y_shots) in targets.items():
            gate.partial_fit(X_shots, y_shots, language=name)
        for name, (X_shots, y_shots) in targets.items():
            score, threshold = LITERAL[calibration](X, y, language, X_shots, y_shots, rank)
            X_test, _ = draw(rng, 100, 0.0, 2.0)
            found = gate.decision_function(X_test, language=name)
            np.testing.assert_allclose(score(X_test) - found, threshold, atol=1e-5)
            np.testing.assert_array_equal(
                gate.predict(X_test, language=name), score(X_test) > threshold
            )
        np.testing.assert_array_equal(gate.basis_, basis)
        np.testing.assert_array_equal(gate.decision_function(X), zero_shot)


def test_refit_moves_the_coefficients_of_its_language_alone():
    rng = np.random.default_rng(3)
    X, y, language = sources(rng)
    X_shots, y_shots = draw(rng, 32, 3.0, 1.0)
    gate = pooled_gate(calibration="refit").fit(X, y, language=language)
    coef = gate.coef_.copy()
    gate.partial_fit(X_shots, y_shots, language="sw")
    offset = gate.decision_function(X, language="sw") - gate.decision_function(X)
    assert np.ptp(offset) > 1e-3
    np.testing.assert_array_equal(gate.coef_, coef)
    np.testing.assert_array_equal(
        gate.decision_function(X, language="de"), gate.decision_function(X)
    )


@pytest.mark.parametrize("calibration", ["threshold", "refit"])
@pytest.mark.parametrize("label", [0, 1])
def test_shots_of_one_class_warn_and_keep_the_source_boundary(calibration, label):
    rng = np.random.default_rng(4)
    X, y, language = sources(rng)
    X_shots, _ = draw(rng, 4)
    gate = pooled_gate(calibration=calibration).fit(X, y, language=language)
    with pytest.warns(UserWarning, match=r"'sw'.*needs shots of both classes"):
        gate.partial_fit(X_shots, np.full(8, label), language="sw")
    assert "sw" in gate.languages_
    np.testing.assert_array_equal(
        gate.decision_function(X, language="sw"), gate.decision_function(X)
    )


@pytest.mark.parametrize("calibration", ["threshold", "refit"])
def test_shots_of_one_class_count_once_the_other_class_arrives(calibration):
    rng = np.random.default_rng(5)
    X, y, language = sources(rng)
    X_shots, y_shots = draw(rng, 3, 1.0, 2.0)
    gate = pooled_gate(calibration=calibration).fit(X, y, language=language)
    with pytest.warns(UserWarning, match="both classes"):
        gate.partial_fit(X_shots[y_shots == 0], y_shots[y_shots == 0], language="sw")
    gate.partial_fit(X_shots[y_shots == 1], y_shots[y_shots == 1], language="sw")
    at_once = pooled_gate(calibration=calibration).fit(X, y, language=language)
    at_once.partial_fit(X_shots, y_shots, language="sw")
    np.testing.assert_allclose(
        gate.decision_function(X, language="sw"),
        at_once.decision_function(X, language="sw"),
        atol=1e-6,
    )


def test_no_calibration_warns_about_shots_and_ignores_them():
    rng = np.random.default_rng(6)
    X, y, language = sources(rng)
    gate = pooled_gate(calibration=None).fit(X, y, language=language)
    with pytest.warns(UserWarning, match=r"'sw'.*calibration=None ignores shots"):
        gate.partial_fit(*draw(rng, 4, 5.0), language="sw")
    np.testing.assert_array_equal(
        gate.decision_function(X, language="sw"), gate.decision_function(X)
    )


# Shrinkage


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("shift", [-4.0, 4.0])
def test_shrinkage_follows_shots_of_one_class(label, shift):
    rng = np.random.default_rng(7)
    X, y, language = sources(rng)
    X_shots, y_shots = draw(rng, 4, shift)
    one = y_shots == label
    gate = pooled_gate().fit(X, y, language=language)
    gate.partial_fit(X_shots[one], y_shots[one], language="sw")
    bias = gate.language_bias_[list(gate.languages_).index("sw")]
    # Prompts that score higher than the sources' of their class need a higher boundary.
    assert bias * shift < 0
    X_test, y_test = draw(rng, 200, shift)
    assert gate.score(X_test, y_test, language="sw") > gate.score(X_test, y_test) + 0.05


def test_shrinkage_believes_shots_more_the_more_there_are():
    rng = np.random.default_rng(8)
    X, y, language = sources(rng)
    gate = pooled_gate().fit(X, y, language=language)
    typical = np.stack([X[y == 0].mean(axis=0), X[y == 1].mean(axis=0)])

    def bias(shift, times):
        gate = pooled_gate().fit(X, y, language=language)
        shots = np.repeat(typical + shift * gate.direction_, times, axis=0)
        gate.partial_fit(shots, np.repeat([0, 1], times), language="sw")
        return gate.language_bias_[list(gate.languages_).index("sw")]

    moved = [bias(0, times) - bias(2, times) for times in (1, 4, 16, 1024)]
    assert 0 < moved[0] < moved[1] < moved[2]
    step = float(gate.coef_[0] @ gate.direction_) * 2
    assert moved[3] == pytest.approx(step, rel=0.01)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_sources_far_apart_do_not_spoil_shrinkage(shift):
    """The pooled threshold is of no use then; each language's own boundary is."""
    rng = np.random.default_rng(9)
    drawn = [draw(rng, 100, shift * i) for i in range(3)]
    X, y = (np.concatenate(parts) for parts in zip(*drawn[:2], strict=True))
    gate = pooled_gate().fit(X, y, language=np.repeat(["de", "en"], 200))
    gate.partial_fit(drawn[2][0][:16], drawn[2][1][:16], language="sw")
    for name, (rows, labels) in zip(["de", "en", "sw"], drawn, strict=True):
        assert gate.score(rows, labels, language=name) > 0.75


def test_equal_rows_get_equal_scores_to_the_threshold_rule():
    scores = np.array([0.1 + 0.2, 0.3, 0.7, 0.7 + 1e-16, 1e-9])
    snapped = round_scores(scores)
    assert len(set(snapped)) == 3
    np.testing.assert_allclose(snapped, scores, atol=1e-12)
    assert round_scores(np.zeros(3)).tolist() == [0, 0, 0]


def balanced_accuracy(gate, X, y, language):
    called = gate.predict(X, language=language)
    return np.mean([np.mean(called[y == label] == label) for label in (0, 1)])


def test_four_shots_beat_none_and_shrinkage_keeps_up_with_the_threshold_rule():
    zero_shot, shrinkage, rule = [], [], []
    for seed in range(20):
        rng = np.random.default_rng([10, seed])
        X, y, language = sources(rng)
        shift, gap = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 3.0), 2.0  # shifted and squeezed
        (X_shots, y_shots), (X_test, y_test) = draw(rng, 4, shift, gap), draw(rng, 200, shift, gap)
        gate = pooled_gate().fit(X, y, language=language)
        zero_shot.append(balanced_accuracy(gate, X_test, y_test, None))
        gate.partial_fit(X_shots, y_shots, language="sw")
        shrinkage.append(balanced_accuracy(gate, X_test, y_test, "sw"))
        gate = pooled_gate(calibration="threshold").fit(X, y, language=language)
        gate.partial_fit(X_shots, y_shots, language="sw")
        rule.append(balanced_accuracy(gate, X_test, y_test, "sw"))
    assert np.mean(shrinkage) > np.mean(zero_shot) + 0.02
    assert np.mean(shrinkage) >= np.mean(rule) - 0.01
