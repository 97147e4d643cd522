"""Detect the language of a prompt from its activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.random_projection import GaussianRandomProjection

from skgate.gate._subspace import Bools, Floats

_DIMENSIONS = 64
_RIDGE = 1e-3
_TAILS = 20.0
_MIN_DISTANCE = 3.0


class LanguageStatistics(NamedTuple):
    """Sum and weight of a language's activations, projected and whitened by a detector."""

    total: Floats  # (k,)
    weight: float

    def __add__(self, other: object) -> LanguageStatistics:
        if not isinstance(other, LanguageStatistics):
            return NotImplemented
        return LanguageStatistics(self.total + other.total, self.weight + other.weight)


class LanguageDetector:
    """Detects languages by distributions of activations around the languages' means.

    Activations are projected at random onto at most 64 dimensions and whitened by the covariance
    within a source language. The languages' means are assumed to lie around the mean ``m`` of the
    source languages' means, with the variance ``b`` of these (at least three standard deviations
    in all).
    A language with ``n`` rows of sum ``s`` has a t distribution around
    ``(s + m / b) / (n + 1 / b)`` with variance ``1 + 1 / (n + 1 / b)``. A language that was never
    seen is the case ``n = 0``.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Source rows.
    languages : sequence of ndarray of bool of shape (n,)
        The rows of each source language.
    weight : ndarray of shape (n,)
        Positive weights.
    """

    def __init__(self, X: Floats, languages: Sequence[Bools], weight: Floats) -> None:
        self._projection = None
        if X.shape[1] > _DIMENSIONS:
            projection = GaussianRandomProjection(_DIMENSIONS, random_state=0).fit(X[:1])
            self._projection = np.asarray(projection.components_.T)
        self._whitening = np.eye(min(X.shape[1], _DIMENSIONS))
        residual = self.project(X)
        means = np.array(
            [np.average(residual[rows], axis=0, weights=weight[rows]) for rows in languages]
        )
        for rows, mean in zip(languages, means, strict=True):
            residual[rows] -= mean
        freedom = max(1.0, weight.sum() - len(languages))
        covariance = _shrink((residual.T * weight) @ residual / freedom, freedom)
        root = np.linalg.cholesky(covariance)
        self._whitening = np.linalg.inv(root).T
        means = means @ self._whitening
        self._center = means.mean(axis=0)
        squares = ((means - self._center) ** 2).sum(axis=1).sum() / max(1, len(means) - 1)
        self._between = max(float(squares), _MIN_DISTANCE**2) / len(self._center)

    def project(self, X: Floats) -> Floats:
        """Project rows of d numbers onto k whitened ones."""
        projected: Floats = X if self._projection is None else X @ self._projection
        return projected @ self._whitening

    def summarize(self, total: Floats, weight: float) -> LanguageStatistics:
        """Summarize rows of one language, given their sum of shape (d,) and their weight."""
        return LanguageStatistics(self.project(total), float(weight))

    def log_likelihood(self, X: Floats, languages: Sequence[LanguageStatistics]) -> Floats:
        """Compute the log density of rows in each language and, last, in one never seen.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Activations.
        languages : sequence of LanguageStatistics
            The known languages.

        Returns
        -------
        log_likelihood : ndarray of shape (n, n_languages + 1)
            Up to a constant of each row.
        """
        projected = self.project(X)
        seen = [*languages, LanguageStatistics(np.zeros_like(self._center), 0.0)]
        precision = np.array([one.weight for one in seen]) + 1 / self._between
        totals = np.array([one.total for one in seen])
        centers = (totals + self._center / self._between) / precision[:, None]
        variance = 1 + 1 / precision
        squares = (projected**2).sum(axis=1)[:, None] + (centers**2).sum(axis=1)
        distance = np.maximum(squares - 2 * projected @ centers.T, 0.0) / variance
        size = len(self._center)
        return -(_TAILS + size) / 2 * np.log1p(distance / _TAILS) - size / 2 * np.log(variance)


def _shrink(covariance: Floats, freedom: float) -> Floats:
    """Shrink an estimated covariance towards a multiple of the identity.

    The oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero (IEEE Transactions on Signal
    Processing 58, 2010), as in :func:`sklearn.covariance.oas`, which takes no weights.
    """
    size = len(covariance)
    mean = np.trace(covariance) / size
    if mean == 0:
        return np.eye(size)
    alpha = (covariance**2).mean()
    above = (freedom + 1) * (alpha - mean**2 / size)
    share = min(1.0, (alpha + mean**2) / above) if above > 0 else 1.0
    share = max(share, _RIDGE)
    return (1 - share) * covariance + share * mean * np.eye(size)
