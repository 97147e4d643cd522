"""Linear probes on the harmfulness subspace, and the rows they are fitted on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

from skgate.gate._subspace import Bools, Floats


class LabelledRows(NamedTuple):
    """Labelled prompts, projected onto the harmfulness subspace."""

    z: Floats  # (n, rank)
    harmful: Bools  # (n,)
    weight: Floats  # (n,)

    def take(self, rows: Bools) -> LabelledRows:
        """Return some of the rows."""
        return LabelledRows(self.z[rows], self.harmful[rows], self.weight[rows])

    def empty(self) -> LabelledRows:
        """Return none of the rows."""
        return LabelledRows(self.z[:0], self.harmful[:0], self.weight[:0])

    @property
    def has_both_classes(self) -> bool:
        """Whether there are harmful and harmless rows."""
        return bool(self.harmful.any() and not self.harmful.all())


def stack(*groups: LabelledRows | None) -> LabelledRows | None:
    """Concatenate groups of rows; None if all groups are None."""
    found = [rows for rows in groups if rows is not None]
    if not found:
        return None
    return LabelledRows(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


class Probe(NamedTuple):
    """A linear harm score; greater than 0 means harmful."""

    coef: Floats  # (rank,)
    intercept: float

    def __call__(self, z: Floats) -> Floats:
        """Score rows of shape (n, rank)."""
        scores: Floats = z @ self.coef + self.intercept
        return scores

    def with_threshold(self, threshold: float) -> Probe:
        """Return the score that is 0 where this one is ``threshold``."""
        return Probe(self.coef, self.intercept - threshold)

    def scaled(self, factor: float) -> Probe:
        """Return the score with the same boundary, steeper by ``factor``."""
        return Probe(self.coef * factor, self.intercept * factor)


def fit_probe(rows: LabelledRows, C: float) -> Probe:
    """Fit a logistic regression on standardized rows, with both classes weighted equally.

    Parameters
    ----------
    rows : LabelledRows
        Rows of both classes.
    C : float
        Inverse strength of the L2 regularization.

    Returns
    -------
    probe : Probe
        The optimum, as a score of the rows before standardization.
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
    return Probe(coef, float(solver.intercept_[0] - mean @ coef))
