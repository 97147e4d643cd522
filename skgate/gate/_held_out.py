"""Scores of source rows by probes that have not seen them, and the regularization they favour."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_expit

from skgate.gate._folds import Folds
from skgate.gate._readout import ProbeFitter, Readout
from skgate.gate._subspace import Bools, Floats

GRID = (0.01, 0.1, 1.0)
_WITHOUT_FOLDS = 0.1  # of GRID, if nothing can be left out


class Fitted(NamedTuple):
    """A probe of the source rows.

    Attributes
    ----------
    readout : Readout
        The probe and its features.
    C : float
        Its inverse regularization.
    scores : ndarray of shape (n,)
        The source rows' scores, each by a probe that has not seen its language (or fold); by the
        probe itself if nothing could be left out.
    seen_scores : ndarray of shape (n,)
        Their scores by the probe itself.
    log_loss : dict of float to float
        The mean log loss of such scores for each value of C that was tried.
    """

    readout: Readout
    C: float
    scores: Floats
    seen_scores: Floats
    log_loss: dict[float, float]


def fit_held_out(
    fitter: ProbeFitter,
    X: Floats,
    harmful: Bools,
    weight: Floats,
    folds: Folds | None,
    C: float | str,
) -> Fitted:
    """Fit a probe, and score the source rows by probes fitted without their part.

    Parameters
    ----------
    fitter : ProbeFitter
        Fits the probes.
    X : ndarray of shape (n, d)
        Source rows.
    harmful, weight : ndarrays of shape (n,)
        Labels and positive weights.
    folds : ndarray of int of shape (n,) or None
        The parts to leave out, as :func:`skgate.gate._folds.find_folds` returns them; None to
        score the rows by the probe itself.
    C : float or "auto"
        Inverse regularization. "auto" is the smallest value on a grid whose log loss, averaged over
        the parts, exceeds the lowest by no more than its standard error (the one-standard-error
        rule of Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees", 1984).

    Returns
    -------
    fitted : Fitted
        The probe, its C, and the scores.
    """
    if folds is None:
        used = _WITHOUT_FOLDS if isinstance(C, str) else C
        readout = fitter.fit(used)
        scores = readout.probe(readout.features(X))
        return Fitted(readout, used, scores, scores, {})
    found, losses = {}, {}
    for one in GRID if isinstance(C, str) else (C,):
        readout = fitter.fit(one)
        scores = np.empty(len(X))
        for part in range(int(folds.max()) + 1):
            scores[folds == part] = fitter.fit_without(part, one)
        found[one] = readout, scores
        losses[one] = _losses(scores, harmful, weight, folds)
    means = {one: float(loss.mean()) for one, loss in losses.items()}
    best = min(means, key=means.__getitem__)
    margin = losses[best].std(ddof=1) / np.sqrt(len(losses[best]))
    chosen = min(one for one, mean in means.items() if mean <= means[best] + margin)
    readout, scores = found[chosen]
    return Fitted(readout, chosen, scores, readout.probe(readout.features(X)), means)


def _losses(scores: Floats, harmful: Bools, weight: Floats, folds: Folds) -> Floats:
    """Compute the log loss in each part, with both classes of a part weighted equally."""
    loss = -log_expit(np.where(harmful, scores, -scores))
    return np.array(
        [
            np.mean(
                [
                    np.average(loss[rows], weights=weight[rows])
                    for label in (harmful, ~harmful)
                    if (rows := (folds == part) & label).any()
                ]
            )
            for part in range(int(folds.max()) + 1)
        ]
    )
