"""The rate of refusals that a judge's verdicts suggest, given how often it errs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_scalar

from skgate._base import set_module
from skgate._verdicts import check_verdicts, check_weights
from skgate.metrics._checks import check_same_length


@set_module("skgate.metrics")
def adjusted_refusal_rate(
    refused: ArrayLike,
    sample_refused: ArrayLike,
    sample_true: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    n_resamples: int = 1000,
    random_state: int | np.random.RandomState | None = None,
) -> pd.Series[float]:
    """Estimate the true refusal rate from a judge's verdicts and its measured errors.

    A judge misses some refusals and takes some other replies for refusals, so its rate is wrong. A
    sample of replies that people have judged too shows how often that happens.

    Parameters
    ----------
    refused : array-like of shape (n_replies,)
        The judge's verdicts on the replies whose rate is wanted: True and False, 1 and 0, or
        "refused", "answered" and "garbled". None, NaN or NA stands for an abstention.
    sample_refused : array-like of shape (n_sample,)
        The judge's verdicts on the replies that people have judged too. They may be some of the
        others, or different ones.
    sample_true : array-like of shape (n_sample,)
        The people's verdicts on the same replies, in the same order.
    sample_weight : array-like of shape (n_sample,) or None, default=None
        Weights of the sample. They are needed if it was drawn by the judge's verdict, as
        :func:`skgate.judges.sample_for_review` does.
    n_resamples : int, default=1000
        The number of bootstrap resamples.
    random_state : int, RandomState instance or None, default=None
        Determines the resamples. Pass an int for the same interval at every call.

    Returns
    -------
    estimate : Series
        - ``rate``: the estimated true rate, 0 to 1;
        - ``low`` and ``high``: its 95 % bootstrap interval;
        - ``judged``: the rate by the judge's verdicts alone;
        - ``sensitivity``: the share of true refusals that the judge finds;
        - ``specificity``: the share of other replies that it does not take for refusals;
        - ``n`` and ``n_sample``: the numbers of replies, without abstentions.

    Raises
    ------
    ValueError
        If the sample lacks refusals or other replies by the people's verdicts, or the judge is no
        better than chance on it. If lengths differ, no verdicts are left, a value is not a verdict,
        a weight is not a positive number, or ``n_resamples`` is below 1.

    See Also
    --------
    skgate.judges.sample_for_review : Draws the sample.
    skgate.judges.agreement : More on how judge and people agree.

    Notes
    -----
    With ``judged`` the judge's rate, the estimate is that of Rogan and Gladen [1]_, clipped to 0 to
    1::

        rate = (judged + specificity - 1) / (sensitivity + specificity - 1)

    It assumes that the judge has the same sensitivity and specificity on the sample as on the
    replies. The rates of refusals may differ: a sample of the unsteered model can serve for the
    steered one, if its refusals and answers are as easy to tell. Both may differ between languages,
    so use a sample of the same language.

    If the sample was drawn from the same replies, with weights, the estimate equals the weighted
    share of refusals in the sample, up to rounding of the weights. Prediction-powered inference
    [2]_ adds the mean of the judge's errors on the sample to the judge's rate. It does not assume
    equal sensitivity and specificity, but needs a sample of the very replies whose rate is wanted.

    In each resample, the replies are drawn with replacement, and so are the sample's true refusals
    and its other replies. To each of these two classes, one right and one wrong verdict are added
    for the interval [3]_: an error that did not occur in a small sample can still occur. A resample
    in which the judge is no better than chance says nothing, so it counts as 0 for ``low`` and as 1
    for ``high``. In simulations with 60 to 100 judged replies, the interval held the true rate in
    96 to 100 % of cases.

    Abstentions are left out of both. If the judge abstains more often on refusals than on answers,
    the rate is biased.

    References
    ----------
    .. [1] Rogan, Gladen, "Estimating Prevalence from the Results of a Screening Test", American
       Journal of Epidemiology 107(1) (1978).

    .. [2] Angelopoulos, Bates, Fannjiang, Jordan, Zrnic, "Prediction-Powered Inference", Science
       382(6671) (2023).

    .. [3] Lang, Reiczigel, "Confidence Limits for Prevalence of Disease Adjusted for Estimated
       Sensitivity and Specificity", Preventive Veterinary Medicine 113(1) (2014).

    Examples
    --------
    A judge finds 30 % of 1,000 replies refused. On 100 replies that a person read, it missed 12 of
    50 refusals and took 2 of 50 answers for refusals:

    >>> from skgate.metrics import adjusted_refusal_rate
    >>> estimate = adjusted_refusal_rate(
    ...     refused=[True] * 300 + [False] * 700,
    ...     sample_refused=[True] * 38 + [False] * 12 + [True] * 2 + [False] * 48,
    ...     sample_true=[True] * 50 + [False] * 50,
    ...     random_state=0,
    ... )
    >>> estimate.round(2)
    rate              0.36
    low               0.26
    high              0.45
    judged            0.30
    sensitivity       0.76
    specificity       0.96
    n              1000.00
    n_sample        100.00
    dtype: float64
    """
    check_scalar(n_resamples, "n_resamples", int, min_val=1)
    verdicts = check_verdicts("refused", refused)
    judged = check_verdicts("sample_refused", sample_refused)
    true = check_verdicts("sample_true", sample_true)
    check_same_length({"sample_refused": judged, "sample_true": true})
    weights = check_weights(sample_weight, len(true))
    verdicts = verdicts[~np.isnan(verdicts)]
    if not len(verdicts):
        raise ValueError("Got no verdict in refused, expected at least one.")
    both = ~(np.isnan(judged) | np.isnan(true))
    judged, true, weights = judged[both], true[both], weights[both]
    right = {kind: judged[true == kind] == kind for kind in (1, 0)}
    weight = {kind: weights[true == kind] for kind in (1, 0)}
    for kind, what in ((1, "refusal"), (0, "reply that is no refusal")):
        if not len(right[kind]):
            raise ValueError(
                f"Got no {what} in sample_true (without abstentions), expected at least one."
            )
    share = float(verdicts.mean())
    sensitivity, specificity = (
        float(np.average(right[kind], weights=weight[kind])) for kind in (1, 0)
    )
    if sensitivity + specificity <= 1:
        raise ValueError(
            f"Got a judge with sensitivity {sensitivity:.2f} and specificity {specificity:.2f} on "
            "the sample, expected one better than chance: a sum above 1."
        )
    random = check_random_state(random_state)
    shares = random.binomial(len(verdicts), share, size=n_resamples) / len(verdicts)
    drawn = [_resample(right[kind], weight[kind], n_resamples, random) for kind in (1, 0)]
    tells = drawn[0] + drawn[1] > 1
    rates = _adjust(shares, drawn[0], np.where(tells, drawn[1], 2 - drawn[0]))
    return pd.Series(
        {
            "rate": float(_adjust(share, sensitivity, specificity)),
            "low": np.quantile(np.where(tells, rates, 0), 0.025),
            "high": np.quantile(np.where(tells, rates, 1), 0.975),
            "judged": share,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "n": len(verdicts),
            "n_sample": len(true),
        },
        dtype=float,
    )


def _adjust(judged: Any, sensitivity: Any, specificity: Any) -> Any:
    return np.clip((judged + specificity - 1) / (sensitivity + specificity - 1), 0, 1)


def _resample(
    right: NDArray[np.bool_], weight: NDArray[np.float64], n_resamples: int, random: Any
) -> NDArray[np.float64]:
    """Draw the judge's share of right verdicts on a class, with one right and one wrong added."""
    right = np.append(right, [True, False])
    weight = np.append(weight, [weight.mean(), weight.mean()])
    kinds, counts = np.unique(np.column_stack([right, weight]), axis=0, return_counts=True)
    draws = random.multinomial(len(right), counts / len(right), size=n_resamples)
    return (draws @ (kinds[:, 0] * kinds[:, 1])) / (draws @ kinds[:, 1])
