"""What the probe reads, how strongly it is regularized, and scores out of sample."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from skgate import ActivationSource, LatentGate
from skgate.gate import _held_out
from skgate.gate._folds import find_folds
from skgate.gate._held_out import fit_held_out
from skgate.gate._probe import MAX_NEWTON_FEATURES
from skgate.gate._readout import FullFitter, SubspaceFitter
from skgate.gate._subspace import class_sums

LANGUAGES = ["de", "en", "fr", "it"]


def draw(rng, n_per_class, d, languages=LANGUAGES, spread=1.0):
    """Rows whose classes differ in every dimension, in languages that lie apart."""
    X, language = [], np.repeat(languages, 2 * n_per_class)
    y = np.tile([0, 1], n_per_class * len(languages))
    harm = rng.normal(size=d) / np.sqrt(d)
    for _ in languages:
        place = rng.normal(size=d)
        X.append(place + spread * rng.normal(size=(2 * n_per_class, d)))
    X = np.concatenate(X) + 4 * np.outer(y - 0.5, harm)
    return X * rng.uniform(0.1, 10, size=d), y, language


def literal(X, y, C, weight=None):
    """The optimum by another solver, run for long."""
    scaler = StandardScaler().fit(X)
    model = LogisticRegression(C=C, class_weight="balanced", tol=1e-10, max_iter=100_000)
    model.fit(scaler.transform(X), y, sample_weight=weight)
    return lambda new: model.decision_function(scaler.transform(new))


@pytest.mark.parametrize(("n", "d"), [(30, 6), (10, 120), (60, 200), (20, 300), (5, 700)])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_the_probe_is_the_literal_one_on_all_dimensions(n, d, C):
    """Few and many features, more and fewer rows than dimensions."""
    rng = np.random.default_rng([1, n, d])
    X, y, language = draw(rng, n, d)
    gate = LatentGate(C=C, calibration=None).fit(X, y, language=language)
    new = draw(rng, 20, d)[0]
    expected = literal(X, y, C)(new)
    np.testing.assert_allclose(
        gate.decision_function(new, language="en"), expected, atol=0.01 * np.abs(expected).max()
    )
    assert (gate.rank_, gate.basis_, gate.C_) == (d, None, C)
    found = new @ gate.coef_.T + gate.intercept_
    np.testing.assert_allclose(found[:, 0], gate.decision_function(new, language="en"), rtol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(30, 6), (60, 200), (20, 300)])
@pytest.mark.parametrize("rank", [None, 2])
def test_source_scores_are_those_of_a_probe_without_the_language(n, d, rank):
    rng = np.random.default_rng([2, n, d])
    X, y, language = draw(rng, n, d)
    groups = [language == name for name in LANGUAGES]
    folds = find_folds(X, y == 1, groups, X[0])
    weight = np.ones(len(y))
    sums = class_sums(X, y == 1, weight, groups)
    pooled = X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)
    fitter = (
        FullFitter(X, y == 1, weight, folds, project=True)
        if rank is None
        else SubspaceFitter(X, y == 1, weight, groups, sums, folds, rank, pooled)
    )
    found = fit_held_out(fitter, X, y == 1, weight, folds, 0.1).scores
    scaler = StandardScaler().fit(X)
    for rows in groups:
        if rank is None:  # (the scale of the dimensions is that of all source rows)
            Z = scaler.transform(X)
            model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=100_000)
            expected = model.fit(Z[~rows], y[~rows]).decision_function(Z[rows])
        else:
            units = []
            for other in groups:
                if other is not rows:
                    unit = X[other & (y == 1)].mean(axis=0) - X[other & (y == 0)].mean(axis=0)
                    units.append(unit / np.linalg.norm(unit))
            basis = np.linalg.svd(np.array(units))[2][:rank].T
            expected = literal(X[~rows] @ basis, y[~rows], 0.1)(X[rows] @ basis)
        np.testing.assert_allclose(found[rows], expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("wide", [False, True])
def test_a_held_out_language_is_never_seen(wide):
    """Its labels may be anything: what the others score, and its own score, stay the same."""
    rng = np.random.default_rng(3)
    X, y, language = draw(rng, 40, 2 * MAX_NEWTON_FEATURES if wide else 8)
    own = language == "fr"
    groups = [language == name for name in LANGUAGES]
    folds = find_folds(X, y == 1, groups, X[0])
    part = folds[own][0]
    scores = []
    for labels in (y, np.where(own, 1 - y, y)):
        fitter = FullFitter(X, labels == 1, np.ones(len(y)), folds, project=True)
        fitter.fit(0.1)
        scores.append(fitter.fit_without(part, 0.1))
    np.testing.assert_allclose(*scores, atol=0.01 * np.abs(scores[0]).max())


def test_one_source_language_is_split_into_parts_of_its_rows():
    rng = np.random.default_rng(4)
    X, y, _ = draw(rng, 43, 8, languages=["en"])
    folds = find_folds(X, y == 1, [np.ones(86, dtype=bool)], X[0])
    for label in (0, 1):
        counts = np.bincount(folds[y == label])
        assert len(counts) == 5
        assert counts.max() - counts.min() <= 1


def test_equal_rows_are_left_out_together():
    rng = np.random.default_rng(5)
    X, y, _ = draw(rng, 20, 8, languages=["en"])
    order = rng.permutation(120)
    thrice = np.repeat(X, 3, axis=0)[order], np.repeat(y, 3)[order]
    folds = find_folds(thrice[0], thrice[1] == 1, [np.ones(120, dtype=bool)], X[0])
    once = find_folds(X, y == 1, [np.ones(40, dtype=bool)], X[0])
    np.testing.assert_array_equal(folds, np.repeat(once, 3)[order])


@pytest.mark.parametrize("n", [(1, 1), (1, 5), (5, 1)])
def test_without_two_rows_of_a_class_nothing_is_left_out(n):
    rng = np.random.default_rng(6)
    y = np.repeat([0, 1], n)
    gate = LatentGate().fit(rng.normal(size=(len(y), 4)) + y[:, None], y)
    assert (gate.C_, gate.log_loss_) == (0.1, {})


def test_languages_without_both_classes_in_the_others_are_not_left_out():
    rng = np.random.default_rng(7)
    X, y, language = draw(rng, 20, 6, languages=["de", "en"])
    kept = (language == "de") | (y == 0)
    groups = [language[kept] == one for one in ("de", "en")]
    folds = find_folds(X[kept], y[kept] == 1, groups, X[0])
    assert folds.max() == 4


def test_c_is_the_smallest_within_a_standard_error_of_the_best(monkeypatch):
    rng = np.random.default_rng(8)
    X, y, language = draw(rng, 40, 60)
    gate = LatentGate().fit(X, y, language=language)
    assert list(gate.log_loss_) == [0.01, 0.1, 1.0]
    per_part = {}
    for C in gate.log_loss_:
        losses = []
        for name in LANGUAGES:
            rows = language == name
            Z = StandardScaler().fit_transform(X)
            model = LogisticRegression(C=C, class_weight="balanced", tol=1e-10, max_iter=10_000)
            scores = model.fit(Z[~rows], y[~rows]).decision_function(Z[rows])
            losses.append(np.logaddexp(0, np.where(y[rows] == 1, -scores, scores)).mean())
        per_part[C] = np.array(losses)
        assert gate.log_loss_[C] == pytest.approx(per_part[C].mean(), rel=1e-4)
    best = min(per_part, key=lambda C: per_part[C].mean())
    limit = per_part[best].mean() + per_part[best].std(ddof=1) / 2
    assert min(C for C in per_part if per_part[C].mean() <= limit) == gate.C_
    monkeypatch.setattr(_held_out, "GRID", (gate.C_,))
    alone = LatentGate().fit(X, y, language=language)
    np.testing.assert_allclose(alone.coef_, gate.coef_)


def test_thresholds_come_from_scores_out_of_sample():
    """In sample, hundreds of dimensions separate the sources perfectly, whatever their labels."""
    rng = np.random.default_rng(9)
    X, _, language = draw(rng, 30, 400)
    y = rng.integers(2, size=len(X))
    gate = LatentGate(C=1.0).fit(X, y, language=language)
    assert roc_auc_score(y, X @ gate.coef_[0]) > 0.95
    prior = gate.language_book_.calibrator.shifts.prior
    assert prior.gap < prior.unit  # nothing tells the classes apart


@pytest.mark.parametrize("direction", ["mean_difference", "probe"])
def test_the_direction_is_that_of_the_steered_place(direction):
    """Four places of two dimensions: the gate reads all, and steers at the last of the deepest."""
    rng = np.random.default_rng(10)
    X, y, language = draw(rng, 30, 8)
    source = ActivationSource("m", "w", "t", "c", layer=(5, 3), position=("mean", "last"))
    gate = LatentGate(direction=direction)
    gate.fit(X, y, language=language, activation_source=source)
    steered = slice(2, 4)  # layer 5, "last"
    expected = X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)
    if direction == "probe":
        expected = gate.coef_[0]
    expected = expected[steered] / np.linalg.norm(expected[steered])
    np.testing.assert_allclose(gate.direction_[steered], expected)
    assert not np.delete(gate.direction_, [2, 3]).any()
    assert (gate.coef_ != 0).all()
    projections = X @ gate.direction_
    expected = np.quantile(projections[y == 1], 0.75) - np.quantile(projections[y == 0], 0.25)
    assert gate.projection_gap_ == pytest.approx(expected)


@pytest.mark.parametrize(("calibration", "kept"), [("shrinkage", 40), ("threshold", 1), (None, 1)])
def test_what_a_gate_on_all_dimensions_keeps_of_every_shot(calibration, kept):
    """All of it only if shots can change the probe."""
    rng = np.random.default_rng(11)
    X, y, language = draw(rng, 30, 40)
    gate = LatentGate(calibration=calibration).fit(X, y, language=language)
    if calibration is not None:
        gate.partial_fit(X[:8], y[:8], language="sw")
        assert gate.language_book_.shots("sw").z.shape == (8, kept)
    assert gate.language_book_.calibrator.source is None


def test_a_source_language_has_its_boundary_between_its_own_classes():
    """Probes of two other languages may place it far off, if these lie elsewhere."""
    for seed in range(8):
        X, y, language = draw(np.random.default_rng(seed), 100, 12, ["de", "en", "fr"])
        own = language == "en"
        X[own] += 10 * np.eye(12)[0] * X.std(axis=0)
        called = LatentGate().fit(X, y, language=language).predict(X[own], language="en")
        false_alarms, misses = called[y[own] == 0].mean(), 1 - called[y[own] == 1].mean()
        assert abs(false_alarms - misses) < 0.15
