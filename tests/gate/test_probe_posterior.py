"""The probe that moves with many shots: exact where it can be, out of sample, and only if told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.metrics import balanced_accuracy_score

from skgate import LatentGate
from skgate.gate._probe import LabelledRows, fit_probe
from skgate.gate._probe_posterior import learn_posterior

WIDTH = 12
SHOT_WEIGHT = 0.5


def draw(n, tilt=0.0, shift=0.0, seed=0):
    """Rows whose harm lies along the first dimension, or is tilted towards the second."""
    rng = np.random.default_rng(seed)
    y = np.tile([False, True], n // 2)
    X = rng.normal(size=(n, WIDTH)) * np.linspace(1, 3, WIDTH) + shift
    X[:, 0] += 3 * np.cos(tilt) * (y - 0.5)
    X[:, 1] += 3 * np.sin(tilt) * (y - 0.5)
    return X, y


def rows_of(X, y):
    return LabelledRows(X, y, np.ones(len(X)))


@pytest.fixture
def posterior():
    source = rows_of(*draw(400))
    return learn_posterior(source, fit_probe(source, 1.0), 1.0)


def test_the_moved_probe_is_the_most_probable_one(posterior):
    """The same as minimizing the loss in all coefficients, slowly."""
    X, y = draw(20, tilt=1.0, shift=0.5, seed=1)
    source = draw(400)[0]
    z = (source - posterior.center) / source.std(axis=0)
    precision = np.eye(WIDTH) / posterior.C + z.T @ z / 4
    shots = (X - posterior.center) / source.std(axis=0)
    start, sign = posterior.probe(X), np.where(y, 1, -1)

    def loss(moved):
        scores = start + shots @ moved
        return moved @ precision @ moved / 2 - SHOT_WEIGHT * log_expit(sign * scores).sum()

    slow = minimize(loss, np.zeros(WIDTH), tol=1e-10).x
    probe, _ = posterior.move(rows_of(X, y))
    # The same up to the scale on which the source rows spread as before.
    middle = posterior.probe(posterior.center)
    slow_scores = start + shots @ slow - middle
    factor = (probe(X) - middle) @ slow_scores / (slow_scores @ slow_scores)
    np.testing.assert_allclose(probe(X) - middle, factor * slow_scores, atol=1e-4)
    spread = [np.linalg.norm(one(source) - middle) for one in (probe, posterior.probe)]
    assert spread[0] == pytest.approx(spread[1], rel=1e-6)


def test_scores_are_those_of_probes_that_have_not_seen_the_shot(posterior):
    """Compared with leaving one shot of each class out at a time."""
    X, y = draw(40, tilt=1.0, seed=2)
    probe, scores = posterior.move(rows_of(X, y))
    left_out = np.empty(len(X))
    for i in range(0, len(X), 2):
        pair, kept = [i, i + 1], np.ones(len(X), dtype=bool)
        kept[pair] = False
        left_out[pair] = posterior.move(rows_of(X[kept], y[kept]))[0](X[pair])
    optimism = (probe(X) - left_out) * np.where(y, 1, -1)
    assert optimism.mean() > 0
    remaining = (scores.scores - left_out) * np.where(y, 1, -1)
    assert abs(remaining.mean()) < 0.2 * optimism.mean()


def test_the_middle_of_the_sources_keeps_its_score(posterior):
    probe, _ = posterior.move(rows_of(*draw(40, tilt=1.5, shift=3.0, seed=3)))
    np.testing.assert_allclose(
        probe(posterior.center[None]), posterior.probe(posterior.center[None]), atol=1e-9
    )


def test_shots_far_away_end_the_search_too(posterior):
    """Steps are bounded: where all slopes vanish, Newton's would overshoot."""
    X, y = draw(40, tilt=1.0, seed=4)
    probe, scores = posterior.move(rows_of(100 * X, ~y))
    assert np.isfinite(probe.coef).all()
    assert np.isfinite(scores.scores).all()
    assert (expit(probe(100 * X)) > 0.5).mean() == pytest.approx(0.5, abs=0.2)


def test_wide_rows_are_close_to_the_exact_posterior():
    """More features than the eigenvectors are found exactly for."""
    rng = np.random.default_rng(0)
    y = np.tile([False, True], 300)
    X = rng.normal(size=(600, 40)) @ rng.normal(size=(40, 700)) + 0.1 * rng.normal(size=(600, 700))
    X += (y - 0.5)[:, None] * rng.normal(size=700)
    wide = learn_posterior(rows_of(X, y), fit_probe(rows_of(X, y), 0.1), 0.1)
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    values, vectors = np.linalg.eigh(z.T @ z / 4)
    exact = 0.1 * (np.eye(700) - (vectors * (0.1 * values / (1 + 0.1 * values))) @ vectors.T)
    roots = wide.times_root(z)
    np.testing.assert_allclose(
        roots @ roots.T, z @ exact @ z.T, atol=0.02 * np.abs(z @ exact @ z.T).max()
    )


# Through the gate


@pytest.fixture
def gate():
    X, y = draw(120)
    return LatentGate(C=1.0, unknown_language="source").fit(
        X, y, language=np.repeat(["de", "en", "fr"], 40)
    )


def moved(gate, language="sw"):
    """Whether a language's score is another than the source's, shifted and scaled."""
    X = draw(100, seed=9)[0]
    source, own = gate.harm_score(X, ["en"] * 100), gate.harm_score(X, [language] * 100)
    return np.corrcoef(source, own)[0, 1] < 1 - 1e-9


@pytest.mark.parametrize(("n", "expected"), [(6, False), (8, True)])
def test_four_shots_of_each_class_move_the_probe(gate, n, expected):
    X, y = draw(n, tilt=0.6, seed=5)
    assert moved(gate.partial_fit(X, y, "sw")) == expected


def test_weights_count_as_repeated_shots(gate):
    X, y = draw(4, tilt=0.6, seed=5)
    assert not moved(gate.partial_fit(X, y, "sw"))
    assert moved(gate.forget("sw").partial_fit(X, y, "sw", sample_weight=np.full(4, 2.0)))


def test_source_languages_and_unlabelled_prompts_keep_the_probe(gate):
    X, y = draw(40, tilt=1.2, seed=6)
    assert not moved(gate.partial_fit(X, y, "de"), "de")
    assert not moved(gate.partial_fit(X, y, "sw").adapt(X, "sw"))


def test_a_tilted_language_gains(gate):
    X, y = draw(200, tilt=1.2, seed=7)
    test, y_test = draw(2000, tilt=1.2, seed=8)
    few = [*range(6)]
    before = gate.partial_fit(X[few], y[few], "few").predict(test, ["few"] * 2000)
    after = gate.partial_fit(X, y, "many").predict(test, ["many"] * 2000)
    assert balanced_accuracy_score(y_test, after) > 0.08 + balanced_accuracy_score(y_test, before)


def test_order_and_number_of_calls_do_not_matter(gate):
    X, y = draw(32, tilt=1.2, seed=5)
    probe = draw(100, seed=9)[0]
    whole = gate.partial_fit(X, y, "sw").harm_score(probe, ["sw"] * 100)
    gate.forget("sw")
    for rows in (slice(20, None), slice(0, 20)):
        gate.partial_fit(X[rows][::-1], y[rows][::-1], "sw")
    np.testing.assert_allclose(gate.harm_score(probe, ["sw"] * 100), whole, rtol=1e-6)
