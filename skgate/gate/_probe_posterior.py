"""A probe that starts at the source probe and is adjusted to a language's shots."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.special import expit
from sklearn.utils.extmath import randomized_svd

from skgate.gate._probe import LabelledRows, Probe, balance, standardization
from skgate.gate._scores import LabelledScores
from skgate.gate._subspace import Floats

_RANK = 64  # directions in which the sources hold the probe
_EXACT = 512  # features up to which these are found exactly
_SHOT_WEIGHT = 0.5  # of a source row
_MAX_STEPS = 100
_LONGEST_STEP = 2.0  # of any shot's score
_TOLERANCE = 1e-8

Singles = npt.NDArray[np.float32]


class ProbePosterior(NamedTuple):
    """What the source rows tell of a language's probe: a normal distribution of its coefficients.

    The mean is the source probe, and the covariance is that of the Laplace approximation, with 1/4,
    its largest value, as the curvature of the log loss:

        inv(I / C + Z' W Z / 4) = C (I - U diag(C e / (1 + C e)) U')

    for standardized source rows ``Z``, their weights ``W``, and the largest eigenvalues ``e`` and
    eigenvectors ``U`` of ``Z' W Z / 4``. The score of ``center`` does not move, and the source
    rows' scores spread as before: how a language's scores shift and squeeze is left to the prior of
    the shift.

    Attributes
    ----------
    probe : Probe
        The source probe.
    center : ndarray of shape (n_features,)
        The middle between the class means of the source rows.
    scale : ndarray of shape (n_features,)
        Standard deviation of each feature.
    C : float
        Inverse regularization of the source probe.
    vectors : ndarray of shape (n_features, k)
        The eigenvectors.
    values : ndarray of shape (k,)
        The eigenvalues.
    """

    probe: Probe
    center: Floats
    scale: Floats
    C: float
    vectors: Floats | Singles
    values: Floats

    def move(self, shots: LabelledRows) -> tuple[Probe, LabelledScores]:
        """Find the most probable probe, given shots of both classes.

        Parameters
        ----------
        shots : LabelledRows
            The shots.

        Returns
        -------
        probe : Probe
            Its scores are on the scale of the source probe's.
        scores : LabelledScores
            The score of each shot by a probe that has not seen it, to first order [1]_.

        References
        ----------
        .. [1] Rad, Maleki, "A Scalable Estimate of the Out-of-Sample Prediction Error via
           Approximate Leave-One-Out Cross-Validation", JRSS B 82, 2020.
        """
        spread = self.times_root((shots.z - self.center) / self.scale)
        basis = None
        if len(spread) < spread.shape[1]:
            basis, triangle = np.linalg.qr(spread.T)
            spread = triangle.T
        weight = _SHOT_WEIGHT * balance(shots.harmful, shots.weight)
        start, sign = self.probe(shots.z), np.where(shots.harmful, 1.0, -1.0)
        scores, moved = start, np.zeros(spread.shape[1])
        for _ in range(_MAX_STEPS):
            slope, inner = _derivatives(scores, sign, weight, spread)
            step = cho_solve(inner, moved + spread.T @ slope)
            longest = np.abs(spread @ step).max()
            moved = moved - step * min(1.0, _LONGEST_STEP / max(longest, _TOLERANCE))
            scores = start + spread @ moved
            if longest < _TOLERANCE:
                break
        slope, inner = _derivatives(scores, sign, weight, spread)
        variance = np.einsum("ij,ji->i", spread, cho_solve(inner, spread.T))
        curvature = weight * expit(scores) * expit(-scores)
        once = 1 / np.maximum(shots.weight, 1.0)  # a weight of 2 stands for two equal shots
        left_out = scores + once * variance * slope / (1 - once * variance * curvature)
        coef = self.probe.coef
        coef = coef + self.times_root(moved if basis is None else basis @ moved) / self.scale
        factor = self._size(self.probe.coef) / (self._size(coef) or 1.0)
        middle = float(self.probe(self.center))
        probe = Probe(factor * coef, float(middle - factor * self.center @ coef))
        left_out = middle + factor * (left_out - middle)
        return probe, LabelledScores(left_out, shots.harmful, shots.weight)

    def _size(self, coef: Floats) -> float:
        """Measure how far the source rows' scores spread."""
        return float(np.linalg.norm(np.sqrt(self.values) * ((coef * self.scale) @ self.vectors)))

    def times_root(self, z: Floats) -> Floats:
        """Multiply rows with the root of the covariance."""
        shrunk = 1 - 1 / np.sqrt(1 + self.C * self.values)
        found: Floats = np.sqrt(self.C) * (z - (z @ self.vectors * shrunk) @ self.vectors.T)
        return found


def _derivatives(
    scores: Floats, sign: Floats, weight: Floats, spread: Floats
) -> tuple[Floats, tuple[Floats, bool]]:
    """Compute the loss's slope in each score, and factorize the Hessian of the objective."""
    slope = -sign * weight * expit(-sign * scores)
    curvature = weight * expit(scores) * expit(-scores)
    hessian = np.eye(spread.shape[1]) + (spread.T * curvature) @ spread
    return slope, cho_factor(hessian)


def learn_posterior(rows: LabelledRows, probe: Probe, C: float) -> ProbePosterior:
    """Learn from the source rows where a language's probe may lie.

    Parameters
    ----------
    rows : LabelledRows
        The source rows.
    probe : Probe
        The source probe.
    C : float
        Its inverse regularization.

    Returns
    -------
    posterior : ProbePosterior
        The distribution of a language's probe.
    """
    _, scale = standardization(rows.z, rows.weight)
    weight = balance(rows.harmful, rows.weight)
    center = weight @ rows.z / weight.sum()
    z = np.empty(rows.z.shape, np.float64 if rows.z.shape[1] <= _EXACT else np.float32)
    np.subtract(rows.z, center, out=z, casting="same_kind")
    z /= scale.astype(z.dtype)
    z *= np.sqrt(weight / 4).astype(z.dtype)[:, np.newaxis]
    return ProbePosterior(probe, center, scale, C, *_largest_eigenpairs(z))


def _largest_eigenpairs(z: Floats | Singles) -> tuple[Floats | Singles, Floats]:
    """Find the largest eigenvalues of ``z' z``, and their vectors as columns."""
    n, width = z.shape
    k = min(_RANK, n, width)
    if width <= _EXACT:
        values, vectors = eigh(z.T @ z, subset_by_index=[width - k, width - 1])
        return vectors, np.maximum(values, 0)
    _, roots, rows = randomized_svd(z, k, n_iter=3, random_state=0)
    return rows.T, roots.astype(float) ** 2
