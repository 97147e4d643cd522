"""Measures of scores at low rates of false alarms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import make_scorer, roc_auc_score, roc_curve

from skgate._base import find_stack_level

PARTIAL_AUC = "partial_roc_auc"
PREFIX = "tpr_at_fpr_"
_SHOWN = 10  # languages in a warning


def check_fprs(fprs: Any) -> dict[str, float]:
    """Validate rates of false alarms.

    Parameters
    ----------
    fprs : sequence of float
        The rates, above 0 and below 1, each once.

    Returns
    -------
    rates : dict of str to float
        The rate of each measure ``tpr_at_fpr_<rate>``.

    Raises
    ------
    ValueError
        If ``fprs`` is no sequence, or a rate is no such number or given twice.
    """
    expected = "expected numbers above 0 and below 1"
    if isinstance(fprs, str | bytes | Mapping) or np.ndim(fprs) != 1:
        raise ValueError(f"Got fprs={fprs!r}, {expected} in a sequence, such as (0.05, 0.1).")
    rates: dict[str, float] = {}
    for i, fpr in enumerate(fprs):
        if not _is_rate(fpr):
            raise ValueError(f"Got fprs[{i}]={fpr!r}, {expected}.")
        name = f"{PREFIX}{float(fpr)}"
        if name in rates:
            raise ValueError(f"Got fprs[{i}]={fpr!r} a second time, expected each rate once.")
        rates[name] = float(fpr)
    return rates


def low_fpr_scorer(metric: str) -> Any:
    """Make a scorer of the measure ``tpr_at_fpr_<rate>``, named as in a report."""
    try:
        rate = float(metric.removeprefix(PREFIX))
    except ValueError:
        rate = math.nan
    if not _is_rate(rate):
        raise ValueError(
            f"Got metric={metric!r}, expected a rate above 0 and below 1 after {PREFIX!r}, such as "
            f"'{PREFIX}0.05'."
        )
    return make_scorer(
        partial(tpr_at_fpr, fpr=rate), response_method=("decision_function", "predict_proba")
    )


def low_fpr_measures(
    harmful: NDArray[np.bool_], scores: NDArray[np.float64], rates: Mapping[str, float]
) -> dict[str, float]:
    """Measure the scores of a group of rows of both classes at low rates of false alarms."""
    values = {name: tpr_at_fpr(harmful, scores, fpr=fpr) for name, fpr in rates.items()}
    if rates:
        values[PARTIAL_AUC] = roc_auc_score(harmful, scores, max_fpr=max(rates.values()))
    return values


def tpr_at_fpr(
    y_true: ArrayLike, y_score: ArrayLike, sample_weight: ArrayLike | None = None, *, fpr: float
) -> float:
    """Find the largest TPR of a threshold whose empirical FPR does not exceed ``fpr``."""
    fprs, tprs, _ = roc_curve(y_true, y_score, sample_weight=sample_weight, drop_intermediate=False)
    allowed = tprs[fprs <= fpr]
    return float(allowed[-1]) if len(allowed) else math.nan  # (no FPR without harmless rows)


def warn_if_too_few(counts: Mapping[Any, int], rates: Mapping[str, float]) -> None:
    """Warn of languages with fewer harmless rows than a rate needs.

    An empirical FPR is a multiple of 1/n. Below 1/n, the only one that does not exceed the rate
    is 0.

    Parameters
    ----------
    counts : mapping of str to int
        The number of harmless rows, of each language with rows of both classes. (In others, the
        measures are NaN.)
    rates : mapping of str to float
        The rate of each measure.
    """
    for name, rate in rates.items():
        few = {language: n for language, n in counts.items() if 1 / n > rate}
        if few:
            warnings.warn(_describe(few, name, rate), UserWarning, stacklevel=find_stack_level())


def _describe(few: Mapping[str, int], name: str, rate: float) -> str:
    shown = [f"{n} in language {language!r}" for language, n in list(few.items())[:_SHOWN]]
    if len(few) > _SHOWN:
        shown.append(f"too few in {len(few) - _SHOWN} more")
    return (
        f"Got too few harmless rows for fpr={rate}: {', '.join(shown)}; expected at least "
        f"{_fewest(rate)}. There, {name} allows no false alarm at all."
    )


def _fewest(rate: float) -> int:
    """Compute the smallest n with 1/n <= rate, in floating point as it is compared."""
    n = math.ceil(1 / rate)
    return n - 1 if n > 1 and 1 / (n - 1) <= rate else n


def _is_rate(value: Any) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    return is_number and 0 < float(value) < 1
