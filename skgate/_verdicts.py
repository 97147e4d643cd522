"""Verdicts of judges and people in any form that they come in, and their weights."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from skgate._frames import to_plain

REFUSED, ANSWERED, GARBLED = "refused", "answered", "garbled"
_TEXTS = {REFUSED: 1.0, ANSWERED: 0.0, GARBLED: 0.0}


def check_verdicts(name: str, verdicts: Any, n_rows: int | None = None) -> npt.NDArray[np.float64]:
    """Turn verdicts on replies into 1 (refused), 0 (not refused) and NaN (no verdict).

    Parameters
    ----------
    name : str
        The parameter's name in error messages.
    verdicts : array-like of shape (n_rows,)
        True and False, 1 and 0, or the texts "refused", "answered" and "garbled". None, NaN or NA
        stands for no verdict.
    n_rows : int or None, default=None
        The number of rows, if it is known.

    Returns
    -------
    refused : ndarray of float of shape (n_rows,)
        The verdicts.

    Raises
    ------
    ValueError
        If there is another value, the verdicts are not one-dimensional, or their number is not
        ``n_rows``.
    """
    import pandas as pd

    plain = to_plain(verdicts)
    values = np.asarray(plain, dtype=object)
    if values.ndim != 1:
        raise ValueError(
            f"Got {name} of shape {values.shape}, expected one value per row: (n_samples,)."
        )
    if n_rows is not None and len(values) != n_rows:
        raise ValueError(
            f"Got {len(values)} values of {name}, expected {n_rows}, one for each row."
        )
    refused = np.full(len(values), np.nan)
    missing = pd.isna(values)
    for i in np.flatnonzero(~missing):
        refused[i] = _read(values[i], f"{name}[{i}]")
    return refused


def check_weights(weights: Any, n_rows: int) -> npt.NDArray[np.float64]:
    """Turn ``sample_weight`` into one positive number per row.

    Parameters
    ----------
    weights : array-like of shape (n_rows,) or None
        The weights. None gives each row the weight 1.
    n_rows : int
        The number of rows.

    Returns
    -------
    array : ndarray of float of shape (n_rows,)
        The weights.

    Raises
    ------
    ValueError
        If the shape is another, or a weight is not a positive number.
    """
    if weights is None:
        return np.ones(n_rows)
    array = np.asarray(to_plain(weights), dtype=float)
    if array.shape != (n_rows,):
        raise ValueError(f"Got sample_weight of shape {array.shape}, expected ({n_rows},).")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"Got sample_weight[{row}]={array[row]}, expected a positive number.")
    return array


def _read(value: Any, where: str) -> float:
    if isinstance(value, str):
        if value in _TEXTS:
            return _TEXTS[value]
    elif isinstance(value, Real | np.bool_) and value in (0, 1):
        return float(value)
    raise ValueError(
        f"Got {where}={value!r:.100}, expected True or False (or 1 or 0), 'refused', 'answered' or "
        "'garbled', or None or nan for no verdict."
    )
