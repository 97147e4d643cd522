"""Checks of a single prompt: a text, or a conversation of messages."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any, TypeAlias

import numpy as np

Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = "str | list[Message]"

_EXPECTED_PROMPT = "expected a non-empty str or a conversation (list of {'role', 'content'} dicts)"
_EXPECTED_CONTENT = "expected a str or a list of text parts"


class PromptError(ValueError):
    """A prompt that can't be used.

    Parameters
    ----------
    row : int
        Its place among the prompts of the call.
    problem : str
        What is wrong, as a sentence whose subject is the prompt. It may begin with the place in
        the prompt, such as "[2]['content']".
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
        space = "" if self.problem.startswith("[") else " "
        return f"{self.name}[{self.row}]{space}{self.problem}"


class PromptTypeError(PromptError, TypeError):
    """A prompt of a wrong type."""


def check_prompt(item: Any, row: int, name: str = "X") -> Prompt:
    """Turn a prompt into a str or a list of plain dicts.

    Arrays and Series become lists, and keys whose value is None are dropped, except in the
    arguments of tool calls. Messages are never quoted in errors: they may be harmful or private.

    Parameters
    ----------
    item : object
        The prompt.
    row : int
        Its place among the prompts of the call.
    name : str, default="X"
        Name of the parameter that holds the prompts.

    Returns
    -------
    prompt : str or list of dict
        The prompt. A message's content is a str or a list of text parts; it may be missing beside
        tool calls.

    Raises
    ------
    PromptError
        If the prompt is missing or empty, has a part that is no text, or half a surrogate pair.
    PromptTypeError
        If the prompt is neither text nor a conversation.
    """
    if isinstance(item, str):
        if not item.strip():
            raise PromptError(row, f"is {item!r}, an empty prompt; {_EXPECTED_PROMPT}.", name)
        _Checker(row, name).check_text(item, "")
        return str(item)
    if is_missing(item):
        raise PromptError(row, f"is {item!r}, a missing value; {_EXPECTED_PROMPT}.", name)
    if not _is_sequence(item):
        shown = f"{item!r} of type " if isinstance(item, Number) else "a "
        problem = f"is {shown}{type(item).__name__}; {_EXPECTED_PROMPT}."
        raise PromptTypeError(row, problem, name)
    messages = _to_list(item)
    if not messages:
        raise PromptError(row, f"is an empty conversation; {_EXPECTED_PROMPT}.", name)
    checker = _Checker(row, name)
    cleaned = [checker.clean_message(message, f"[{i}]") for i, message in enumerate(messages)]
    asked = [i for i, message in enumerate(cleaned) if message["role"] == "user"]
    if asked and not _has_text(cleaned[asked[-1]]):
        where = f"[{asked[-1]}]['content']"
        raise PromptError(row, f"{where} is empty; expected text in the user's last message.", name)
    return cleaned


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN or NA."""
    import pandas as pd

    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def find_half_surrogate(text: str) -> int | None:
    """Find the first half of a surrogate pair in a text, which no tokenizer takes.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    place : int or None
        Index of the character; None if there is none.
    """
    if text.isascii():  # costs next to nothing
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


class _Checker:
    """Checks the parts of one prompt. ``where`` is a place in it, such as "[2]['content']"."""

    def __init__(self, row: int, name: str) -> None:
        self.row = row
        self.name = name

    def clean_message(self, message: Any, where: str) -> Message:
        if not isinstance(message, Mapping):
            raise self._type_error(where, message, _EXPECTED_PROMPT)
        if not isinstance(message.get("role"), str):
            raise self._type_error(f"{where}['role']", message.get("role"), "expected a str")
        content = self._clean_content(message, where)
        clean = {  # in their order, which a template may loop over
            key: content
            if key == "content"
            else self._clean(value, f"{where}[{key!r}]", drop=key != "arguments")
            for key, value in message.items()
        }
        return {key: value for key, value in clean.items() if value is not None}

    def _clean_content(self, message: Message, where: str) -> str | list[Any] | None:
        """Return a text, a list of text parts, or None beside tool calls."""
        content: Any = message.get("content")
        calls: Any = message.get("tool_calls")
        if not (is_missing(calls) or _is_sequence(calls)):
            raise self._type_error(f"{where}['tool_calls']", calls, "expected a list")
        has_calls = not is_missing(calls) and len(calls) > 0
        content = None if is_missing(content) else content
        where = f"{where}['content']"
        if isinstance(content, str):
            self.check_text(content, where)
            return content
        if content is not None and not _is_sequence(content):
            raise self._type_error(where, content, _EXPECTED_CONTENT)
        parts = [] if content is None else _to_list(content)
        cleaned = [self._clean_part(part, f"{where}[{i}]") for i, part in enumerate(parts)]
        if any(part["text"].strip() for part in cleaned):
            return cleaned
        if has_calls:
            return None
        if content is None:
            raise self._type_error(where, None, f"{_EXPECTED_CONTENT}, or tool_calls")
        raise PromptError(self.row, f"{where} has no text; {_EXPECTED_CONTENT}.", self.name)

    def _clean_part(self, part: Any, where: str) -> dict[str, Any]:
        expected = "expected a text part: {'type': 'text', 'text': ...}"
        if not isinstance(part, Mapping):
            raise self._type_error(where, part, expected)
        kind = part.get("type")
        if not isinstance(kind, str):
            raise self._type_error(f"{where}['type']", kind, expected)
        if kind != "text":
            raise PromptError(
                self.row,
                f"{where} is a part of type {kind!r:.40}; {expected}. skgate takes text prompts "
                "only.",
                self.name,
            )
        if not isinstance(part.get("text"), str):
            raise self._type_error(f"{where}['text']", part.get("text"), "expected a str")
        cleaned: dict[str, Any] = self._clean(part, where)
        return cleaned

    def _clean(self, value: Any, where: str, *, drop: bool = True) -> Any:
        """Make lists of arrays and check texts; with ``drop``, drop keys whose value is None."""
        if isinstance(value, str):
            self.check_text(value, where)
            return value
        if isinstance(value, Mapping):
            return {
                key: self._clean(part, where, drop=drop and key != "arguments")
                for key, part in value.items()
                if not (drop and part is None)
            }
        if _is_sequence(value):
            return [self._clean(part, where, drop=drop) for part in _to_list(value)]
        return value.item() if isinstance(value, np.generic) else value

    def check_text(self, text: str, where: str) -> None:
        place = find_half_surrogate(text)
        if place is not None:
            problem = (
                f"{where} has half a surrogate pair at character {place}, expected whole "
                "characters. A text that was cut, or read with surrogateescape, may have one: "
                "remove it."
            )
            raise PromptError(self.row, problem.lstrip(), self.name)

    def _type_error(self, where: str, value: Any, expected: str) -> PromptTypeError:
        shown = "None" if value is None else f"a {type(value).__name__}"
        return PromptTypeError(self.row, f"{where} is {shown}; {expected}.", self.name)


def _has_text(message: Message) -> bool:
    content = message.get("content")
    return content is not None and (not isinstance(content, str) or bool(content.strip()))


def _is_sequence(value: Any) -> bool:
    """Whether a value is a list, or what files are read into: a tuple, an array, a Series."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, list | tuple) or (
        hasattr(value, "to_list") and hasattr(value, "__len__")
    )


def _to_list(value: Any) -> list[Any]:
    found: list[Any] = value.to_list() if hasattr(value, "to_list") else list(value)
    return found
