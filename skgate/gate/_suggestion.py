"""Which prompts to label next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skgate.gate._subspace import Floats


def suggest_rows(scores: Floats, n: int) -> npt.NDArray[np.intp]:
    """Choose prompts evenly spread over the order of their scores (a systematic sample).

    What places a boundary are the mean scores of the classes. They are less scattered in
    such a sample than in a random one, and not biased, as they are where prompts near the boundary,
    or equally many from either side, are preferred.

    Parameters
    ----------
    scores : ndarray of shape (n_prompts,)
        Scores of the unlabelled prompts.
    n : int
        How many to choose.

    Returns
    -------
    rows : ndarray of shape (n,), dtype intp
        Indices into ``scores``, from the lowest score to the highest.
    """
    order = np.argsort(scores, kind="stable")
    return order[((np.arange(n) + 0.5) * len(order) / n).astype(np.intp)]
