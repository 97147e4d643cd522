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
    """Compute the unit vector from the mean of the harmless to the mean of the harmful rows.

    Parameters
    ----------
    sums : ndarray of shape (2, d)
        Sums of the (harmless, harmful) rows.
    weights : ndarray of shape (2,)
        Their weights.

    Returns
    -------
    direction : ndarray of shape (d,) or None
        None if a class is missing or the means are equal up to rounding.
    """
    if not (weights > 0).all():
        return None
    means = sums / weights[:, None]
    difference: Floats = means[1] - means[0]
    length = np.linalg.norm(difference)
    return difference / length if length > 1e-12 * np.abs(means).max() else None


def cosine_within(direction: Floats, sums: Floats, weights: Floats) -> float:
    """Compute the cosine between the pooled direction and the direction within the languages.

    It is small if one language has a larger share of harmful rows than another: the difference of
    the pooled means then contains a difference between languages.

    Parameters
    ----------
    direction : ndarray of shape (d,)
        Unit vector between the pooled class means.
    sums : ndarray of shape (n_languages, 2, d)
        Sums of the (harmless, harmful) rows.
    weights : ndarray of shape (n_languages, 2)
        Their weights.

    Returns
    -------
    cosine : float
        Cosine to the mean difference of class means within the languages that have both classes, at
        least one, weighted by their rows.
    """
    whole = (weights > 0).all(axis=1)
    share = weights[whole].sum(axis=1) / weights[whole].sum()
    means = np.tensordot(share, sums[whole] / weights[whole][..., None], axes=1)
    within = direction_between(means, np.ones(2))
    return 0.0 if within is None else float(within @ direction)


def harm_direction(X: Floats, harmful: Bools, weight: Floats) -> Floats | None:
    """Compute the unit vector from the harmless to the harmful mean of ``X``.

    None if a class is missing or the means are equal up to rounding.
    """
    sums, weights = class_sums(X, harmful, weight, [np.ones(len(X), dtype=bool)])
    return direction_between(sums[0], weights[0])


def harm_basis(directions: Floats, rank: int, towards: Floats) -> Floats:
    """Compute an orthonormal basis of the space that unit directions span, most shared first.

    It consists of the first right singular vectors of the stacked directions, not centered. Their
    signs are such that ``towards`` has no negative coordinate.

    Parameters
    ----------
    directions : ndarray of shape (n_languages, d)
        Unit vectors.
    rank : int
        Number of dimensions; reduced to the directions' numerical rank.
    towards : ndarray of shape (d,)
        Vector that fixes the signs.

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
    """Compute Q75 of the harmful minus Q25 of the harmless projections.

    Parameters
    ----------
    projections : ndarray of shape (n,)
        Projections on the harm direction.
    harmful : ndarray of bool of shape (n,)
        Labels.
    weight : ndarray of shape (n,)
        Positive weights; a row of weight 2 counts as two equal rows.

    Returns
    -------
    gap : float
        In units of the activations.
    """
    upper = weighted_quantile(projections[harmful], 0.75, weight[harmful])
    return upper - weighted_quantile(projections[~harmful], 0.25, weight[~harmful])


def weighted_quantile(values: Floats, q: float, weight: Floats) -> float:
    """Compute a quantile of weighted values with linear interpolation.

    Whole weights count rows: the result is :func:`numpy.quantile` of the values, each repeated
    by its weight. A value of weight ``w`` takes the places from ``W`` to ``W + w - 1``, with ``W``
    the weight of the smaller values, or the middle of the two if ``w`` is below 1. The result
    is the value at the share ``q`` of the way from the first place to the last, so equal weights
    of any size give the unweighted quantile.

    Parameters
    ----------
    values : ndarray of shape (n,)
        The values.
    q : float
        Between 0 and 1.
    weight : ndarray of shape (n,)
        Positive weights.

    Returns
    -------
    quantile : float
        Between the smallest and the largest value.
    """
    order = np.argsort(values, kind="stable")
    values, weight = values[order], weight[order]
    past = np.cumsum(weight)
    reach = np.minimum(weight - 1, 0) / 2
    places = np.column_stack([past - weight + reach, past - 1 - reach]).ravel()
    place = places[0] + q * (places[-1] - places[0])
    return float(np.interp(place, places, np.repeat(values, 2)))
