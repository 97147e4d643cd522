"""Checks of what a measure is given: one value per row, of one or two classes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sized
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from skgate._validation import resolve_harmful_label


def one_per_row(name: str, values: ArrayLike) -> NDArray[Any]:
    """Turn `values` into a one-dimensional array without missing values."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"Got {name} of shape {array.shape} but expected one value per row, that is "
            "(n_samples,)."
        )
    # Beside texts, a nan of a list would have become the text "nan"
    original = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=object)
    if pd.isna(original).any():
        raise ValueError(f"Got missing values in {name} but expected a value in each row.")
    return array


def one_bool_per_row(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    """Turn `values`, True and False or 1 and 0, into an array of bool."""
    array = one_per_row(name, values)
    for i, value in enumerate(array.tolist()):
        if value not in (0, 1):
            raise ValueError(f"Got {name}[{i}]={value!r} but expected True or False (or 1 or 0).")
    return array.astype(bool)


def check_same_length(columns: Mapping[str, Sized]) -> None:
    """Make sure that there are as many values of each, and some."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"Got {lengths} values but expected as many of each, and at least one.")


def harmful_class(name: str, labels: list[Any], pos_label: Hashable | None) -> Any:
    """Find the harmful class of labels, of which there are one or two."""
    distinct = set(labels)
    if len(distinct) > 2:
        some = ", ".join(map(repr, list(dict.fromkeys(labels))[:5]))
        raise ValueError(f"Got {len(distinct)} labels in {name} ({some}, ...) but expected two.")
    try:
        classes = sorted(distinct)
    except TypeError as error:
        raise ValueError(
            f"Got labels of different types in {name}, {distinct}, but expected one type."
        ) from error
    return resolve_harmful_label(classes, pos_label, "pos_label")
