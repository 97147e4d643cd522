"""Checks of what users pass: prompts, languages, layers, positions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from numbers import Integral
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from skgate._frames import to_plain
from skgate._messages import Prompt, check_prompt


def check_prompts(X: Any, name: str = "X") -> list[Prompt]:
    """Turn a list, array, column or one-column frame of any library into a list of prompts.

    Parameters
    ----------
    X : array-like or frame of shape (n_prompts,) or (n_prompts, 1)
        Each item a str (one user turn) or a conversation (list of ``{"role", "content"}``), as
        :func:`skgate._messages.check_prompt` takes it.
    name : str, default="X"
        Name of the parameter, for error messages.

    Returns
    -------
    prompts : list of length n_prompts
        Items of type str or list of dict.

    Raises
    ------
    PromptError
        If a prompt is missing or empty, has a part that is no text, or half a surrogate pair.
    PromptTypeError
        If a prompt is neither text nor a conversation.
    TypeError
        If ``X`` is no collection.
    ValueError
        If ``X`` is a single string or conversation, is empty, or has several columns.
    """
    expected = f"expected {name} to be a list, Series, array or one-column DataFrame of prompts"
    if isinstance(X, str | bytes):
        raise ValueError(f"Got a single string, {expected}. Wrap it in a list: [prompt].")
    kind, X = type(X).__name__, to_plain(X)
    if isinstance(X, Mapping | Set) or not _is_collection(X):
        raise TypeError(f"Got a {kind}, {expected}.")
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) != 1:
        if len(shape) != 2 or shape[1] != 1:
            raise ValueError(
                f"Got the shape {tuple(shape)}, {expected}. To keep a language beside the prompts, "
                "read their column in a ColumnTransformer."
            )
        X = np.asarray(X, dtype=object)[:, 0]
    items = list(X)
    if not items:
        raise ValueError(f"Got an empty {kind}, {expected}: at least 1 is required.")
    if all(isinstance(item, Mapping) for item in items):
        raise ValueError(
            f"Got a single conversation (a list of messages), {expected}. Wrap it in a list: "
            "[conversation]."
        )
    return [check_prompt(item, row, name) for row, item in enumerate(items)]


def _is_collection(value: Any) -> TypeGuard[Collection[Any]]:
    return hasattr(value, "__len__") and hasattr(value, "__iter__")


def _n_dimensions(value: Any) -> int:
    return len(getattr(value, "shape", (len(value),)))


def check_language(
    language: Any, n_rows: int, name: str = "language", *, missing: bool = False
) -> npt.NDArray[np.object_]:
    """Turn ``language`` into one string per row.

    Parameters
    ----------
    language : str or array-like of str of shape (n_rows,)
        A single string is the language of every row.
    n_rows : int
        The number of rows.
    name : str, default="language"
        The parameter's name in error messages.
    missing : bool, default=False
        Whether None, NaN and NA stand for a row without a language.

    Returns
    -------
    language : ndarray of shape (n_rows,), dtype object
        The languages; None for rows without one.

    Raises
    ------
    TypeError
        If a language is not a string.
    ValueError
        If the length is not ``n_rows`` or a language is an empty string.
    """
    language = [language] * n_rows if isinstance(language, str) else to_plain(language)
    if not _is_collection(language) or isinstance(language, bytes) or _n_dimensions(language) != 1:
        raise TypeError(
            f"Got {name}={language!r:.100} of type {type(language).__name__}, expected a str or "
            "one str per row."
        )
    tags = list(language)
    if len(tags) != n_rows:
        raise ValueError(
            f"Got {name} of length {len(tags)}, expected {n_rows}: one language per row."
        )
    out = np.full(n_rows, None, dtype=object)
    for i, tag in enumerate(tags):
        if missing and _is_missing(tag):
            continue
        if not isinstance(tag, str):
            raise TypeError(
                f"Got {name}[{i}]={tag!r} of type {type(tag).__name__}, expected a str such as "
                "'sw'."
            )
        if not tag:
            raise ValueError(f"Got {name}[{i}]='', expected a language such as 'sw'.")
        out[i] = str.__str__(tag)  # an enumeration's value, not its name
    return out


def _is_missing(tag: Any) -> bool:
    """Whether a language is None, NaN or NA."""
    if tag is None or isinstance(tag, str):
        return tag is None
    import pandas as pd

    return bool(np.ndim(tag) == 0 and pd.isna(tag))


def check_layers(layer: Any, n_layers: int, name: str = "layer") -> tuple[int, ...]:
    """Resolve ``layer`` to 0-based block indices.

    Parameters
    ----------
    layer : int, list of int or "all"
        Negative numbers count from the end.
    n_layers : int
        The number of blocks of the model.
    name : str, default="layer"
        The parameter's name in error messages.

    Returns
    -------
    layers : tuple of int
        In the order given.

    Raises
    ------
    ValueError
        If a layer is out of range, not an integer, or given twice.
    """
    if isinstance(layer, str) and layer == "all":
        return tuple(range(n_layers))
    wanted = list(layer) if isinstance(layer, list | tuple | np.ndarray) else [layer]
    expected = f"between {-n_layers} and {n_layers - 1}"
    if not wanted:
        raise ValueError(f"Got {name}=[], expected at least one integer {expected}, or 'all'.")
    for item in wanted:
        is_integer = isinstance(item, Integral) and not isinstance(item, bool)
        if not is_integer or not -n_layers <= int(item) < n_layers:
            raise ValueError(f"Got {name}={item!r}, expected an integer {expected}.")
    resolved = tuple(int(item) % n_layers for item in wanted)
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"Got {name}={wanted}, which names a layer twice; expected each once.")
    return resolved


def check_positions(position: Any) -> tuple[str | int, ...]:
    """Resolve ``position`` to a tuple of positions.

    Parameters
    ----------
    position : {"last", "instruction", "mean"}, negative int, or list of these
        The tokens to read.

    Returns
    -------
    positions : tuple of str or int
        In the order given; "last" for -1.

    Raises
    ------
    ValueError
        If a position is none of these, or given twice.
    """
    wanted = list(position) if isinstance(position, list | tuple | np.ndarray) else [position]
    expected = "'last', 'instruction', 'mean' or a negative integer"
    if not wanted:
        raise ValueError(f"Got position=[], expected at least one of {expected}.")
    for item in wanted:
        is_name = isinstance(item, str) and item in ("last", "instruction", "mean")
        if not is_name and not (isinstance(item, Integral) and int(item) < 0):
            raise ValueError(f"Got position={item!r}, expected {expected}.")
    named = [str(item) if isinstance(item, str) else int(item) for item in wanted]
    resolved = tuple("last" if item == -1 else item for item in named)
    if len(set(resolved)) < len(resolved):
        raise ValueError(
            f"Got position={wanted}, which names a position twice; expected each once."
        )
    return resolved
