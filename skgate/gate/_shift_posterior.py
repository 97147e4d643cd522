"""The posterior of a language's shift, given labelled scores, on a grid."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, stdtr

from skgate.gate._scores import LabelledScores
from skgate.gate._shift_prior import SCORE_TAILS, ShiftPrior, log_t
from skgate.gate._subspace import Floats

_WIDTHS = np.array([0.35, 0.5, 0.7, 1.0, 1.4])
_REACH = 5.0  # how far the grid extends beyond the sources' means, in their standard deviations
_STEP = 0.025  # of the reach
_MARGIN = 2.0  # the grid extends this far beyond the median of a class
_MOST_SCORES = 32  # of a class
WEAK = 0.25  # an error rate that no calibration mends
_LEVEL = 0.9  # of the intervals
NORMAL = 1.6449  # the quantile of the standard normal distribution for this level


class LanguageShift(NamedTuple):
    """Boundary, gap and width of a language's scores.

    Attributes
    ----------
    boundary : float
        Boundary of least expected error, both classes weighing the same, on the scale of the source
        probe's scores.
    deviation : float
        Standard deviation of the boundary.
    gap : float
        Distance between the classes' mean scores.
    width : float
        Scale of the scores within a class, relative to the sources'.
    interval : (float, float)
        90 % interval of the boundary.
    weak : float
        Probability that every threshold errs on a quarter of the prompts or more.
    """

    boundary: float
    deviation: float
    gap: float
    width: float
    interval: tuple[float, float]
    weak: float


class Estimate(NamedTuple):
    """Posterior mean and 90 % interval."""

    mean: float
    low: float
    high: float


class Quality(NamedTuple):
    """How well the classes of a language can be told apart by their scores.

    Attributes
    ----------
    auc : Estimate
        Probability that a harmful prompt scores higher than a harmless one.
    error : Estimate
        Mean of both error rates at the language's boundary.
    least_error : Estimate
        The same at the best boundary.
    """

    auc: Estimate
    error: Estimate
    least_error: Estimate


class ShiftModel:
    """Turns labelled scores into a posterior.

    Parameters
    ----------
    prior : ShiftPrior
        What the source languages suggest.
    """

    def __init__(self, prior: ShiftPrior) -> None:
        self.prior = prior
        self._grids: dict[float, _Grid] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"prior": self.prior, "_grids": {}}

    @cached_property
    def unseen(self) -> LanguageShift:
        """The shift to expect of a language without any evidence."""
        found = self.update(LabelledScores.none())
        return found._replace(boundary=self.prior.boundary)

    def update(self, shots: LabelledScores) -> LanguageShift:
        """Update the prior by any number of labelled scores, of one class or both."""
        classes = [condense(*shots.of_class(label)) for label in (0, 1)]
        grid = self._grid(classes)
        return grid.summarize(grid.posterior(classes))

    def quantify(self, shots: LabelledScores) -> Quality:
        """Quantify how well the classes of a language can be told apart."""
        classes = [condense(*shots.of_class(label)) for label in (0, 1)]
        grid = self._grid(classes)
        return grid.quantify(grid.posterior(classes))

    def _grid(self, classes: list[tuple[Floats, Floats]]) -> _Grid:
        """Find the grid that covers scores, made once for each reach."""
        prior = self.prior
        medians = [float(np.median(scores)) for scores, _ in classes if len(scores)]
        far = max((abs(m - prior.boundary) for m in medians), default=0.0)
        needed = (far - prior.gap / 2) / prior.unit + _MARGIN
        reach = _REACH * 2 ** max(0.0, np.ceil(np.log2(max(needed, 1e-9) / _REACH)))
        if reach not in self._grids:
            self._grids[reach] = _Grid(prior, reach)
        return self._grids[reach]


class _Grid:
    """All combinations of the classes' mean scores and the width."""

    def __init__(self, prior: ShiftPrior, reach: float) -> None:
        self.prior = prior
        step = _STEP * reach * prior.unit
        n = int(np.ceil((prior.gap / 2 + reach * prior.unit) / step))
        self.means: Floats = prior.boundary + step * np.arange(-n, n + 1, dtype=np.float64)
        boundary, squeeze = prior.boundary_and_squeeze(self.means[:, None], self.means)
        self.log_prior = prior.log_density(boundary[..., None], squeeze[..., None], np.log(_WIDTHS))
        self.boundary, self.gap = boundary, squeeze * prior.gap
        self.order = np.argsort(boundary, axis=None)
        self.density = [
            np.exp(log_t(self.means[:, None, None] - self.means[:, None], scale, SCORE_TAILS))
            for scale in self._scales()
        ]
        both = _WIDTHS * prior.spread.sum()
        self.least_error = stdtr(SCORE_TAILS, -self.gap[..., None] / both)

    def posterior(self, classes: list[tuple[Floats, Floats]]) -> Floats:
        """Update the prior by the (scores, weights) of the classes."""
        tables = [
            np.tensordot(
                weights,
                log_t(scores[:, None, None] - self.means[:, None], scale, SCORE_TAILS),
                1,
            )
            for (scores, weights), scale in zip(classes, self._scales(), strict=True)
        ]
        log_joint = self.log_prior + tables[0][:, None] + tables[1][None]
        joint: Floats = np.exp(log_joint - log_joint.max())
        return joint / joint.sum()

    def summarize(self, joint: Floats) -> LanguageShift:
        """Summarize a posterior."""
        of_means = joint.sum(axis=2)
        boundary, deviation = self._moments(of_means)
        low, high = self._quantiles(of_means)
        width = float(joint.sum(axis=(0, 1)) @ _WIDTHS)
        best = self._least_error(joint)
        misfit = width * self.prior.misfit * self.prior.unit
        return LanguageShift(
            boundary=best,
            deviation=float(np.hypot(deviation, misfit)),
            gap=float((of_means * self.gap).sum()),
            width=width,
            interval=(
                min(best, boundary - float(np.hypot(boundary - low, NORMAL * misfit))),
                max(best, boundary + float(np.hypot(high - boundary, NORMAL * misfit))),
            ),
            weak=float(joint[self.least_error >= WEAK].sum()),
        )

    def quantify(self, joint: Floats) -> Quality:
        """Quantify how well the classes can be told apart."""
        best = self._least_error(joint)
        beyond = [
            stdtr(SCORE_TAILS, sign * (self.means[:, None] - best) / scale)
            for sign, scale in zip((1, -1), self._scales(), strict=True)
        ]
        # The difference of two scores is about normal.
        noise = _WIDTHS * np.sqrt((self.prior.spread**2).sum() * SCORE_TAILS / (SCORE_TAILS - 2))
        return Quality(
            auc=_estimate(joint, ndtr(self.gap[..., None] / noise)),
            error=_estimate(joint, (beyond[0][:, None] + beyond[1][None]) / 2),
            least_error=_estimate(joint, self.least_error),
        )

    def _scales(self) -> list[Floats]:
        return [_WIDTHS * spread for spread in self.prior.spread]

    def _moments(self, of_means: Floats) -> tuple[float, float]:
        mean = float((of_means * self.boundary).sum())
        return mean, float(np.sqrt((of_means * (self.boundary - mean) ** 2).sum()))

    def _quantiles(self, of_means: Floats) -> tuple[float, float]:
        total = np.cumsum(of_means.ravel()[self.order])
        at = np.searchsorted(total, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        low, high = self.boundary.ravel()[self.order[np.minimum(at, len(total) - 1)]]
        return float(low), float(high)

    def _least_error(self, joint: Floats) -> float:
        """Find where the classes' predictive densities cross, at the least expected error."""
        harmless = np.tensordot(self.density[0], joint.sum(axis=1), 2)
        harmful = np.tensordot(self.density[1], joint.sum(axis=0), 2)
        excess = harmful - harmless
        i = int(np.argmin(np.cumsum(excess)))
        if i + 1 == len(excess) or excess[i] > 0:
            return float(self.means[i])
        share = -excess[i] / (excess[i + 1] - excess[i])
        return float(self.means[i] + share * (self.means[i + 1] - self.means[i]))


def _estimate(joint: Floats, values: Floats) -> Estimate:
    order = np.argsort(values, axis=None)
    total = np.cumsum(joint.ravel()[order])
    at = np.searchsorted(total, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    low, high = values.ravel()[order[np.minimum(at, len(total) - 1)]]
    return Estimate(float((joint * values).sum()), float(low), float(high))


def condense(scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Replace many scores by means of equal shares of their weight, from low to high."""
    if weights.sum() <= _MOST_SCORES:
        return scores, weights
    order = np.argsort(scores)
    totals, sums = (
        np.concatenate([[0.0], np.cumsum(values[order])]) for values in (weights, weights * scores)
    )
    shares = np.linspace(0.0, totals[-1], _MOST_SCORES + 1)
    return np.diff(np.interp(shares, totals, sums)) / np.diff(shares), np.diff(shares)
