"""Which prompts to label next."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from ._subspace import Floats


def suggest_rows(scores: Floats, boundary: float, counts: Floats, n: int) -> npt.NDArray[np.intp]:
    """Choose prompts whose labels tighten a boundary between two class means the most.

    The variance of the middle between the means is least where both classes have equally many
    labels: so many prompts are taken from either side of ``boundary`` as make the counts equal,
    evenly spread over the scores of the side, so that their mean is that of the side.

    Parameters
    ----------
    scores : ndarray of shape (n_prompts,)
        Scores of the unlabelled prompts.
    boundary : float
        What the boundary is thought to be.
    counts : ndarray of shape (2,)
        Labels there are already, (harmless, harmful).
    n : int
        How many to choose.

    Returns
    -------
    rows : ndarray of shape (n,), dtype intp
        Indices into ``scores``; the sides alternate, so that a beginning serves as well.
    """
    order = np.argsort(scores, kind="stable")
    sides = order[scores[order] <= boundary], order[scores[order] > boundary]
    wanted = int(np.clip(round((n + counts[1] - counts[0]) / 2), 0, n))  # of the harmless side
    n_harmless = int(np.clip(wanted, n - len(sides[1]), len(sides[0])))
    chosen = [_spread(side, k) for side, k in zip(sides, (n_harmless, n - n_harmless), strict=True)]
    alternating = [row for pair in zip_longest(*chosen) for row in pair if row is not None]
    return np.array(alternating, dtype=np.intp)


def _spread(rows: npt.NDArray[np.intp], k: int) -> npt.NDArray[np.intp]:
    """Take the ``k`` rows in the middles of ``k`` equal parts, the middle ones first."""
    if not k:
        return rows[:0]
    picked = rows[((np.arange(k) + 0.5) * len(rows) / k).astype(int)]
    return picked[np.argsort(np.abs(np.arange(k) - (k - 1) / 2), kind="stable")]
