"""Checks of what users hand in: prompts, languages, layers."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Set
from numbers import Integral, Number
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

Message: TypeAlias = Mapping[str, str]
Prompt: TypeAlias = "str | list[Message]"


def check_prompts(X: Any, name: str = "X") -> list[Prompt]:
    """Turn a list, Series, object array or one-column DataFrame into a list of prompts.

    Parameters
    ----------
    X : array-like of shape (n_prompts,) or (n_prompts, 1)
        Each item a str (one user turn) or a conversation (list of ``{"role", "content"}``).
    name : str, default="X"
        The parameter's name in error messages.

    Returns
    -------
    prompts : list of length n_prompts
        Items of type str or list of dict.

    Raises
    ------
    TypeError
        If ``X`` is no collection, or an item is neither text nor a conversation.
    ValueError
        If ``X`` is a bare string, empty, or of more than one column, or an item is missing
        or empty.
    """
    expected = f"{name} must be a list, Series, array or one-column DataFrame of prompts"
    if isinstance(X, str | bytes):
        raise ValueError(f"{expected}, got a single string. Wrap it in a list: [prompt].")
    if isinstance(X, Mapping | Set) or not _is_collection(X):
        raise TypeError(f"{expected}, got {type(X).__name__}.")
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) != 1:
        if len(shape) != 2 or shape[1] != 1:
            raise ValueError(f"{expected}, got shape {tuple(shape)}.")
        X = np.asarray(X, dtype=object)[:, 0]
    items = list(X)
    if not items:
        raise ValueError(f"{expected}, got an empty one: at least 1 prompt is required.")
    if all(isinstance(item, Mapping) for item in items):
        raise ValueError(
            f"{expected}, got a single conversation (a list of messages). Wrap it in a list: "
            "[conversation]."
        )
    return [_check_prompt(item, f"{name}[{i}]") for i, item in enumerate(items)]


def _is_collection(value: Any) -> TypeGuard[Collection[Any]]:
    return hasattr(value, "__len__") and hasattr(value, "__iter__")


def _n_dimensions(value: Any) -> int:
    return len(getattr(value, "shape", (len(value),)))


def _check_prompt(item: Any, name: str) -> Prompt:
    expected = "expected a non-empty str or a conversation (list of {'role', 'content'} messages)"
    if isinstance(item, str):
        if not item.strip():
            raise ValueError(f"{name} is {item!r}, an empty prompt; {expected}.")
        return str(item)
    if item is None or (np.isscalar(item) and item != item):
        raise ValueError(f"{name} is {item!r}, a missing value; {expected}.")
    if not isinstance(item, list | tuple | np.ndarray):
        shown = f"{item!r} of type " if isinstance(item, Number) else "a "
        raise TypeError(f"{name} is {shown}{type(item).__name__}; {expected}.")
    if len(item) == 0:
        raise ValueError(f"{name} is an empty conversation; {expected}.")
    for i, message in enumerate(item):
        # What the prompt says stays out of the message: it may be harmful or private.
        if not isinstance(message, Mapping):
            raise TypeError(f"{name}[{i}] is a {type(message).__name__}; {expected}.")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise TypeError(
                    f"{name}[{i}][{key!r}] is a {type(message.get(key)).__name__}; expected a str: "
                    "messages of a role and a text alone are supported."
                )
    return [dict(message) for message in item]


def check_language(language: Any, n_rows: int, name: str = "language") -> npt.NDArray[np.object_]:
    """Turn ``language`` into one string per row.

    Parameters
    ----------
    language : str or array-like of str of shape (n_rows,)
        A single string is the language of every row.
    n_rows : int
        The number of rows.
    name : str, default="language"
        The parameter's name in error messages.

    Returns
    -------
    language : ndarray of shape (n_rows,), dtype object
        The languages.

    Raises
    ------
    TypeError
        If a language is not a string.
    ValueError
        If the length is not ``n_rows`` or a language is an empty string.
    """
    if isinstance(language, str):
        language = [language] * n_rows
    if not _is_collection(language) or isinstance(language, bytes) or _n_dimensions(language) != 1:
        raise TypeError(
            f"{name} must be a str or one str per row, got {language!r:.100} of type "
            f"{type(language).__name__}."
        )
    tags = list(language)
    if len(tags) != n_rows:
        raise ValueError(f"{name} has length {len(tags)}, expected {n_rows}: one language per row.")
    for i, tag in enumerate(tags):
        if not isinstance(tag, str):
            raise TypeError(
                f"{name}[{i}] is {tag!r} of type {type(tag).__name__}, expected a str such as 'sw'."
            )
        if not tag:
            raise ValueError(f"{name}[{i}] is an empty string, expected a language such as 'sw'.")
    out = np.empty(n_rows, dtype=object)
    out[:] = [str.__str__(tag) for tag in tags]  # an enumeration's value, not its name
    return out


def resolve_harmful_label(classes: list[Any], label: Any, name: str = "harmful_label") -> Any:
    """Find the harmful one of one or two classes.

    Parameters
    ----------
    classes : list
        The distinct labels, sorted.
    label : object
        The harmful label, or None for the usual ones: "harmful", 1 or True if among the classes,
        else the one that is not "harmless", else the second class.
    name : str, default="harmful_label"
        The parameter's name in error messages.

    Returns
    -------
    label : object
        The harmful label.

    Raises
    ------
    ValueError
        If ``label`` is not among two classes, or one class alone leaves it open.

    Warns
    -----
    UserWarning
        If the classes are texts that don't say which is harmful.
    """
    if label is not None:
        if len(classes) == 2 and label not in classes:
            raise ValueError(f"{name}={label!r} is not among the classes {classes}.")
        return label
    for usual in ("harmful", 1):  # 1 is True too
        if usual in classes:
            return usual
    if len(classes) == 2 and "harmless" in classes:
        return classes[1 - classes.index("harmless")]
    if len(classes) == 2:
        if isinstance(classes[1], str):
            warnings.warn(
                f"{name} is None and neither of the classes {classes} is 'harmful': "
                f"{classes[1]!r}, the second, is taken for it. Expected {name} to say which is.",
                UserWarning,
                stacklevel=2,
            )
        return classes[1]
    for harmless, harmful in (("harmless", "harmful"), (0, 1)):
        if classes[0] == harmless:
            return harmful
    raise ValueError(
        f"{name} is None and {classes[0]!r} the only class; expected two classes, or {name} to "
        "say which is harmful."
    )


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
    expected = f"expected integers from {-n_layers} to {n_layers - 1} or 'all'"
    if not wanted:
        raise ValueError(f"{name} is empty; {expected}.")
    for item in wanted:
        if isinstance(item, bool) or not isinstance(item, Integral):
            raise ValueError(f"{name} contains {item!r}; {expected}.")
        if not -n_layers <= int(item) < n_layers:
            raise ValueError(
                f"{name}={item} is out of range for a model of {n_layers} layers; {expected}."
            )
    resolved = tuple(int(item) % n_layers for item in wanted)
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"{name}={wanted} names a layer twice; {expected}, each once.")
    return resolved
