"""Logistic regression on thousands of features, for many weightings of the same rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from skgate.gate._probe import Probe, balance
from skgate.gate._subspace import Bools, Floats

Singles = npt.NDArray[np.float32]

_GRADIENT = 1e-5  # of the mean loss, in the coordinates of the preconditioner
_MAX_STEPS = 500
_ROUNDING = 1e-6  # of a matrix in float32


class WideLogistic:
    """Solves logistic regressions that differ in C and in the rows' weights.

    L-BFGS takes hundreds of steps on the correlated features of a language model. It takes tens in
    coordinates in which the Hessian of a similar problem is the identity matrix. These only
    change the way to the optimum.

    Parameters
    ----------
    z : ndarray of shape (n, n_features), float32
        Standardized rows.
    harmful : ndarray of bool of shape (n,)
        Labels.
    """

    def __init__(self, z: Singles, harmful: Bools) -> None:
        self._z, self._harmful = z, harmful
        self._sign = np.where(harmful, 1.0, -1.0)
        self._root: Singles = np.zeros((0, 0), np.float32)  # R of the Hessian R' R

    def solve(self, weight: Floats, C: float, start: Probe | None) -> Probe:
        """Minimize ``sum(weight * log_loss) + |coef|^2 / (2 C)``, both classes weighted equally.

        Parameters
        ----------
        weight : ndarray of shape (n,)
            Weights; 0 for rows that don't count.
        C : float
            Inverse strength of the L2 regularization.
        start : Probe or None
            Where to start.

        Returns
        -------
        probe : Probe
            The optimum.
        """
        weight = balance(self._harmful, weight)
        total = weight.sum()
        if not len(self._root):
            self._factorize(weight / 4, C)

        def loss(point: Floats) -> tuple[float, Floats]:
            coef = self._solve(point[:-1])
            margin = self._sign * (self._z @ coef + point[-1])
            slope = -self._sign * weight * expit(-margin) / total
            gradient = self._z.T @ slope.astype(np.float32) + coef / np.float32(C * total)
            squares = float(coef.astype(float) @ coef)
            value = -(weight @ log_expit(margin)) / total + squares / (2 * C * total)
            return value, np.append(self._solve(gradient, trans=1), slope.sum()).astype(float)

        first = np.zeros(self._z.shape[1] + 1)
        if start is not None:
            first = np.append(self._root @ start.coef.astype(np.float32), start.intercept)
        found = minimize(
            loss,
            first.astype(np.float64),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _MAX_STEPS, "maxfun": 2 * _MAX_STEPS, "gtol": _GRADIENT, "ftol": 0},
        )
        return Probe(self._solve(found.x[:-1]).astype(float), float(found.x[-1]))

    def precondition(self, weight: Floats, C: float, probe: Probe) -> None:
        """Use the Hessian at an optimum for the problems to come."""
        chance = expit(self._z @ probe.coef.astype(np.float32) + probe.intercept)
        self._factorize(balance(self._harmful, weight) * chance * (1 - chance), C)

    def _factorize(self, curvature: Floats, C: float) -> None:
        root = self._z * np.sqrt(curvature).astype(np.float32)[:, np.newaxis]
        hessian = root.T @ root
        del root
        diagonal = np.einsum("ii->i", hessian)
        diagonal += max(1 / C, _ROUNDING * float(diagonal.max()))
        hessian /= np.float32(len(self._z))
        self._root = cholesky(hessian, overwrite_a=True, check_finite=False)

    def _solve(self, vector: Floats | Singles, trans: int = 0) -> Singles:
        found: Singles = solve_triangular(
            self._root, vector.astype(np.float32), trans=trans, check_finite=False
        )
        return found
