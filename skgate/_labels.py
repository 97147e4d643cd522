"""Labels in any form that they come in, and which of them is the harmful one."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from skgate._base import find_stack_level
from skgate._frames import to_plain

# Labels that say by themselves which one is harmful: 1 beside 0 or -1, True beside False.
_USUAL = ([0, 1], [-1, 1])


def plain_labels(y: Any, name: str = "y") -> Any:
    """Turn labels into an array of bools, numbers or strings.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
        Labels: a list, an array or a column of any library, of any type of data.
    name : str, default="y"
        The parameter's name in error messages.

    Returns
    -------
    labels : ndarray of shape (n_rows,)
        The labels. What is not one-dimensional is returned as it is, for scikit-learn to check.

    Raises
    ------
    ValueError
        If a label is missing, is no bool, number or string, or is of another kind than the first.
    """
    column = to_plain(y)
    is_list = isinstance(column, list | tuple)
    labels = np.asarray(column, dtype=object) if is_list else np.asarray(column)
    if labels.ndim != 1:
        return y
    row = find_missing(labels)
    if row is not None:
        raise ValueError(
            f"Got {name}[{row}]={labels[row]!r}, a missing value, expected a label in each row."
        )
    if labels.dtype != object or not len(labels):
        return labels
    kinds = [_find_kind(label) for label in labels]
    for row, kind in enumerate(kinds):
        if kind not in ("number", "str"):
            raise ValueError(
                f"Got {name}[{row}]={labels[row]!r:.100} of type {kind}, expected a bool, an int, "
                "a float or a str."
            )
        if kind != kinds[0]:
            raise ValueError(
                f"Got {name}[{row}]={labels[row]!r:.100} beside {name}[0]={labels[0]!r:.100}, "
                "expected labels of one type."
            )
    return labels if kinds[0] == "str" and not is_list else np.array(labels.tolist())


def find_missing(values: npt.NDArray[Any]) -> int | None:
    """Find the first None, NaN or NA of a one-dimensional array; None if there is none."""
    if values.dtype.kind not in "fO":
        return None
    if values.dtype.kind == "f":
        missing = np.isnan(values)
    else:
        import pandas as pd

        missing = pd.isna(values)
    return int(missing.argmax()) if missing.any() else None


def _find_kind(label: Any) -> str:
    """Return "number" (bools too) or "str", or the name of another type."""
    if isinstance(label, Real | np.bool_):
        return "number"
    return "str" if isinstance(label, str) else type(label).__name__


def resolve_harmful_label(
    classes: list[Any], label: Any, name: str = "harmful_label", labels: str = "y"
) -> Any:
    """Find out which class is the harmful one.

    Parameters
    ----------
    classes : list
        One or two distinct labels, sorted.
    label : object
        The harmful label. If None, it is "harmful" in upper or lower case, else the class beside
        "harmless", else 1 beside 0 or -1 (or True beside False), else the second class.
    name : str, default="harmful_label"
        The parameter's name in messages.
    labels : str, default="y"
        The name of the labels in messages.

    Returns
    -------
    label : object
        The harmful label.

    Raises
    ------
    ValueError
        If ``label`` is not among two classes, can't be found out from a single class, or is spelled
        in two ways.

    Warns
    -----
    UserWarning
        If the classes don't tell which is harmful.
    """
    if label is not None:
        if len(classes) == 2 and label not in classes:
            raise ValueError(f"Got {name}={label!r}, expected one of the classes {classes}.")
        return label
    plain = [one.casefold() if isinstance(one, str) else one for one in classes]
    if len(set(plain)) < len(plain):
        raise ValueError(
            f"Got the classes {classes} in {labels}, which differ in case only, expected one "
            f"spelling for each class, or {name} set to the harmful one."
        )
    if "harmful" in plain:
        return classes[plain.index("harmful")]
    if len(classes) == 1:
        return _resolve_single(classes[0], plain[0], name)
    if "harmless" in plain:
        return classes[1 - plain.index("harmless")]
    if plain not in _USUAL:  # False and True equal 0 and 1
        warnings.warn(
            f"Got {name}=None, and neither of the classes {classes} in {labels} is 'harmful'. The "
            f"second, {classes[1]!r}, is taken as the harmful one. Set {name} to be sure.",
            UserWarning,
            stacklevel=find_stack_level(),
        )
    return classes[1]


def _resolve_single(label: Any, plain: Any, name: str) -> Any:
    """Find the harmful label from one class, by what it usually stands beside."""
    if plain == "harmless":
        return "harmful"
    if plain in (-1, 0, 1):
        return 1
    raise ValueError(
        f"Got {name}=None and the single class {label!r}, expected two classes, or {name} set "
        "to the harmful one."
    )
