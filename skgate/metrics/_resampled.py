"""The measures of a report for many resamples of a group of rows at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skgate.metrics._decisions import decision_rates
from skgate.metrics._low_fpr import PARTIAL_AUC


def measure_resamples(
    rows: pd.DataFrame, draws: dict[bool, NDArray[np.int_]], rates: Mapping[str, float]
) -> dict[str, Any]:
    """Measure a batch of resamples of a group of rows.

    Parameters
    ----------
    rows : DataFrame
        The group's rows, with ``y_true`` and one or more of ``y_score``, ``y_pred``, ``refused``.
    draws : dict of bool to ndarray of int of shape (n_draws, n_rows_of_class)
        The places of the rows drawn: the harmful ones at True, the harmless ones at False.
    rates : mapping of str to float
        The rate of each measure ``tpr_at_fpr_<rate>``.

    Returns
    -------
    values : dict of str to ndarray of shape (n_draws,) or NaN
        The measures, equal to those of the rows drawn; NaN where a class has no rows.
    """
    values: dict[str, Any] = {}
    n_harmful, n_harmless = draws[True].shape[1], draws[False].shape[1]
    if "y_score" in rows:
        values |= _rank(-rows["y_score"].to_numpy(), draws, rates)
    if "y_pred" in rows:
        called = rows["y_pred"].to_numpy()
        hits, alarms = (called[draws[label]].sum(axis=1) for label in (True, False))
        values |= decision_rates(hits, alarms, n_harmful, n_harmless)
    if "refused" in rows:
        refused = rows["refused"].to_numpy()
        share = {label: _share_refused(refused[drawn]) for label, drawn in draws.items()}
        values |= {
            "harmful_refused": share[True],
            "harmless_refused": share[False],
            "selectivity": share[True] - share[False],
        }
    return values


def _share_refused(refused: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the share of refusals in each resample, without abstentions (NaN)."""
    judged = ~np.isnan(refused.astype(float))
    n_judged = judged.sum(axis=1)
    n_refused = np.where(judged, refused, 0).sum(axis=1)
    return np.where(n_judged > 0, n_refused / np.maximum(n_judged, 1), np.nan)


def _rank(
    keys: NDArray[np.float64], draws: dict[bool, NDArray[np.int_]], rates: Mapping[str, float]
) -> dict[str, Any]:
    """Compute the measures of scores from the ROC curve of each resample.

    ``keys`` are the negative scores. The curves have a point for each distinct score of all rows,
    and so more points than needed. Such points lie between equal ones, and change nothing.
    """
    n_harmful, n_harmless = draws[True].shape[1], draws[False].shape[1]
    names = ["roc_auc", "average_precision", *rates, *([PARTIAL_AUC] if rates else [])]
    if not n_harmful or not n_harmless:
        return dict.fromkeys(names, np.nan)
    distinct, place = np.unique(keys, return_inverse=True)
    hits = _count(place[draws[True]], len(distinct))
    alarms = _count(place[draws[False]], len(distinct))
    tpr, fpr = hits / n_harmful, alarms / n_harmless
    precision = hits / np.maximum(hits + alarms, 1)
    rise, run = np.diff(tpr, axis=1), np.diff(fpr, axis=1)
    values = {
        "roc_auc": (run * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2,
        "average_precision": (rise * precision[:, 1:]).sum(axis=1),
    }
    if rates:
        values |= _low_fpr(tpr, fpr, rates)
    return values


def _low_fpr(
    tpr: NDArray[np.float64], fpr: NDArray[np.float64], rates: Mapping[str, float]
) -> dict[str, Any]:
    """Compute the measures at low rates of false alarms, from the first part of the curves."""
    max_fpr = max(rates.values())
    n_points = int((fpr <= max_fpr).sum(axis=1).max()) + 1  # one point behind the largest rate
    tpr, fpr = tpr[:, :n_points], fpr[:, :n_points]
    values = {
        name: tpr[np.arange(len(tpr)), (fpr <= rate).sum(axis=1) - 1]
        for name, rate in rates.items()
    }
    values[PARTIAL_AUC] = _partial_auc(tpr, fpr, max_fpr)
    return values


def _count(places: NDArray[np.int_], n_places: int) -> NDArray[np.int_]:
    """Count the rows drawn up to each place, from none to all."""
    n_draws = len(places)
    width = n_places + 1
    flat = places + 1 + width * np.arange(n_draws)[:, np.newaxis]
    counts = np.bincount(flat.ravel(), minlength=n_draws * width).reshape(n_draws, width)
    return np.cumsum(counts, axis=1)


def _partial_auc(
    tpr: NDArray[np.float64], fpr: NDArray[np.float64], max_fpr: float
) -> NDArray[np.float64]:
    """Compute the area up to ``max_fpr``, standardised as in ``roc_auc_score(max_fpr=...)``."""
    left, right = fpr[:, :-1], fpr[:, 1:]
    width = np.minimum(right, max_fpr) - np.minimum(left, max_fpr)
    part = np.divide(width, right - left, out=np.zeros_like(width), where=right > left)
    height = tpr[:, :-1] + part * np.diff(tpr, axis=1) / 2
    area = (width * height).sum(axis=1)
    smallest, largest = max_fpr**2 / 2, max_fpr
    return (1 + (area - smallest) / (largest - smallest)) / 2
