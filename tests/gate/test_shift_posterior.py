"""What a few labelled scores say of a language: limits, one class alone, outliers, intervals."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from skgate.gate._scores import LabelledScores, SourceScores
from skgate.gate._shift_posterior import ShiftModel
from skgate.gate._shift_prior import ShiftPrior, learn_prior

PRIOR = ShiftPrior(
    boundary=1.0,
    gap=6.0,
    spread=np.array([1.0, 1.0]),
    shift=0.3,
    squeeze=0.1,
    near=0.9,
    misfit=0.0,
)
MODEL = ShiftModel(PRIOR)


def scores(harmless=(), harmful=()):
    values = np.array([*harmless, *harmful], dtype=float)
    labels = np.arange(len(values)) >= len(harmless)
    return LabelledScores(values, labels, np.ones(len(values)))


def draw(rng, n, boundary=0.0, gap=3.0, width=1.0, classes=(0, 1)):
    """Scores of ``n`` prompts of each of the classes."""
    noise = width * rng.standard_t(5, size=(2, n))
    parts = [boundary + gap * (label - 0.5) + noise[label] for label in (0, 1)]
    return scores(*(part if label in classes else () for label, part in enumerate(parts)))


def middle(shots):
    return float(shots.statistics().mean.mean())


def test_nothing_seen_is_the_prior():
    assert MODEL.unseen.boundary == 1.0
    assert 3.0 < MODEL.unseen.gap < 6.0  # the broad part squeezes
    updated = MODEL.update(LabelledScores.none())
    assert updated.boundary == pytest.approx(1.0)
    low, high = MODEL.unseen.interval
    assert low < 1.0 - PRIOR.shift < 1.0 + PRIOR.shift < high


@pytest.mark.parametrize(("boundary", "gap", "width"), [(0.0, 3.0, 1.0), (-8.0, 1.0, 0.5)])
def test_many_shots_give_the_languages_own_boundary_gap_and_width(boundary, gap, width):
    found = MODEL.update(draw(np.random.default_rng(0), 3000, boundary, gap, width))
    assert found.boundary == pytest.approx(boundary, abs=0.08)
    assert found.gap == pytest.approx(gap, abs=0.15)
    assert found.width == pytest.approx(width, rel=0.1)


def test_few_shots_lie_between_the_prior_and_what_they_say():
    once = MODEL.update(scores([-2.5], [0.5]))
    often = MODEL.update(scores([-2.5] * 50, [0.5] * 50))
    assert -1.1 < often.boundary < once.boundary < 1.0
    assert often.boundary == pytest.approx(-1.0, abs=0.1)
    assert often.deviation < once.deviation


def test_a_language_that_hardly_shifts_keeps_the_boundary():
    """One shot of each class that the sources would expect moves it little, a strange one more."""
    usual = MODEL.update(scores([-2.5], [4.0]))
    strange = MODEL.update(scores([-5.5], [-1.5]))
    assert abs(usual.boundary - 1.0) < 0.15
    assert strange.boundary < -1.5


def test_a_language_far_off_is_believed():
    """The tails are heavy: one shot of each class, twenty standard deviations away."""
    assert MODEL.update(scores([-20.5], [-17.5])).boundary == pytest.approx(-19.0, abs=1.0)


def test_one_bad_shot_does_not_sink_a_language():
    good = draw(np.random.default_rng(1), 8, boundary=1.0, gap=6.0)
    with_bad = good + scores(harmful=[-9.0])
    assert abs(MODEL.update(with_bad).boundary - MODEL.update(good).boundary) < 0.5
    assert abs(middle(with_bad) - middle(good)) > 0.6  # the mean would follow


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_leaves_more_doubt(label):
    rng = np.random.default_rng(2)
    found = MODEL.update(draw(rng, 200, boundary=-2.0, gap=5.0, classes=(label,)))
    assert -3.0 < found.boundary < 0.0  # between the language's own and the sources'
    assert found.deviation > MODEL.update(draw(rng, 200, -2.0, 5.0)).deviation


def test_the_classes_never_change_places():
    found = MODEL.update(scores([2.0] * 9, [-2.0] * 9))
    assert found.gap > 0
    assert np.isfinite(found.boundary)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_intervals_cover_the_boundary_of_languages_drawn_from_the_prior(n):
    """A 90 % interval, 300 languages: between 84 % and 96 % is what chance allows."""
    rng = np.random.default_rng([3, n])
    covered = []
    for _ in range(300):
        near_shift, near_gap = rng.random(2) < [PRIOR.near, 0.5]
        shift = rng.standard_t(3) * (PRIOR.shift if near_shift else 1.5)
        squeeze = 1 + PRIOR.squeeze * rng.standard_t(3) if near_gap else rng.uniform(0, 1.1)
        width = np.exp(rng.normal() * (0.15 if rng.random() < 0.5 else 0.5))
        shots = draw(rng, n, 1.0 + shift, 6 * max(squeeze, 0.01), np.clip(width, 0.35, 1.4))
        low, high = MODEL.update(shots).interval
        covered.append(low <= 1.0 + shift <= high)
    assert 0.84 < np.mean(covered) < 0.96


def sources(boundaries, gap=5.0, n=200):
    rng = np.random.default_rng(4)
    parts = [draw(rng, n, boundary, gap) for boundary in boundaries]
    rows = sum(parts[1:], start=parts[0])
    of = np.repeat(np.arange(len(parts)), 2 * n)
    return SourceScores(rows, [of == i for i in range(len(parts))])


def test_the_prior_is_learned_from_how_the_sources_differ():
    alike, unlike = (
        learn_prior(sources(boundaries), 2.0, middle)
        for boundaries in ([2.0] * 6, [-1.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    )
    assert alike.gap == pytest.approx(5.0, abs=0.2)
    np.testing.assert_allclose(alike.spread, np.sqrt(5 / 3), rtol=0.1)
    assert alike.shift < 0.3
    assert unlike.shift > 3 * alike.shift
    assert alike.near == unlike.near == pytest.approx(10 / 11)
    assert alike.misfit < 0.1


def test_a_single_source_leaves_what_was_assumed():
    alone, two = (learn_prior(sources([2.0] * n), 2.0, middle) for n in (1, 2))
    assert alone.near == pytest.approx(0.8)
    assert alone.near < two.near
    assert alone.shift > two.shift


@pytest.mark.parametrize("values", [np.zeros(20), np.tile([0.0, 5.0], 10)])
def test_scores_without_spread_make_no_division_by_zero(values):
    harmful = np.tile([False, True], 10)
    rows = LabelledScores(values, harmful, np.ones(20))
    model = ShiftModel(learn_prior(SourceScores(rows, [harmful | ~harmful]), 0.0, middle))
    found = model.update(draw(np.random.default_rng(5), 2))
    assert np.isfinite([*found[:4], *found.interval, *model.unseen[:4]]).all()


def test_many_scores_count_like_their_weights():
    rng = np.random.default_rng(6)
    shots = draw(rng, 100)
    weight = rng.integers(0, 3, size=200)
    weighted = shots._replace(weight=weight.astype(float))
    repeated = LabelledScores(*(np.repeat(part, weight) for part in shots))
    assert MODEL.update(weighted).boundary == pytest.approx(MODEL.update(repeated).boundary)


def test_a_pickle_holds_the_prior_alone():
    MODEL.update(scores([-1.0]))
    pickled = pickle.dumps(MODEL)
    assert len(pickled) < 2000
    assert pickle.loads(pickled).update(scores([-1.0])) == MODEL.update(scores([-1.0]))
