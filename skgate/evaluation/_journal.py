"""The file of an evaluation: what was run, and the rows of each finished batch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from skgate.evaluation._identity import find_differences

try:
    import fcntl
except ImportError:  # on Windows, only the size tells of another process
    fcntl = None  # type: ignore[assignment]

_START = b'{"run": {'
Record = dict[str, Any]


class Journal:
    """A JSON Lines file that an evaluation appends to, and goes on from.

    The first line says what is run. Further lines hold the prompts of a call that were new, a
    model, or the row of a model and a prompt. Everything is written together with the rows of a
    batch, so a call that fails before its first batch changes nothing. Lines after the last
    finished batch are ignored, and cut off before the next write.

    Parameters
    ----------
    path : Path or None
        The file. It and its folder are created with the first write. If None, nothing is written.
    run : mapping of str to str
        The description of what is run.
    batch_size : int
        The number of prompts in a batch.

    Attributes
    ----------
    prompts : dict of str to dict
        The record of each prompt, by its id.
    batches : list of list of str
        The ids of the prompts in each batch. New prompts make batches of their own.
    models : dict of str to dict
        The description of each model, by its name.
    rows : dict of (str, str) to dict
        The row of each model and id, of finished batches.

    Raises
    ------
    ValueError
        If the path is not a file, a file with other content, or that of another run.
    """

    def __init__(self, path: Path | None, run: Mapping[str, str], batch_size: int) -> None:
        self.path = path
        self.prompts: dict[str, Record] = {}
        self.batches: list[list[str]] = []
        self.models: dict[str, dict[str, str]] = {}
        self.rows: dict[tuple[str, str], Record] = {}
        self._run = dict(run)
        self._batch_size = batch_size
        self._batch_of: dict[str, list[str]] = {}
        self._file: FileIO | None = None
        self._unwritten: list[Record] = []
        self._end = 0  # of what is finished, in bytes
        self._size = 0  # when it was read
        if path is not None:
            content = _read_bytes(path)
            self._size = len(content)
            self._read(content)

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

    def add_prompts(self, prompts: Sequence[Record]) -> None:
        """Add records of prompts, each with its "id"."""
        self._unwritten.append({"prompts": list(prompts)})
        self._note_prompts(prompts)

    def add_model(self, name: str, description: Mapping[str, str]) -> None:
        """Add a model."""
        self._unwritten.append({"model": name, "params": dict(description)})
        self.models[name] = dict(description)

    def add_rows(self, rows: Sequence[Record]) -> None:
        """Append the rows of a batch, after what was added before; they outlive the process."""
        self._append([*self._unwritten, *rows])
        self._unwritten.clear()
        self._note_rows(rows)

    def is_done(self, model: str, batch: Sequence[str]) -> bool:
        """Whether the batch's rows of a model are there."""
        return (model, batch[0]) in self.rows

    def _note_prompts(self, prompts: Sequence[Record]) -> None:
        self.prompts |= {record["id"]: record for record in prompts}
        ids = [record["id"] for record in prompts]
        starts = range(0, len(ids), self._batch_size)
        new = [ids[start : start + self._batch_size] for start in starts]
        self.batches += new
        self._batch_of |= {id_: batch for batch in new for id_ in batch}

    def _note_rows(self, rows: Sequence[Record]) -> None:
        self.rows |= {(row["model"], row["id"]): row for row in rows}

    def _append(self, records: Sequence[Record]) -> None:
        if self.path is None:
            return
        content = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(self.path, "a")
            self._check_alone(self._file)
            self._file.truncate(self._end)
            if not self._end:
                content = json.dumps({"run": self._run}).encode() + b"\n" + content
        while content:  # what a full disk leaves unwritten is an error at the next try
            content = content[self._file.write(content) :]

    def _check_alone(self, file: FileIO) -> None:
        """Take the file for this process, and check that no other one has written to it."""
        is_locked = False  # by another process
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
        except BlockingIOError:
            is_locked = True
        except OSError:  # a file system without locks: only the size tells
            pass
        if is_locked or os.fstat(file.fileno()).st_size != self._size:
            raise RuntimeError(
                f"Got path={str(self.path)!r}, to which another process writes, expected a file "
                "that only one process uses. Wait for the other one, and call again."
            )

    def _read(self, content: bytes) -> None:
        if not (content.startswith(_START) or _START.startswith(content)):
            raise ValueError(
                f"Got path={str(self.path)!r}, expected a new file or one of evaluate_refusal."
            )
        open_batch: list[Record] = []
        position = 0
        for number, line in enumerate(content.split(b"\n")[:-1], 1):  # the last is unfinished
            position += len(line) + 1
            try:
                record = json.loads(line)
                if number > 1:
                    self._note(record, open_batch)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"Got path={str(self.path)!r} with a damaged line {number}, expected a file "
                    "of evaluate_refusal. Remove it to begin again."
                ) from error
            if number == 1:
                self._check_run(record["run"])
            if not open_batch:
                self._end = position

    def _check_run(self, recorded: Mapping[str, str]) -> None:
        differences = find_differences(recorded, self._run)
        if differences:
            raise ValueError(
                f"Got {differences}, expected what path={str(self.path)!r} was begun with. Use "
                "another path."
            )

    def _note(self, record: Record, open_batch: list[Record]) -> None:
        """Note a record of the file, and the rows of a batch once they are all there."""
        if "id" in record:
            open_batch.append(record)
            first = open_batch[0]
            batch = self._batch_of[first["id"]]
            expected = (first["model"], batch[len(open_batch) - 1])
            if (record["model"], record["id"]) != expected:
                raise ValueError(f"Got the row of {record['id']}, expected that of {expected}.")
            if len(open_batch) == len(batch):
                self._note_rows(open_batch)
                open_batch.clear()
        elif open_batch:
            raise ValueError("Got another record, expected a row of the open batch.")
        elif "prompts" in record:
            self._note_prompts(record["prompts"])
        else:
            self.models[record["model"]] = record["params"]


def _read_bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise ValueError(f"Got path={str(path)!r}, expected a file.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
