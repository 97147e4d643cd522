"""Linear harm scores on the harmfulness subspace, and the rows they are fitted on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

from skgate.gate._subspace import Bools, Floats


class Rows(NamedTuple):
    """Labelled prompts, projected on the harmfulness subspace."""

    z: Floats  # (n, rank)
    harmful: Bools  # (n,)
    weight: Floats  # (n,)

    def take(self, rows: Bools) -> Rows:
        """Return some of the rows."""
        return Rows(self.z[rows], self.harmful[rows], self.weight[rows])

    def empty(self) -> Rows:
        """Return none of the rows."""
        return Rows(self.z[:0], self.harmful[:0], self.weight[:0])

    @property
    def has_both_classes(self) -> bool:
        """Whether there are harmful and harmless rows."""
        return bool(self.harmful.any() and not self.harmful.all())


def stack(*groups: Rows | None) -> Rows | None:
    """Put groups of rows below each other; None without any."""
    found = [rows for rows in groups if rows is not None]
    if not found:
        return None
    return Rows(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


class Readout(NamedTuple):
    """A linear harm score; greater than 0 means harmful."""

    coef: Floats  # (rank,)
    intercept: float

    def __call__(self, z: Floats) -> Floats:
        """Score rows of shape (n, rank)."""
        scores: Floats = z @ self.coef + self.intercept
        return scores

    def lowered(self, threshold: float) -> Readout:
        """Return the score whose boundary is this one's ``threshold``."""
        return Readout(self.coef, self.intercept - threshold)

    def scaled(self, factor: float) -> Readout:
        """Return the score of the same boundary that is steeper by ``factor``."""
        return Readout(self.coef * factor, self.intercept * factor)


def fit_readout(rows: Rows, C: float) -> Readout:
    """Fit a logistic regression on the standardised rows, both classes weighing the same.

    Parameters
    ----------
    rows : Rows
        Rows of both classes.
    C : float
        Inverse strength of the L2 regularisation.

    Returns
    -------
    readout : Readout
        The optimum, as a score of unstandardised rows.
    """
    z, harmful, weight = rows
    mean = np.average(z, axis=0, weights=weight)
    scale = np.sqrt(np.average((z - mean) ** 2, axis=0, weights=weight))
    scale[scale <= np.finfo(float).eps * np.abs(mean)] = 1.0
    per_class = np.array([weight[~harmful].sum(), weight[harmful].sum()])
    balance = (weight.sum() / (2 * per_class))[harmful.astype(int)]
    solver = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-8, max_iter=1000)
    solver.fit((z - mean) / scale, harmful, sample_weight=weight * balance)
    coef = solver.coef_[0] / scale
    return Readout(coef, float(solver.intercept_[0] - mean @ coef))
