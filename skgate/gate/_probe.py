"""Linear probes, and the rows they are fitted on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

from skgate.gate._subspace import Bools, Floats

# Up to this many features, Newton's method is fast and its optimum exact to about 8 digits.
MAX_NEWTON_FEATURES = 128
_ROUNDING = 1e-14  # of a mean


class LabelledRows(NamedTuple):
    """Labelled prompts, as the features that a probe is fitted on."""

    z: Floats  # (n, n_features)
    harmful: Bools  # (n,)
    weight: Floats  # (n,)

    def take(self, rows: Bools) -> LabelledRows:
        """Return some of the rows."""
        return LabelledRows(self.z[rows], self.harmful[rows], self.weight[rows])

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

    coef: Floats  # (n_features,)
    intercept: float

    def __call__(self, z: Floats) -> Floats:
        """Score rows of shape (n, n_features)."""
        scores: Floats = z @ self.coef + self.intercept
        return scores

    def with_threshold(self, threshold: float) -> Probe:
        """Return the score that is 0 where this one is ``threshold``."""
        return Probe(self.coef, self.intercept - threshold)

    def scaled(self, factor: float) -> Probe:
        """Return the score with the same boundary, steeper by ``factor``."""
        return Probe(self.coef * factor, self.intercept * factor)

    def before_standardizing(self, mean: Floats, scale: Floats) -> Probe:
        """Return this score of standardized rows as one of the rows before."""
        coef = self.coef / scale
        return Probe(coef, float(self.intercept - mean @ coef))


def standardization(z: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Compute the mean and the standard deviation of each feature, 1 for constant ones."""
    share = weight / weight.sum()
    mean = share @ z
    squares = z - mean
    np.square(squares, out=squares)
    scale = np.sqrt(share @ squares)
    scale[scale <= _ROUNDING * np.abs(mean)] = 1.0
    return mean, scale


def balance(harmful: Bools, weight: Floats) -> Floats:
    """Scale the weights so that both classes weigh the same, and all as much as before."""
    per_class = np.array([weight[~harmful].sum(), weight[harmful].sum()])
    scaled: Floats = weight * (weight.sum() / (2 * per_class))[harmful.astype(int)]
    return scaled


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
    mean, scale = standardization(rows.z, rows.weight)
    standardized = rows._replace(z=(rows.z - mean) / scale)
    return fit_logistic(standardized, C).before_standardizing(mean, scale)


def fit_logistic(rows: LabelledRows, C: float) -> Probe:
    """Fit a logistic regression on rows as they are, with both classes weighted equally.

    Parameters
    ----------
    rows : LabelledRows
        Rows of both classes; those of weight 0 don't count.
    C : float
        Inverse strength of the L2 regularization.

    Returns
    -------
    probe : Probe
        The optimum.
    """
    z, harmful, weight = rows
    if z.shape[1] <= MAX_NEWTON_FEATURES:
        solver = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-8, max_iter=1000)
    else:
        solver = LogisticRegression(C=C, tol=1e-4, max_iter=1000)
    solver.fit(z, harmful, sample_weight=balance(harmful, weight))
    return Probe(solver.coef_[0], float(solver.intercept_[0]))
