"""Labelled scores of a source probe, and what they say about the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skgate.gate._subspace import Bools, Floats

_ROUNDING = 1e-6  # of a gap
_MIN_FREEDOM = 2.0  # degrees of freedom of a class that an estimate of its spread needs
_SUMS = ("residual", "weight")


class ScoreStatistics(NamedTuple):
    """Weights, means and sums of squared residuals of a language's (harmless, harmful) scores."""

    weight: Floats  # (2,)
    mean: Floats  # (2,), 0 without rows
    residual: Floats  # (2,)

    @property
    def has_both_classes(self) -> bool:
        """Whether there are harmless and harmful rows."""
        return bool((self.weight > 0).all())


class LabelledScores(NamedTuple):
    """Scores of labelled rows in one language."""

    scores: Floats
    harmful: Bools
    weight: Floats

    @classmethod
    def none(cls) -> LabelledScores:
        """No scores at all."""
        return cls(np.zeros(0), np.zeros(0, dtype=np.bool_), np.zeros(0))

    def take(self, rows: Bools) -> LabelledScores:
        """Select rows."""
        return LabelledScores(self.scores[rows], self.harmful[rows], self.weight[rows])

    def __add__(self, other: object) -> LabelledScores:
        if not isinstance(other, LabelledScores):
            return NotImplemented
        return LabelledScores(
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.harmful, other.harmful]),
            np.concatenate([self.weight, other.weight]),
        )

    def of_class(self, label: int) -> tuple[Floats, Floats]:
        """Return the scores and weights of the harmless (0) or harmful (1) rows."""
        rows = self.harmful == bool(label)
        return self.scores[rows], self.weight[rows]

    def statistics(self) -> ScoreStatistics:
        """Summarize the scores."""
        weight, mean, residual = np.zeros(2), np.zeros(2), np.zeros(2)
        for label in (0, 1):
            scores, weights = self.of_class(label)
            weight[label] = weights.sum()
            if len(scores):
                mean[label] = np.average(scores, weights=weights)
            residual[label] = weights @ (scores - mean[label]) ** 2
        return ScoreStatistics(weight, mean, residual)


class SourceScores(NamedTuple):
    """Scores of labelled rows in one or several languages."""

    rows: LabelledScores
    languages: Sequence[Bools]  # the rows of each

    def parts(self) -> list[LabelledScores]:
        """Return the scores of each language that has both classes."""
        found = [self.rows.take(own) for own in self.languages]
        return [one for one in found if one.harmful.any() and not one.harmful.all()]

    def gap_and_spread(self) -> tuple[float, Floats]:
        """Estimate the mean gap between a language's classes, and the deviations within them.

        Both are positive, at least the size of a rounding error. If a class has too few rows in
        every language, its deviation is taken from its mean over all languages. If it has too
        few rows in all, it gets the other class's deviation. If both have too few, it is a quarter
        of the gap.
        """
        pooled = self.rows.statistics()
        found = [one.statistics() for one in self.parts()] or [pooled]
        floor = np.finfo(float).eps * max(1.0, float(np.abs(self.rows.scores).max()))
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
