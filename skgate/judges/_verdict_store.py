"""Verdicts on disk, appended one by one."""

from __future__ import annotations

import json
import re
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from skgate.judges._rubric import VERDICTS

_START = b'{"key": "'
_RECORD = re.compile(
    rb'\{"key": "([0-9a-f]{64})", "verdict": "(%s)"\}' % "|".join(VERDICTS).encode()
)


class VerdictStore:
    """A file with one verdict per line, under a hash; it holds no text.

    Each verdict is appended by one small write (O_APPEND), so several processes may share a file.
    Whole records are found wherever they are. A record that a killed process left unfinished is
    therefore ignored, and does not harm the one after it.

    Parameters
    ----------
    path : Path or None
        The file. It and its folder are created with the first verdict. If None, nothing is kept.

    Attributes
    ----------
    verdicts : dict of str to str
        The verdict of each key, as found when the store was opened.

    Raises
    ------
    ValueError
        If the path is not a file, or a file with other content.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: FileIO | None = None
        content = b"" if path is None else _read(path)
        self.verdicts = {key.decode(): name.decode() for key, name in _RECORD.findall(content)}
        is_begun = content.startswith(_START) or _START.startswith(content)
        if not (self.verdicts or is_begun):
            raise ValueError(
                f"Got store={str(path)!r}, expected a new file or one that a ChatJudge wrote."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, key: str, verdict: str) -> None:
        """Append a verdict; it outlives the process from then on.

        Raises
        ------
        OSError
            If it cannot be written, for example because the disk is full.
        """
        if self._path is None:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(self._path, "a")
        record = json.dumps({"key": key, "verdict": verdict}).encode() + b"\n"
        written = self._file.write(record)
        if written < len(record):  # what is left is an error, or completes the record
            self._file.write(record[written:])


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise ValueError(f"Got store={str(path)!r}, expected a file.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
