"""The harm direction and the harmfulness subspace of labelled activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def class_sums(
    X: Floats, harmful: Bools, weight: Floats, groups: Sequence[Bools]
) -> tuple[Floats, Floats]:
    """Sum the rows of every group and class, in one pass over ``X``.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Activations.
    harmful : ndarray of bool of shape (n,)
        Labels.
    weight : ndarray of shape (n,)
        Positive weights.
    groups : sequence of ndarray of bool of shape (n,)
        The rows of each group.

    Returns
    -------
    sums : ndarray of shape (n_groups, 2, d)
        Weighted sums of the (harmless, harmful) rows.
    weights : ndarray of shape (n_groups, 2)
        Their weights.
    """
    members = np.array([rows & label for rows in groups for label in (~harmful, harmful)]) * weight
    sums = (members @ X).reshape(len(groups), 2, X.shape[1])
    return sums, members.sum(axis=1).reshape(len(groups), 2)


def direction_between(sums: Floats, weights: Floats) -> Floats | None:
    """Unit vector from the mean of the harmless to the mean of the harmful rows.

    Parameters
    ----------
    sums : ndarray of shape (2, d)
        Sums of the (harmless, harmful) rows.
    weights : ndarray of shape (2,)
        Their weights.

    Returns
    -------
    direction : ndarray of shape (d,) or None
        None where a class is missing or the means are equal up to rounding.
    """
    if not (weights > 0).all():
        return None
    means = sums / weights[:, None]
    difference: Floats = means[1] - means[0]
    length = np.linalg.norm(difference)
    return difference / length if length > 1e-12 * np.abs(means).max() else None


def cosine_within(direction: Floats, sums: Floats, weights: Floats) -> float:
    """Cosine of the pooled direction to that within the languages.

    It is small where one language has a larger share of harmful rows than another: the pooled
    means then differ by how the languages do, too.

    Parameters
    ----------
    direction : ndarray of shape (d,)
        Between the pooled class means.
    sums : ndarray of shape (n_languages, 2, d)
        Sums of the (harmless, harmful) rows.
    weights : ndarray of shape (n_languages, 2)
        Their weights.

    Returns
    -------
    cosine : float
        To the languages' mean difference of class means, weighted by their rows; 1 where no
        language has both classes.
    """
    whole = (weights > 0).all(axis=1)
    if not whole.any():
        return 1.0
    share = weights[whole].sum(axis=1) / weights[whole].sum()
    means = np.tensordot(share, sums[whole] / weights[whole][..., None], axes=1)
    within = direction_between(means, np.ones(2))
    return 0.0 if within is None else float(within @ direction)


def harm_direction(X: Floats, harmful: Bools, weight: Floats) -> Floats | None:
    """Unit vector from the mean of the harmless to the mean of the harmful rows of ``X``.

    None where a class is missing or the means are equal up to rounding.
    """
    sums, weights = class_sums(X, harmful, weight, [np.ones(len(X), dtype=bool)])
    return direction_between(sums[0], weights[0])


def harm_basis(directions: Floats, rank: int, towards: Floats) -> Floats:
    """Orthonormal basis of the space that unit directions span, most shared first.

    The first right singular vectors of the stacked directions, not centred; signs such that
    ``towards`` has no negative coordinate.

    Parameters
    ----------
    directions : ndarray of shape (n_languages, d)
        Unit vectors.
    rank : int
        Dimensions wanted; cut to the directions' numerical rank.
    towards : ndarray of shape (d,)
        What fixes the signs.

    Returns
    -------
    basis : ndarray of shape (d, rank)
        The basis, as columns.
    """
    _, singular, right = np.linalg.svd(directions, full_matrices=False)
    sound = int((singular > singular[0] * max(directions.shape) * np.finfo(float).eps).sum())
    basis = right[: min(rank, sound)].T
    along = towards @ basis
    largest = basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])]
    return basis * np.sign(np.where(np.abs(along) > 1e-12, along, largest))


def projection_gap(projections: Floats, harmful: Bools, weight: Floats) -> float:
    """Q75 of the harmful minus Q25 of the harmless projections.

    Parameters
    ----------
    projections : ndarray of shape (n,)
        Projections on the harm direction.
    harmful : ndarray of bool of shape (n,)
        Labels.
    weight : ndarray of shape (n,)
        Weights; where they differ, the inverted-CDF quantile is used, else the linear one.

    Returns
    -------
    gap : float
        In units of the activations.
    """
    weighted = np.ptp(weight) > 0

    def quantile(q: float, rows: Bools) -> float:
        if weighted:
            found = np.quantile(projections[rows], q, weights=weight[rows], method="inverted_cdf")
        else:
            found = np.quantile(projections[rows], q)
        return float(found)

    return quantile(0.75, harmful) - quantile(0.25, ~harmful)
