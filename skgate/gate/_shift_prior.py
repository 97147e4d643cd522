"""The prior of how a language shifts and squeezes the scores of the source probe.

The scores of a language's harmless and harmful prompts are normal around ``a - q / 2`` and
``a + q / 2`` with standard deviations ``w * spread``. ``a`` is the language's boundary, ``q`` the
gap between its classes, ``w`` the width of its scores relative to the sources'. Without evidence,
``a`` is the source boundary, ``q`` half the sources' gap, ``w`` their width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

from skgate.gate._subspace import Bools, Floats

# Assumptions about a new language, in the units of the model. Round numbers; docs/benchmarks.md
# shows the effect of halving and doubling each.
_SHIFT = 1.0  # scale of the boundary, in standard deviations of the scores within a class
_SQUEEZE = 0.5  # gap relative to a held-out source's (AUCs in arXiv:2606.01196 say about 0.6)
_SQUEEZE_SPREAD = 0.2
WIDTH_ROWS = 6.0  # weight of the sources' width, in rows
TAILS = 2.0  # degrees of freedom of the prior's t distributions
MIN_SQUEEZE = 0.05  # harmful prompts always score higher than harmless ones
_LEVEL = 0.9  # of the intervals
_ROUNDING = 1e-6  # of a gap
_MIN_FREEDOM = 2.0  # degrees of freedom of a class that an estimate of its spread needs


class ScoreStatistics(NamedTuple):
    """Weights, means and sums of squared residuals of a language's (harmless, harmful) scores."""

    weight: Floats  # (2,)
    mean: Floats  # (2,), 0 without rows
    residual: Floats  # (2,)

    @classmethod
    def none(cls) -> ScoreStatistics:
        """Summarize no scores at all."""
        return cls(np.zeros(2), np.zeros(2), np.zeros(2))

    @classmethod
    def of(cls, scores: Floats, harmful: Bools, weight: Floats) -> ScoreStatistics:
        """Summarize labelled scores."""
        rows = [~harmful, harmful]
        total = np.array([weight[r].sum() for r in rows])
        mean = np.array([weight[r] @ scores[r] for r in rows])
        mean = np.divide(mean, total, out=np.zeros(2), where=total > 0)
        residual = np.array(
            [weight[r] @ (scores[r] - m) ** 2 for r, m in zip(rows, mean, strict=True)]
        )
        return cls(total, mean, residual)

    def __add__(self, other: object) -> ScoreStatistics:
        """Summarize the rows of both (Chan, Golub and LeVeque, 1979)."""
        if not isinstance(other, ScoreStatistics):
            return NotImplemented
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros(2), where=weight > 0)
        step = other.mean - self.mean
        return ScoreStatistics(
            weight=weight,
            mean=self.mean + share * step,
            residual=self.residual + other.residual + self.weight * share * step**2,
        )

    @property
    def has_both_classes(self) -> bool:
        """Whether there are harmless and harmful rows."""
        return bool((self.weight > 0).all())


class LanguageShift(NamedTuple):
    """Boundary, gap and width of a language's scores.

    Attributes
    ----------
    boundary : float
        Boundary between the classes, on the scale of the source probe's scores.
    deviation : float
        Standard deviation of the boundary.
    gap : float
        Distance between the classes' mean scores.
    width : float
        Standard deviation of the scores within a class, relative to the sources'.
    rows : float
        Number of rows that the deviation was estimated from.
    """

    boundary: float
    deviation: float
    gap: float
    width: float
    rows: float

    def interval(self) -> tuple[float, float]:
        """Compute the 90 % interval of the boundary."""
        reach = student_t.ppf((1 + _LEVEL) / 2, self.rows) * self.deviation
        return self.boundary - reach, self.boundary + reach


class LanguagePrior(NamedTuple):
    """What to expect of a new language, learned from the source languages.

    Attributes
    ----------
    boundary : float
        The pooled source's boundary: the prior mean of the new language's.
    gap : float
        Difference between the sources' mean scores of harmful and harmless prompts.
    spread : ndarray of shape (2,)
        Standard deviation of the (harmless, harmful) scores within a source language.
    shift : float
        Scale of the t distribution of a language's boundary around ``boundary``.
    squeeze : float
        Expected ``q / (w * gap)`` of a language.
    squeeze_spread : float
        Scale of the t distribution of ``squeeze``.
    log_width : float
        Median logarithm of a held-out source's width.
    misfit : float
        Root mean square distance of a held-out source's best boundary from the midpoint of its
        class means, in standard deviations of its scores. Shots don't reduce it.
    """

    boundary: float
    gap: float
    spread: Floats
    shift: float
    squeeze: float
    squeeze_spread: float
    log_width: float
    misfit: float

    @property
    def unit(self) -> float:
        """Standard deviation of the scores within a class of a source language."""
        return float(np.sqrt((self.spread**2).mean()))

    def unseen(self) -> LanguageShift:
        """Return the shift to expect of a language without any evidence."""
        width = float(np.exp(self.log_width))
        deviation = float(np.hypot(self.shift, width * self.misfit * self.unit))
        gap = self.squeeze * width * self.gap
        return LanguageShift(self.boundary, deviation, gap, width, WIDTH_ROWS)

    def width(self, shots: ScoreStatistics) -> tuple[float, float]:
        """Estimate the width of a language; also return the number of rows behind the estimate."""
        rows = WIDTH_ROWS + np.maximum(shots.weight - 1, 0).sum()
        expected = WIDTH_ROWS * np.exp(2 * self.log_width)
        return float(np.sqrt((expected + (shots.residual / self.spread**2).sum()) / rows)), rows

    def update(self, shots: ScoreStatistics) -> LanguageShift:
        """Update the prior by any number of labelled scores, of one class or both.

        Given the width, (boundary, squeeze) has a normal likelihood and t priors, which are
        mixtures of normals. The normal posterior and the weights of the mixtures are updated in
        turns (mean-field variational Bayes).
        """
        width, rows = self.width(shots)
        scale = np.array([self.shift, self.squeeze_spread])
        mean = np.array([0.0, self.squeeze])
        # Mean scores of the classes are design @ (boundary - self.boundary, squeeze).
        design = np.array([[1.0, -0.5], [1.0, 0.5]]) * [1.0, width * self.gap]
        precision = shots.weight / (width * self.spread) ** 2
        evidence = (design.T * precision) @ design
        pull = design.T @ (precision * (shots.mean - self.boundary))
        weight = np.ones(2)
        for _ in range(50):
            covariance = np.linalg.inv(evidence + np.diag(weight / scale**2))
            found = covariance @ (pull + mean * weight / scale**2)
            distance = ((found - mean) ** 2 + covariance.diagonal()) / scale**2
            weight = (TAILS + 1) / (TAILS + distance)
        misfit = width * self.misfit * self.unit
        return LanguageShift(
            boundary=self.boundary + float(found[0]),
            deviation=float(np.hypot(np.sqrt(covariance[0, 0]), misfit)),
            gap=float(max(found[1], MIN_SQUEEZE)) * width * self.gap,
            width=width,
            rows=rows,
        )


class HeldOut(NamedTuple):
    """A source language scored by a probe of the others, in standard deviations of their scores."""

    shift: float  # from their boundary to the middle between its classes
    squeeze: float  # its gap relative to theirs and to its width
    log_width: float
    misfit: float  # from the middle to its best boundary, relative to its width


class Scored(NamedTuple):
    """Scores of labelled rows in one or several languages."""

    scores: Floats
    harmful: Bools
    weight: Floats
    languages: Sequence[Bools]  # the rows of each

    def statistics(self) -> list[ScoreStatistics]:
        """Summarize the languages that have both classes."""
        found = [
            ScoreStatistics.of(self.scores[rows], self.harmful[rows], self.weight[rows])
            for rows in self.languages
        ]
        return [one for one in found if one.has_both_classes]

    def gap_and_spread(self) -> tuple[float, Floats]:
        """Estimate the mean gap between a language's classes, and the deviations within them.

        Both are positive, at least the size of a rounding error. If a class has too few rows in
        every language, its deviation is taken from its mean over all languages. If it has too
        few rows in all, it gets the other class's deviation. If both have too few, it is a quarter
        of the gap.
        """
        pooled = ScoreStatistics.of(self.scores, self.harmful, self.weight)
        found = self.statistics() or [pooled]
        floor = np.finfo(float).eps * max(1.0, float(np.abs(self.scores).max()))
        gap = max(float(np.mean([one.mean[1] - one.mean[0] for one in found])), floor)
        spread = np.full(2, np.nan)
        for some in (found, [pooled]):
            residual, weight = (sum(getattr(one, name) for one in some) for name in _SUMS)
            freedom = weight - len(some)
            told = np.isnan(spread) & (freedom >= _MIN_FREEDOM)
            told &= residual > freedom * (_ROUNDING * gap) ** 2  # equal rows have no spread
            spread[told] = np.sqrt(residual[told] / freedom[told])
        spread = np.where(np.isnan(spread), spread[::-1], spread)
        spread = np.where(np.isnan(spread), gap / 4, spread)
        return gap, np.maximum(spread, floor)

    @property
    def tells_spread(self) -> bool:
        """Whether there are enough rows to estimate the spread of both classes."""
        found = self.statistics()
        weight = sum((one.weight for one in found), start=np.zeros(2))
        return bool((weight - len(found) >= _MIN_FREEDOM).all())


_SUMS = ("residual", "weight")


def hold_out(
    others: Scored,
    boundary: float,
    own: Scored,
    best_boundary: Callable[[Scored], float],
) -> HeldOut | None:
    """Compare a source language with the others on a probe fitted without it.

    Parameters
    ----------
    others : Scored
        Scores of the other source languages.
    boundary : float
        Their pooled boundary.
    own : Scored
        Scores of the language.
    best_boundary : callable
        Maps labelled scores to the best boundary between them.

    Returns
    -------
    held_out : HeldOut or None
        None if a class has too few rows to estimate its spread.
    """
    if not (own.tells_spread and others.tells_spread):
        return None
    found = own.statistics()
    gap, spread = others.gap_and_spread()
    unit = float(np.sqrt((spread**2).mean()))
    own_gap, own_spread = own.gap_and_spread()
    width = float(np.sqrt((own_spread**2 / spread**2).mean()))
    middle = float(found[0].mean.mean())
    return HeldOut(
        shift=(middle - boundary) / unit,
        squeeze=own_gap / (width * gap),
        log_width=float(np.log(width)),
        misfit=(best_boundary(own) - middle) / (width * unit),
    )


def learn_prior(sources: Scored, boundary: float, held_out: Sequence[HeldOut]) -> LanguagePrior:
    """Learn from the source languages what to expect of a new one.

    Parameters
    ----------
    sources : Scored
        Scores of the source languages.
    boundary : float
        Their pooled boundary.
    held_out : sequence of HeldOut
        One for each source language that was held out; may be empty.

    Returns
    -------
    prior : LanguagePrior
        On the scale of the scores.
    """
    gap, spread = sources.gap_and_spread()
    # Without sources to hold out, a new language is expected to be like the pooled source.
    seen = np.array(held_out or [HeldOut(0.0, 1.0, 0.0, 0.0)])
    shift, squeeze, log_width, misfit = seen.T
    return LanguagePrior(
        boundary=boundary,
        gap=gap,
        spread=spread,
        shift=float(np.sqrt((_SHIFT**2 + np.median(shift**2)) * (spread**2).mean())),
        squeeze=_SQUEEZE * float(np.median(squeeze)),
        squeeze_spread=_SQUEEZE_SPREAD,
        log_width=float(np.median(log_width)),
        misfit=float(np.sqrt(np.mean(misfit**2))),
    )
