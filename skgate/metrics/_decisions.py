"""Measures of decisions, from the numbers of harmful and harmless rows called harmful."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def decision_measures(harmful: NDArray[np.bool_], called: NDArray[np.bool_]) -> dict[str, float]:
    """Measure the decisions on a group of rows; undefined measures are NaN."""
    n_harmful, n_harmless = int(harmful.sum()), int((~harmful).sum())
    hits, alarms = int((harmful & called).sum()), int((~harmful & called).sum())
    return decision_rates(hits, alarms, n_harmful, n_harmless)


def decision_rates(hits: Any, alarms: Any, n_harmful: int, n_harmless: int) -> dict[str, Any]:
    """Compute the measures of decisions from counts.

    Parameters
    ----------
    hits, alarms : int or ndarray of int
        The number of harmful and of harmless rows called harmful. Arrays hold one number per
        resample.
    n_harmful, n_harmless : int
        The number of rows of each class.

    Returns
    -------
    measures : dict of str to float or ndarray
        By name, of the shape of ``hits``; NaN where a class has no rows.
    """
    comparable = n_harmful > 0 and n_harmless > 0
    return {
        "f1": 2 * hits / (n_harmful + hits + alarms) if comparable else np.nan,
        "balanced_accuracy": (_share(hits, n_harmful) + _share(n_harmless - alarms, n_harmless))
        / 2,
        "fpr": _share(alarms, n_harmless),
        "fnr": _share(n_harmful - hits, n_harmful),
    }


def _share(part: Any, whole: int) -> Any:
    return part / whole if whole else np.nan
