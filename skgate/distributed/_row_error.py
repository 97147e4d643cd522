"""The error of a row, on its way from an actor to the caller of ``extract``.

Ray Data raises its own error from the actor's, and pickling drops the cause of an error. So only
the text of the traceback of ``RayTaskError.cause.__cause__`` reaches the caller.
"""

from __future__ import annotations

import re


class RowError(ValueError):
    """A prompt or parameter that an actor's transformer rejected.

    Parameters
    ----------
    message : str
        The message; it is put on a single line, to be found in the text of a traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


_LINE = re.compile(rf"^{re.escape(f'{RowError.__module__}.{RowError.__qualname__}')}: (.+)$", re.M)


def find_message(traceback: str) -> str | None:
    """Find the message of a RowError in the text of a traceback; None if there is none."""
    found = _LINE.search(traceback)
    return found and found[1]
