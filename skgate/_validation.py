"""Checks of what users pass: prompts, languages, labels, layers."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Set
from numbers import Integral, Number
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from skgate._base import find_stack_level

Message: TypeAlias = Mapping[str, str]
Prompt: TypeAlias = "str | list[Message]"

_EXPECTED_PROMPT = "expected a non-empty str or a conversation (list of {'role', 'content'} dicts)"


class PromptError(ValueError):
    """A prompt that can't be used.

    Parameters
    ----------
    row : int
        Index of the prompt in the call.
    problem : str
        What is wrong, as a sentence whose subject is the prompt.
    name : str, default="X"
        Name of the parameter that holds the prompts.

    Attributes
    ----------
    row, problem, name
        The parameters.
    """

    def __init__(self, row: int, problem: str, name: str = "X") -> None:
        super().__init__(row, problem, name)
        self.row = row
        self.problem = problem
        self.name = name

    def __str__(self) -> str:
        return f"{self.name}[{self.row}] {self.problem}"


class PromptTypeError(PromptError, TypeError):
    """A prompt of a wrong type."""


def check_prompts(X: Any, name: str = "X") -> list[Prompt]:
    """Turn a list, Series, object array or one-column DataFrame into a list of prompts.

    Parameters
    ----------
    X : array-like of shape (n_prompts,) or (n_prompts, 1)
        Each item a str (one user turn) or a conversation (list of ``{"role", "content"}``).
    name : str, default="X"
        Name of the parameter, for error messages.

    Returns
    -------
    prompts : list of length n_prompts
        Items of type str or list of dict.

    Raises
    ------
    PromptError
        If a prompt is missing or empty.
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
    if isinstance(X, Mapping | Set) or not _is_collection(X):
        raise TypeError(f"Got a {type(X).__name__}, {expected}.")
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) != 1:
        if len(shape) != 2 or shape[1] != 1:
            raise ValueError(f"Got the shape {tuple(shape)}, {expected}.")
        X = np.asarray(X, dtype=object)[:, 0]
    items = list(X)
    if not items:
        raise ValueError(f"Got an empty {type(X).__name__}, {expected}: at least 1 is required.")
    if all(isinstance(item, Mapping) for item in items):
        raise ValueError(
            f"Got a single conversation (a list of messages), {expected}. Wrap it in a list: "
            "[conversation]."
        )
    return [_check_prompt(item, row, name) for row, item in enumerate(items)]


def _is_collection(value: Any) -> TypeGuard[Collection[Any]]:
    return hasattr(value, "__len__") and hasattr(value, "__iter__")


def _n_dimensions(value: Any) -> int:
    return len(getattr(value, "shape", (len(value),)))


def _check_prompt(item: Any, row: int, name: str) -> Prompt:
    if isinstance(item, str):
        if not item.strip():
            raise PromptError(row, f"is {item!r}, an empty prompt; {_EXPECTED_PROMPT}.", name)
        return str(item)
    if item is None or (np.isscalar(item) and item != item):
        raise PromptError(row, f"is {item!r}, a missing value; {_EXPECTED_PROMPT}.", name)
    if not isinstance(item, list | tuple | np.ndarray):
        shown = f"{item!r} of type " if isinstance(item, Number) else "a "
        problem = f"is {shown}{type(item).__name__}; {_EXPECTED_PROMPT}."
        raise PromptTypeError(row, problem, name)
    if len(item) == 0:
        raise PromptError(row, f"is an empty conversation; {_EXPECTED_PROMPT}.", name)
    for i, message in enumerate(item):
        # Messages are not quoted in errors: they may be harmful or private.
        if not isinstance(message, Mapping):
            problem = f"has the message {i} of type {type(message).__name__}; {_EXPECTED_PROMPT}."
            raise PromptTypeError(row, problem, name)
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise PromptTypeError(
                    row,
                    f"has the message {i} with {key!r} of type {type(message.get(key)).__name__}; "
                    "expected a str: only messages of a role and a text are supported.",
                    name,
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
            f"Got {name}={language!r:.100} of type {type(language).__name__}, expected a str or "
            "one str per row."
        )
    tags = list(language)
    if len(tags) != n_rows:
        raise ValueError(
            f"Got {name} of length {len(tags)}, expected {n_rows}: one language per row."
        )
    for i, tag in enumerate(tags):
        if not isinstance(tag, str):
            raise TypeError(
                f"Got {name}[{i}]={tag!r} of type {type(tag).__name__}, expected a str such as "
                "'sw'."
            )
        if not tag:
            raise ValueError(f"Got {name}[{i}]='', expected a language such as 'sw'.")
    out = np.empty(n_rows, dtype=object)
    out[:] = [str.__str__(tag) for tag in tags]  # an enumeration's value, not its name
    return out


def resolve_harmful_label(classes: list[Any], label: Any, name: str = "harmful_label") -> Any:
    """Find the harmful class.

    Parameters
    ----------
    classes : list
        One or two distinct labels, sorted.
    label : object
        The harmful label. If None, it is "harmful", 1 or True if that is among the classes, else
        the class that is not "harmless", else the second class.
    name : str, default="harmful_label"
        The parameter's name in error messages.

    Returns
    -------
    label : object
        The harmful label.

    Raises
    ------
    ValueError
        If ``label`` is not among two classes, or can't be found out from a single class.

    Warns
    -----
    UserWarning
        If the classes are strings that don't say which one is harmful.
    """
    if label is not None:
        if len(classes) == 2 and label not in classes:
            raise ValueError(f"Got {name}={label!r}, expected one of the classes {classes}.")
        return label
    for usual in ("harmful", 1):  # 1 is True too
        if usual in classes:
            return usual
    if len(classes) == 2 and "harmless" in classes:
        return classes[1 - classes.index("harmless")]
    if len(classes) == 2:
        if isinstance(classes[1], str):
            warnings.warn(
                f"Got {name}=None, and neither of the classes {classes} is 'harmful'. The second, "
                f"{classes[1]!r}, is taken as the harmful one. Set {name} to be sure.",
                UserWarning,
                stacklevel=find_stack_level(),
            )
        return classes[1]
    for harmless, harmful in (("harmless", "harmful"), (0, 1)):
        if classes[0] == harmless:
            return harmful
    raise ValueError(
        f"Got {name}=None and the single class {classes[0]!r}, expected two classes, or {name} set "
        "to the harmful one."
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
