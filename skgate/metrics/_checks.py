"""Checks of the values that a measure is computed from: one per row, of one or two classes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sized
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skgate._frames import to_plain
from skgate._labels import find_missing, resolve_harmful_label


def one_per_row(name: str, values: ArrayLike) -> NDArray[Any]:
    """Turn ``values`` into a one-dimensional array without missing values."""
    values = to_plain(values)
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"Got {name} of shape {array.shape}, expected one value per row: (n_samples,)."
        )
    # In an array with texts, NaN has become the text "nan": look at the original values.
    original = array if isinstance(values, np.ndarray) else np.asarray(values, dtype=object)
    row = find_missing(original)
    if row is not None:
        raise ValueError(
            f"Got {name}[{row}]={original[row]!r}, a missing value, expected a value in each row."
        )
    return array


def one_bool_per_row(name: str, values: ArrayLike, n_rows: int | None = None) -> NDArray[np.bool_]:
    """Turn ``values``, True and False or 1 and 0, into an array of bool.

    Parameters
    ----------
    name : str
        The parameter's name in error messages.
    values : array-like of shape (n_rows,)
        The values.
    n_rows : int or None, default=None
        The number of rows, if it is known.

    Returns
    -------
    array : ndarray of bool of shape (n_rows,)
        The values.

    Raises
    ------
    ValueError
        If there are other values, or if their number is not ``n_rows``.
    """
    array = one_per_row(name, values)
    if n_rows is not None and len(array) != n_rows:
        raise ValueError(f"Got {len(array)} values of {name}, expected {n_rows}, one for each row.")
    for i, value in enumerate(array.tolist()):
        if value not in (0, 1):
            raise ValueError(f"Got {name}[{i}]={value!r}, expected True or False (or 1 or 0).")
    return array.astype(bool)


def check_same_length(columns: Mapping[str, Sized]) -> None:
    """Raise a ValueError if the columns are empty or of different length."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"Got {lengths} values, expected the same number of each, at least one.")


def harmful_class(name: str, labels: list[Any], pos_label: Hashable | None) -> Any:
    """Find the harmful class of labels of one or two classes."""
    distinct = set(labels)
    if len(distinct) > 2:
        some = ", ".join(map(repr, list(dict.fromkeys(labels))[:5]))
        raise ValueError(f"Got {len(distinct)} labels in {name} ({some}, ...), expected two.")
    try:
        classes = sorted(distinct)
    except TypeError as error:
        raise ValueError(
            f"Got labels of different types in {name}, {distinct}, expected one type."
        ) from error
    return resolve_harmful_label(classes, pos_label, "pos_label", name)
