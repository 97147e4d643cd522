"""What a few labelled scores say of a language: limits, one class alone, intervals."""

from __future__ import annotations

import numpy as np
import pytest

from skgate.gate._shift_prior import (
    HeldOut,
    LanguagePrior,
    Scored,
    ScoreStatistics,
    learn_prior,
)

PRIOR = LanguagePrior(
    boundary=1.0,
    gap=6.0,
    spread=np.array([1.0, 1.0]),
    shift=1.0,
    squeeze=0.5,
    squeeze_spread=0.2,
    log_width=0.0,
    misfit=0.1,
)


def shots(rng, n, boundary=0.0, gap=3.0, width=1.0, classes=(0, 1)):
    """Scores of ``n`` prompts of each of the classes."""
    harmful = np.repeat([c == 1 for c in classes], n)
    scores = boundary + gap * (harmful - 0.5) + width * rng.normal(size=len(harmful))
    return ScoreStatistics.of(scores, harmful, np.ones(len(scores)))


def test_nothing_seen_is_the_prior():
    unseen = PRIOR.unseen()
    assert unseen.boundary == 1.0
    assert unseen.gap == pytest.approx(3.0)
    empty = ScoreStatistics.of(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0))
    updated = PRIOR.update(empty)
    assert updated.boundary == pytest.approx(1.0)
    assert updated.gap == pytest.approx(3.0)


@pytest.mark.parametrize(("boundary", "gap", "width"), [(0.0, 3.0, 1.0), (-8.0, 1.0, 0.4)])
def test_many_shots_give_the_languages_own_boundary_gap_and_width(boundary, gap, width):
    found = PRIOR.update(shots(np.random.default_rng(0), 3000, boundary, gap, width))
    assert found.boundary == pytest.approx(boundary, abs=0.05)
    assert found.gap == pytest.approx(gap, abs=0.1)
    assert found.width == pytest.approx(width, abs=0.05)


def test_few_shots_lie_between_the_prior_and_what_they_say():
    says = ScoreStatistics(np.array([1.0, 1.0]), np.array([-3.5, -0.5]), np.zeros(2))
    once = PRIOR.update(says)
    often = PRIOR.update(says._replace(weight=np.array([50.0, 50.0])))
    assert -2.0 < often.boundary < once.boundary < 1.0
    assert often.boundary == pytest.approx(-2.0, abs=0.1)
    assert often.deviation < once.deviation


def test_a_language_far_off_is_believed():
    """The tails are heavy: one shot of each class, twenty standard deviations away."""
    says = ScoreStatistics(np.array([1.0, 1.0]), np.array([-20.5, -17.5]), np.zeros(2))
    assert PRIOR.update(says).boundary == pytest.approx(-19.0, abs=0.5)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_places_the_boundary_half_a_squeezed_gap_away(label):
    rng = np.random.default_rng(1)
    found = PRIOR.update(shots(rng, 200, boundary=-2.0, gap=3.0, classes=(label,)))
    assert found.boundary == pytest.approx(-2.0, abs=0.6)
    assert found.deviation > PRIOR.update(shots(rng, 200, -2.0, 3.0)).deviation


def test_the_classes_never_change_places():
    says = ScoreStatistics(np.array([9.0, 9.0]), np.array([2.0, -2.0]), np.zeros(2))
    assert PRIOR.update(says).gap > 0


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_intervals_cover_the_boundary_of_languages_drawn_from_the_prior(n):
    """A 90 % interval, 400 languages: between 85 % and 97 % is what chance and tails allow."""
    rng = np.random.default_rng([2, n])
    prior = PRIOR._replace(misfit=0.0)
    covered = []
    for _ in range(400):
        boundary = 1.0 + rng.standard_t(2)
        squeeze = max(0.1, 0.5 + 0.2 * rng.standard_t(2))
        low, high = prior.update(shots(rng, n, boundary, 6 * squeeze)).interval()
        covered.append(low <= boundary <= high)
    assert 0.85 < np.mean(covered) < 0.97


def test_the_prior_is_learned_from_what_the_sources_look_like_to_each_other():
    rng = np.random.default_rng(3)
    harmful = np.tile([False, True], 400)
    scores = 2.0 + 5 * (harmful - 0.5) + rng.normal(size=800)
    sources = Scored(scores, harmful, np.ones(800), [np.arange(800) < 400, np.arange(800) >= 400])
    alone = learn_prior(sources, 2.0, [])
    assert alone.gap == pytest.approx(5.0, abs=0.2)
    np.testing.assert_allclose(alone.spread, 1.0, atol=0.1)
    assert alone.unseen().gap == pytest.approx(2.5, abs=0.1)
    like = [HeldOut(shift, 0.8, np.log(0.9), 0.2) for shift in (-3.0, 2.0, 3.0)]
    learned = learn_prior(sources, 2.0, like)
    assert learned.shift > 2 * alone.shift
    assert learned.squeeze == pytest.approx(0.8 * alone.squeeze)
    assert np.exp(learned.log_width) == pytest.approx(0.9)
    assert learned.misfit == pytest.approx(0.2)


def test_constant_scores_make_no_division_by_zero():
    harmful = np.tile([False, True], 10)
    prior = learn_prior(Scored(np.zeros(20), harmful, np.ones(20), [harmful | ~harmful]), 0.0, [])
    found = prior.update(shots(np.random.default_rng(4), 2))
    assert np.isfinite([*found, *prior.unseen()]).all()
