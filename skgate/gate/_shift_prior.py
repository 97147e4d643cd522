"""The prior of how a language shifts and squeezes the scores of the source probe.

The scores of a language's harmless and harmful prompts have t distributions around two means, with
scales ``w * spread``. The language's boundary ``b`` lies between the means, as far from each as
its spread demands; the gap ``q`` between them and the width ``w`` are relative to the sources'.

Most languages hardly shift, some shift far: the prior of ``b`` has a narrow part, learned from how
the source languages differ, and a broad one. So has the prior of ``q``, independently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from skgate.gate._scores import LabelledScores, SourceScores
from skgate.gate._subspace import Floats

SCORE_TAILS = 5.0  # degrees of freedom of a language's scores: one bad shot does not sink it

# Assumptions about a new language. Round numbers; docs/benchmarks/constants.md shows what halving
# and doubling them changes. Shifts are in standard deviations of the scores within a class.
_TAILS = 3.0  # degrees of freedom of the parts
_SHIFT, _SQUEEZE = 0.35, 0.12  # narrow scales, as far as four source languages' worth of belief
_BELIEF = 4.0
_NEAR, _FAR = 4.0, 1.0  # languages that hardly shift, and that shift far, beside the sources
_BROAD_SHIFT = 1.5
_BROAD_SQUEEZE = 1.1  # the largest; harmful prompts always score higher than harmless ones
_WIDTHS = (0.15, 0.5)  # standard deviations of the logarithm of w: narrow, broad
_MIN_GAP, _MAX_GAP = 0.5, 12.0  # of the sources, in standard deviations


class ShiftPrior(NamedTuple):
    """What to expect of a new language, learned from the source languages.

    Attributes
    ----------
    boundary : float
        The pooled source's boundary: the center of a new language's.
    gap : float
        Difference between the sources' mean scores of harmful and harmless prompts.
    spread : ndarray of shape (2,)
        Standard deviation of the (harmless, harmful) scores within a source language.
    shift : float
        Scale of the narrow part of the boundary's prior.
    squeeze : float
        Scale of the narrow part of the relative gap's prior.
    near : float
        Weight of the narrow part of the boundary's prior.
    misfit : float
        Root mean square distance of a source's best boundary from the one that its means and the
        spreads suggest, in standard deviations. Shots don't reduce it.
    """

    boundary: float
    gap: float
    spread: Floats
    shift: float
    squeeze: float
    near: float
    misfit: float

    @property
    def unit(self) -> float:
        """Standard deviation of the scores within a class of a source language."""
        return float(np.sqrt((self.spread**2).mean()))

    def means(self, boundary: Floats, squeeze: Floats) -> tuple[Floats, Floats]:
        """Return the mean scores of harmless and harmful prompts."""
        share = self.spread / self.spread.sum() * self.gap
        return boundary - share[0] * squeeze, boundary + share[1] * squeeze

    def boundary_and_squeeze(self, harmless: Floats, harmful: Floats) -> tuple[Floats, Floats]:
        """Return boundary and relative gap, given the mean scores of the classes."""
        share = self.spread / self.spread.sum()
        return share[1] * harmless + share[0] * harmful, (harmful - harmless) / self.gap

    def log_density(self, boundary: Floats, squeeze: Floats, log_width: Floats) -> Floats:
        """Compute the logarithm of the prior's density."""
        shift = (boundary - self.boundary) / self.unit
        with np.errstate(divide="ignore"):
            possible = np.log(squeeze > 0)
            broad = np.log(squeeze < _BROAD_SQUEEZE) - np.log(_BROAD_SQUEEZE)
        of_shift = np.logaddexp(
            np.log(self.near) + log_t(shift, self.shift, _TAILS),
            np.log1p(-self.near) + log_t(shift, _BROAD_SHIFT, _TAILS),
        )
        of_squeeze = np.logaddexp(log_t(squeeze - 1, self.squeeze, _TAILS), broad)
        of_width = np.logaddexp(
            *(-0.5 * (log_width / scale) ** 2 - np.log(scale) for scale in _WIDTHS)
        )
        density: Floats = of_shift + (of_squeeze + possible) + of_width
        return density


def log_t(x: Floats, scale: Floats | float, tails: float) -> Floats:
    """Compute the logarithm of a t distribution's density around 0."""
    constant = gammaln((tails + 1) / 2) - gammaln(tails / 2) - 0.5 * np.log(tails * np.pi)
    density: Floats = (
        constant - np.log(scale) - (tails + 1) / 2 * np.log1p((x / scale) ** 2 / tails)
    )
    return density


def learn_prior(
    sources: SourceScores, boundary: float, best_boundary: Callable[[LabelledScores], float]
) -> ShiftPrior:
    """Learn from the source languages what to expect of a new one.

    Parameters
    ----------
    sources : SourceScores
        Scores of source rows by probes that have not seen their language.
    boundary : float
        Their pooled boundary.
    best_boundary : callable
        Maps labelled scores to the best boundary between them.

    Returns
    -------
    prior : ShiftPrior
        On the scale of the scores.
    """
    gap, spread = sources.gap_and_spread()
    unit = float(np.sqrt((spread**2).mean()))
    gap = max(gap, _MIN_GAP * unit)
    spread = np.maximum(spread, gap / _MAX_GAP)
    prior = ShiftPrior(boundary, gap, spread, _SHIFT, _SQUEEZE, _NEAR / (_NEAR + _FAR), 0.0)
    parts = sources.parts()
    if not parts:
        return prior
    means = np.array([one.statistics().mean for one in parts])
    boundaries, squeezes = prior.boundary_and_squeeze(*means.T)
    misfits = np.array([best_boundary(one) for one in parts]) - boundaries
    if len(parts) == 1:  # nothing to compare it with
        return prior._replace(misfit=float(np.abs(misfits[0]) / prior.unit))
    shifts = (boundaries - boundaries.mean()) / prior.unit
    return prior._replace(
        shift=_learn_scale(shifts, _SHIFT),
        squeeze=_learn_scale(squeezes - squeezes.mean(), _SQUEEZE),
        near=(_NEAR + len(parts)) / (_NEAR + _FAR + len(parts)),
        misfit=float(np.sqrt(np.mean(misfits**2)) / prior.unit),
    )


def _learn_scale(deviations: Floats, expected: float) -> float:
    total = _BELIEF * expected**2 + (deviations**2).sum()
    return float(np.sqrt(total / (_BELIEF + len(deviations))))
