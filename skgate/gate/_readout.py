"""What a probe reads of the activations: a subspace, or all dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpstrf

from skgate.gate._folds import Folds
from skgate.gate._probe import (
    MAX_NEWTON_FEATURES,
    LabelledRows,
    Probe,
    fit_logistic,
    fit_probe,
    standardization,
)
from skgate.gate._subspace import Bools, Floats, class_sums, direction_between, harm_basis
from skgate.gate._wide_logistic import WideLogistic


class Readout(NamedTuple):
    """A probe, and the features that it reads.

    Attributes
    ----------
    basis : ndarray of shape (d, n_features) or None
        What activations are multiplied with; None if the features are the activations themselves.
    probe : Probe
        A score of the features.
    """

    basis: Floats | None
    probe: Probe

    def features(self, X: Floats) -> Floats:
        """Compute the features of activations of shape (n, d)."""
        return X if self.basis is None else X @ self.basis

    def on_activations(self) -> Probe:
        """Return the score as one of activations."""
        if self.basis is None:
            return self.probe
        return self.probe._replace(coef=self.basis @ self.probe.coef)


class ProbeFitter(Protocol):
    """Fits probes to the source rows, or to all but one part of them.

    Attributes
    ----------
    rank : int
        Dimensions that the probe reads.
    """

    rank: int

    def fit(self, C: float) -> Readout:
        """Fit a probe to all source rows."""

    def fit_without(self, part: int, C: float) -> Floats:
        """Fit a probe to all source rows but a part, and score the rows of that part."""


class SubspaceFitter:
    """Fits probes on the subspace that the source languages' directions span.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Source rows.
    harmful, weight : ndarrays of shape (n,)
        Labels and positive weights.
    languages : sequence of ndarray of bool of shape (n,)
        The rows of each language.
    sums : tuple of ndarray
        Sums of each language's rows, as :func:`skgate.gate._subspace.class_sums` returns them.
    folds : ndarray of int of shape (n,) or None
        The parts to leave out.
    rank : int
        Largest number of dimensions.
    pooled : ndarray of shape (d,)
        The pooled direction, which fixes the signs of the basis.
    """

    def __init__(
        self,
        X: Floats,
        harmful: Bools,
        weight: Floats,
        languages: Sequence[Bools],
        sums: tuple[Floats, Floats],
        folds: Folds | None,
        rank: int,
        pooled: Floats,
    ) -> None:
        units = _unit_directions(*sums, pooled)
        self._basis = harm_basis(units, len(units), pooled)[:, :rank]
        self.rank = self._basis.shape[1]
        if folds is None:
            self._rows = LabelledRows(X @ self._basis, harmful, weight)
            return
        self._folds = folds
        units_without = [
            _unit_directions(sums[0] - held[0], sums[1] - held[1], pooled)
            for held in _sums_of_parts(X, harmful, weight, languages, sums, folds)
        ]
        every = np.concatenate(units_without)
        space = harm_basis(every, len(every), pooled)
        self._units_without = [one @ space for one in units_without]
        both = X @ np.hstack([self._basis, space])
        self._rows = LabelledRows(both[:, : self.rank], harmful, weight)
        self._wide_rows = LabelledRows(both[:, self.rank :], harmful, weight)

    def fit(self, C: float) -> Readout:
        """Fit a probe to all source rows."""
        return Readout(self._basis, fit_probe(self._rows, C))

    def fit_without(self, part: int, C: float) -> Floats:
        """Fit a probe, and the subspace, to all source rows but a part, and score that part."""
        units = self._units_without[part]
        basis = harm_basis(units, self.rank, units.mean(axis=0))
        out = self._folds == part
        kept = self._wide_rows.take(~out)
        probe = fit_probe(kept._replace(z=kept.z @ basis), C)
        return probe(self._wide_rows.z[out] @ basis)


class FullFitter:
    """Fits probes on all dimensions, standardized over the source rows.

    With fewer rows than dimensions, the rows are written in an orthonormal basis of the space that
    they span. The optimum lies in this space, so it is the same.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Source rows.
    harmful, weight : ndarrays of shape (n,)
        Labels and positive weights.
    folds : ndarray of int of shape (n,) or None
        The parts to leave out.
    project : bool
        Whether the feature that readouts give is the score along the probe alone, rather than all
        dimensions.
    """

    def __init__(
        self, X: Floats, harmful: Bools, weight: Floats, folds: Folds | None, *, project: bool
    ) -> None:
        self.rank = X.shape[1]
        self._folds, self._project = folds, project
        self._mean, self._scale = standardization(X, weight)
        self._span = _Span((X - self._mean) / self._scale) if len(X) < X.shape[1] else None
        n_features = X.shape[1] if self._span is None else self._span.coordinates.shape[1]
        wide = n_features > MAX_NEWTON_FEATURES
        z = np.empty((len(X), n_features), np.float32 if wide else np.float64)
        if self._span is None:
            np.subtract(X, self._mean, out=z, casting="same_kind")
            z /= self._scale.astype(z.dtype)
        else:
            z[:] = self._span.coordinates
        self._rows = LabelledRows(z, harmful, weight)
        self._solver = WideLogistic(z, harmful) if wide else None
        self._start: Probe | None = None

    def fit(self, C: float) -> Readout:
        """Fit a probe to all source rows."""
        probe = self._fit(self._rows.weight, C)
        if self._solver is not None:
            self._solver.precondition(self._rows.weight, C, probe)
            probe = self._start = self._solver.solve(self._rows.weight, C, probe)
        if self._span is not None:
            probe = probe._replace(coef=self._span.direction(probe.coef))
        probe = probe.before_standardizing(self._mean, self._scale)
        length = float(np.linalg.norm(probe.coef))
        if not self._project:
            return Readout(None, probe)
        direction = probe.coef / (length or 1.0)
        return Readout(direction[:, np.newaxis], Probe(np.array([length]), probe.intercept))

    def fit_without(self, part: int, C: float) -> Floats:
        """Fit a probe to all source rows but a part, and score the rows of that part."""
        out = self._folds == part
        return self._fit(np.where(out, 0.0, self._rows.weight), C)(self._rows.z[out])

    def _fit(self, weight: Floats, C: float) -> Probe:
        if self._solver is None:
            return fit_logistic(self._rows._replace(weight=weight), C)
        return self._solver.solve(weight, C, self._start)


class _Span:
    """An orthonormal basis of the space that fewer rows than dimensions span.

    With ``z z' = L L'``, the Cholesky decomposition with pivoting, ``z = L Q'`` for a ``Q`` with
    orthonormal columns: the coordinates are ``L``, and ``Q b`` is ``z' inv(L)' b``.
    """

    def __init__(self, z: Floats) -> None:
        factor, pivots, rank, _ = dpstrf(z @ z.T, lower=1, overwrite_a=1)
        order = pivots - 1
        factor = np.tril(factor)[:, :rank]
        self._factor, self._rows = factor[:rank], z[order[:rank]]
        self.coordinates = factor[np.argsort(order)]

    def direction(self, coordinates: Floats) -> Floats:
        """Compute the vector of shape (d,) with these coordinates."""
        found: Floats = self._rows.T @ solve_triangular(
            self._factor, coordinates, lower=True, trans=1
        )
        return found


def _sums_of_parts(
    X: Floats,
    harmful: Bools,
    weight: Floats,
    languages: Sequence[Bools],
    sums: tuple[Floats, Floats],
    folds: Folds,
) -> Iterator[tuple[Floats, Floats]]:
    """Compute the sums of each part's rows by language and class."""
    for part in range(int(folds.max()) + 1):
        rows = [language & (folds == part) for language in languages]
        pairs = zip(rows, languages, strict=True)
        own = np.array([np.array_equal(one, language) for one, language in pairs])
        if own.any():  # the part is a language
            yield sums[0] * own[:, None, None], sums[1] * own[:, None]
        else:
            yield class_sums(X, harmful, weight, rows)


def _unit_directions(sums: Floats, weights: Floats, pooled: Floats) -> Floats:
    """Compute the unit direction of each language that has one; the pooled one if none has."""
    found = [direction_between(*of_language) for of_language in zip(sums, weights, strict=True)]
    return np.stack([unit for unit in found if unit is not None] or [pooled])
