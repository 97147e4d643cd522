"""Parts of the source rows to leave out in turn: languages or, if there is one, rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from skgate.gate._subspace import Bools, Floats
from skgate.gate._thresholds import round_scores

_N_FOLDS = 5

Folds = npt.NDArray[np.intp]  # (n,), the number of the part that each row is left out with


def find_folds(
    X: Floats, harmful: Bools, languages: Sequence[Bools], direction: Floats
) -> Folds | None:
    """Split source rows into parts to leave out in turn.

    Each language is a part. If there is one language, or if the others would then have one class
    only, the rows are split into five parts instead, so that each part covers the range of
    projections on ``direction`` in both classes. Equal rows are always in the same part, so a row
    of weight 2 is treated as two equal rows.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Source rows.
    harmful : ndarray of bool of shape (n,)
        Labels; both classes are present.
    languages : sequence of ndarray of bool of shape (n,)
        The rows of each language.
    direction : ndarray of shape (d,)
        The harm direction.

    Returns
    -------
    folds : ndarray of int of shape (n,) or None
        None if a class has no two distinct rows.
    """
    whole = [rows for rows in languages if rows.any()]
    if len(whole) > 1 and all(_has_both_classes(harmful[~rows]) for rows in whole):
        return np.stack(whole, axis=1).argmax(axis=1)
    projections = X @ direction
    ranks = np.empty(len(harmful), dtype=np.intp)
    n_distinct = []
    for rows in (harmful, ~harmful):
        distinct, ranks[rows] = np.unique(round_scores(projections[rows]), return_inverse=True)
        n_distinct.append(len(distinct))
    n_folds = min(_N_FOLDS, *n_distinct)
    return ranks % n_folds if n_folds > 1 else None


def _has_both_classes(harmful: Bools) -> bool:
    return bool(harmful.any() and not harmful.all())
