"""The error of a row, on its way from an actor to the caller."""

from __future__ import annotations

import re


class RowError(ValueError):
    """A prompt or parameter that the transformer refused, in an actor.

    Ray hands on an actor's error as text, so the message is one line: to be found again.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


_LINE = re.compile(rf"^{re.escape(f'{RowError.__module__}.{RowError.__qualname__}')}: (.+)$", re.M)


def find_message(traceback: str) -> str | None:
    """Find a RowError's message in the text of a traceback; None if there is none."""
    found = _LINE.search(traceback)
    return found and found[1]
