"""Where a language's decision boundary lies on the probe's score, from a few labelled shots."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ._subspace import Bools, Floats

_PRIOR_LANGUAGES = 2.0  # how many source languages the prior guess of the spread counts for
_DEGREES_OF_FREEDOM = 4.0  # tails of the prior of a language's shift


def balanced_f1_threshold(scores: Floats, harmful: Bools, weight: Floats) -> float:
    """Threshold with the highest F1 of "harmful" when both classes weigh the same.

    Candidates, in ascending order, are ``min - 1e-6``, the midpoints between consecutive
    distinct scores, and ``max + 1e-6``; a score is called harmful when it is greater than the
    candidate; the first candidate with the highest F1 is taken (arXiv:2606.01196).

    With both classes weighing 0.5, ``F1 = 2 TP n0 / (n1 (n0 + FP) + n0 TP)``, which grows
    with ``TP / (n0 + FP)``. Where every weight is 1 these are whole numbers, whose
    quotients compare exactly in float64, so that ties are ties.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Scores, higher for more harmful.
    harmful : ndarray of bool of shape (n,)
        The labels; both classes are present.
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


def snap(scores: Floats) -> Floats:
    """Round scores to 40 bits of the largest, so that equal rows' scores are equal.

    A matrix product may give equal rows scores that differ in the last bit.
    """
    _, exponent = np.frexp(np.abs(scores).max(initial=0.0))
    unit = np.ldexp(1.0, int(exponent) - 40)
    return np.round(scores / unit) * unit


class ClassStatistics(NamedTuple):
    """Weighted mean score and weight of (harmless, harmful) rows; the mean is 0 without rows."""

    mean: Floats  # (2,)
    weight: Floats  # (2,)

    @classmethod
    def of(cls, scores: Floats, harmful: Bools, weight: Floats) -> ClassStatistics:
        """Summarise scored rows."""
        weights = np.array([weight[~harmful].sum(), weight[harmful].sum()])
        sums = np.array([weight[~harmful] @ scores[~harmful], weight[harmful] @ scores[harmful]])
        return cls(np.divide(sums, weights, out=np.zeros(2), where=weights > 0), weights)


class ShiftPrior(NamedTuple):
    """How languages differ from the pooled source, learned from the source languages.

    In language l the mean scores of harmless and harmful prompts are ``center + delta_l``, with
    ``delta_l`` from a bivariate t distribution around 0 of the scale matrix ``scale``. Its
    heavy tails let a language that lies far off be believed rather than pulled back.

    Attributes
    ----------
    center : ndarray of shape (2,)
        Mean scores of harmless and harmful prompts over the sources.
    scale : ndarray of shape (2, 2)
        Scale matrix of a language's shifts.
    variance : ndarray of shape (2,)
        Variance of the scores within a language and class.
    fraction : float
        Where the source boundary lies between the two means: 0 at harmless, 1 at harmful.
    """

    center: Floats
    scale: Floats
    variance: Floats
    fraction: float

    def boundary(self, shots: ClassStatistics) -> float:
        """Place a language's boundary, given its shots (any number, one class alone too).

        The posterior mean of the two class means, by iteratively reweighted Gaussian updates;
        the boundary divides the way between them as it does in the source.
        """
        delta = np.zeros(2)
        seen = shots.weight > 0
        if seen.any():
            noise = np.diag(self.variance[seen] / shots.weight[seen])
            observed = (shots.mean - self.center)[seen]
            for _ in range(50):
                distance = delta @ np.linalg.solve(self.scale, delta)
                stretch = (_DEGREES_OF_FREEDOM + distance) / (_DEGREES_OF_FREEDOM + 2)
                prior = self.scale * stretch
                delta = prior[:, seen] @ np.linalg.solve(
                    prior[np.ix_(seen, seen)] + noise, observed
                )
        harmless, harmful = self.center + delta
        return float(harmless + self.fraction * (harmful - harmless))


def learn_shift_prior(
    scores: Floats,
    harmful: Bools,
    weight: Floats,
    language: npt.NDArray[np.object_] | None,
) -> ShiftPrior:
    """Learn from the source rows how languages shift the scores of each class.

    The scale matrix is the mean of the outer products of the sources' shifts and of a guess that
    counts for two languages: shifts as large as the distance between the class means, correlated
    0.5 between the classes. The fraction is where the balanced F1 threshold of the sources' rows
    lies, once the sources are aligned by the midpoints between their class means.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Scores of the source rows.
    harmful : ndarray of bool of shape (n,)
        Their labels; both classes are present.
    weight : ndarray of shape (n,)
        Their weights.
    language : ndarray of str of shape (n,) or None
        Their languages; None for a single pooled source.

    Returns
    -------
    prior : ShiftPrior
        The prior of a further language.
    """
    pooled = ClassStatistics.of(scores, harmful, weight)
    groups = [np.ones(len(scores), dtype=bool)]
    if language is not None:
        groups = [language == name for name in np.unique(language.astype(str))]
    shifts, spread, total = [], np.zeros(2), np.zeros(2)
    aligned = scores - pooled.mean.mean()
    for rows in groups:
        stats = ClassStatistics.of(scores[rows], harmful[rows], weight[rows])
        if (stats.weight > 0).all():
            shifts.append(stats.mean - pooled.mean)
            aligned[rows] = scores[rows] - stats.mean.mean()
        residuals = scores[rows] - stats.mean[harmful[rows].astype(int)]
        spread += ClassStatistics.of(residuals**2, harmful[rows], weight[rows]).mean * stats.weight
        total += stats.weight
    gap = pooled.mean[1] - pooled.mean[0]
    floor = np.finfo(float).eps * max(1.0, float(np.abs(scores).max()) ** 2)
    guess = max(gap**2, floor) * np.array([[1.0, 0.5], [0.5, 1.0]])
    outer = np.asarray(shifts).T @ np.asarray(shifts) if len(shifts) > 1 else np.zeros((2, 2))
    n_shifts = len(shifts) if len(shifts) > 1 else 0
    means = ClassStatistics.of(aligned, harmful, weight).mean
    threshold = balanced_f1_threshold(snap(aligned), harmful, weight)
    apart = means[1] - means[0]
    return ShiftPrior(
        center=pooled.mean,
        scale=(outer + _PRIOR_LANGUAGES * guess) / (n_shifts + _PRIOR_LANGUAGES),
        variance=np.maximum(spread / total, floor),
        fraction=float(np.clip((threshold - means[0]) / apart, 0, 1)) if apart > 0 else 0.5,
    )
