"""The paper's threshold rule: the highest balanced F1 on labelled scores."""

from __future__ import annotations

import numpy as np

from skgate.gate._subspace import Bools, Floats


def balanced_f1_threshold(scores: Floats, harmful: Bools, weight: Floats) -> float:
    """Find the threshold with the highest F1 of "harmful" when both classes weigh the same.

    The candidates, in ascending order, are ``min - 1e-6``, the midpoints between consecutive
    distinct scores, and ``max + 1e-6``. A score greater than the candidate is called harmful. The
    first candidate with the highest F1 is chosen (arXiv:2606.01196).

    With both classes weighing 0.5, ``F1 = 2 TP n0 / (n1 (n0 + FP) + n0 TP)``, which grows
    with ``TP / (n0 + FP)``. If every weight is 1 these are whole numbers, whose quotients compare
    exactly in float64, so that ties are ties.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Scores, higher for more harmful.
    harmful : ndarray of bool of shape (n,)
        Labels; both classes are present.
    weight : ndarray of shape (n,)
        Weights within the classes.

    Returns
    -------
    threshold : float
        The chosen candidate.
    """
    distinct = np.unique(scores)
    candidates = np.concatenate(
        [[distinct[0] - 1e-6], (distinct[:-1] + distinct[1:]) / 2, [distinct[-1] + 1e-6]]
    )

    def weight_above(rows: Bools) -> Floats:
        order = np.argsort(scores[rows], kind="stable")
        total = np.concatenate([[0.0], np.cumsum(weight[rows][order])])
        below = np.searchsorted(scores[rows][order], candidates, side="right")
        return total[-1] - total[below]

    true_positives, false_positives = weight_above(harmful), weight_above(~harmful)
    n_harmless = weight[~harmful].sum()
    return float(candidates[np.argmax(true_positives / (n_harmless + false_positives))])


def round_scores(scores: Floats) -> Floats:
    """Round scores to 40 bits of the largest one, so that equal rows have equal scores.

    A matrix product may give equal rows scores that differ in the last bit.
    """
    _, exponent = np.frexp(np.abs(scores).max(initial=0.0))
    unit = np.ldexp(1.0, int(exponent) - 40)
    return np.round(scores / unit) * unit
