"""Thresholds whose error rates are bounded with a stated confidence, whatever the distribution."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.stats import beta
from sklearn.utils.validation import check_scalar

from skgate._base import set_module
from skgate.gate._subspace import Bools, Floats

CONFIDENCE = 0.9


@set_module("skgate")
@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the harm score, and upper bounds of its error rates.

    Attributes
    ----------
    threshold : float
        Of :meth:`LatentGate.operating_point`: a prompt is harmful if its harm score is greater. Of
        ``operating_points_``: the log-odds that ``harm_score`` has already subtracted, so that a
        prompt is harmful if its harm score is greater than 0.
    fpr_bound : float
        Upper bound of the false positive rate.
    fnr_bound : float
        Upper bound of the false negative rate.
    confidence : float
        Share of draws of shots for which a bound holds. It applies to each bound alone, not to both
        at once.
    n_harmless, n_harmful : int
        Numbers of labelled prompts that the bounds rest on.

    See Also
    --------
    LatentGate.operating_point : Finds such a threshold.

    Examples
    --------
    >>> from skgate import OperatingPoint
    >>> point = OperatingPoint(threshold=1.5, fpr_bound=0.1, fnr_bound=0.4, confidence=0.9,
    ...                        n_harmless=30, n_harmful=12)
    >>> f"at most {point.fpr_bound:.0%} false alarms, with {point.confidence:.0%} confidence"
    'at most 10% false alarms, with 90% confidence'
    """

    threshold: float
    fpr_bound: float
    fnr_bound: float
    confidence: float
    n_harmless: int
    n_harmful: int


def check_target(
    target_fpr: float | None, target_fnr: float | None, confidence: float
) -> tuple[str, float]:
    """Return which error rate has a target, "fpr" or "fnr", and the target."""
    targets = {"fpr": target_fpr, "fnr": target_fnr}
    given = {rate: target for rate, target in targets.items() if target is not None}
    if len(given) != 1:
        raise ValueError(
            f"Got target_fpr={target_fpr} and target_fnr={target_fnr}, expected one of the two."
        )
    ((rate, target),) = given.items()
    for name, value in ((f"target_{rate}", target), ("confidence", confidence)):
        check_scalar(value, name, Real)
        if not 0 < value < 1:
            raise ValueError(f"Got {name}={value}, expected a number between 0 and 1, exclusive.")
    return rate, float(target)


def rows_needed(target: float, confidence: float) -> int:
    """Return how many prompts of a class support a target for its error rate."""
    return int(np.ceil(np.log(1 - confidence) / np.log1p(-target)))


def find_operating_point(
    scores: Floats, harmful: Bools, rate: str, target: float, confidence: float = CONFIDENCE
) -> OperatingPoint | None:
    """Find the threshold that meets a target for one error rate and is best for the other.

    The threshold is an order statistic of the scores of the class that the error concerns, so the
    error rate has a beta distribution [1]_. The other class's error rate is bounded by the
    Clopper-Pearson interval.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Harm scores of labelled prompts.
    harmful : ndarray of bool of shape (n,)
        Their labels.
    rate : {"fpr", "fnr"}
        The rate that the target is for.
    target : float
        Largest rate allowed.
    confidence : float, default=0.9
        Confidence of each bound.

    Returns
    -------
    point : OperatingPoint or None
        The threshold and its bounds; None if there are too few labelled prompts for the target.

    References
    ----------
    .. [1] S. S. Wilks, "Determination of Sample Sizes for Setting Tolerance Limits", Annals of
       Mathematical Statistics 12, 1941.
    """
    # For a false negative rate, the scores are mirrored, so that errors lie above the threshold.
    sign = 1.0 if rate == "fpr" else -1.0
    own = np.sort(sign * scores[harmful == (rate == "fnr")])
    other = sign * scores[harmful == (rate == "fpr")]
    n = len(own)
    # P(score > own[i]) ~ Beta(n - i, i + 1) for i = 0 ... n - 1
    bounds = beta.ppf(confidence, n - np.arange(n), np.arange(n) + 1)
    allowed = np.flatnonzero(bounds <= target)
    if not len(allowed):
        return None
    i = int(allowed[0])
    threshold = own[i]
    errors = int((other <= threshold).sum())
    if rate == "fnr":  # a score equal to the threshold must count as harmful
        threshold = np.nextafter(-threshold, -np.inf)
        errors = int((-other > threshold).sum())
    missed = (
        1.0
        if errors == len(other)
        else float(beta.ppf(confidence, errors + 1, len(other) - errors))
    )
    first, second = float(bounds[i]), missed
    fpr_bound, fnr_bound = (first, second) if rate == "fpr" else (second, first)
    n_harmful = int(harmful.sum())
    return OperatingPoint(
        float(threshold), fpr_bound, fnr_bound, confidence, len(scores) - n_harmful, n_harmful
    )


def explain_missing(n: int, rate: str, target: float, confidence: float) -> str:
    """Say why ``n`` prompts of a class don't support a target, and what they would support."""
    best = float(beta.ppf(confidence, 1, n)) if n else 1.0
    return (
        f"the {n} {'harmless' if rate == 'fpr' else 'harmful'} prompts don't support "
        f"target_{rate}={target} with {confidence:.0%} confidence: the lowest rate they support is "
        f"{best:.3g}. Expected at least {rows_needed(target, confidence)}."
    )
