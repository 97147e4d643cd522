"""ActivationStore: activations on disk, one row per model, prompt and layer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skgate._base import set_module
from skgate.activations.store._lmdb_folder import Work, open_folder
from skgate.activations.store._row_codec import Row, decode, encode, written_at

if TYPE_CHECKING:
    import pandas as pd

_KEY_PART = 16  # bytes of a namespace, and of a prompt
_DELETED_AT_ONCE = 10_000


@set_module("skgate.activations")
@dataclass(frozen=True)
class StoreInfo:
    """Contents of an :class:`ActivationStore`.

    Parameters
    ----------
    path : Path
        Folder of the store.
    n_rows : int
        Number of activations: one per model, prompt and layer.
    n_bytes : int
        Size of these activations in bytes.
    n_bytes_on_disk : int
        Size of the file in bytes. It never shrinks, but new rows reuse the space of pruned ones.
    namespaces : DataFrame
        One row per namespace, the least recently written first. A namespace holds the activations
        of one model in one configuration on one type of device. Columns: ``namespace``,
        ``model``, ``device``, ``n_rows``, ``n_bytes``, ``first_written`` and ``last_written``
        (UTC).
    """

    path: Path
    n_rows: int
    n_bytes: int
    n_bytes_on_disk: int
    namespaces: pd.DataFrame

    def __str__(self) -> str:
        head = f"{self.path}: {self.n_rows:,} rows, {self.n_bytes:,} bytes"
        disk = f"{self.n_bytes_on_disk:,} on disk"
        return f"{head} ({disk})\n{self.namespaces.to_string(index=False)}"


@set_module("skgate")
class ActivationStore:
    """Cache activations in a folder that any number of processes can use.

    Pass it, or the path of the folder, to :class:`ActivationTransformer` as ``store``. Each batch
    is committed as soon as it is computed, so that an interrupted extraction resumes where it
    stopped.

    Parameters
    ----------
    path : str or path
        Folder of the store, created when first used. It must be on a local disk: LMDB's locks
        and memory maps don't work on network file systems.

    See Also
    --------
    ActivationTransformer : Fills and reads the store.

    Notes
    -----
    The store is an LMDB database, read through a memory map in O(log n). Its keys are hashes of
    everything that decides an activation: fingerprints of the weights and of the model's
    structure, the type of the device, the token ids, the position and the layer. A value takes 2
    bytes per number if that is lossless, as for models in bfloat16 or float16, and 4 bytes
    otherwise. It is always returned as float32. Each value has a checksum; a damaged row counts as
    missing, is computed again and overwritten.

    Any number of processes and threads may read and write at the same time, and may be killed at
    any moment: a commit is either complete or absent. Undamaged rows are never replaced. A pickle
    of the store only contains its path.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skgate import ActivationStore
    >>> store = ActivationStore(tempfile.mkdtemp())
    >>> store.info().n_rows
    0

    This is what a transformer does for each batch of prompts:

    >>> namespace, prompts = 32 * "0", [16 * b"a", 16 * b"b"]
    >>> with store.claim(namespace, prompts) as ours:
    ...     store.insert(namespace, prompts, {15: np.ones((2, 4), dtype=np.float32)},
    ...                  {"model": "an/old-model", "device": "cpu"})
    >>> ours
    [True, True]
    >>> store.lookup(namespace, [16 * b"b", 16 * b"c"], layers=[15])
    [array([[1., 1., 1., 1.]], dtype=float32), None]

    Remove the rows of a model that is no longer needed:

    >>> store.prune(model="an/old-model")["n_rows"].sum()
    np.int64(2)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"Got path={path!r} of type {type(path).__name__}, expected a str or path."
            )
        if not os.fspath(path):
            raise ValueError("Got path='', expected the path of a folder.")
        self.path = Path(path).expanduser().absolute()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActivationStore) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def lookup(
        self, namespace: str, prompts: Sequence[bytes], layers: Sequence[int]
    ) -> list[Row | None]:
        """Look up the activations of prompts.

        Parameters
        ----------
        namespace : str
            Namespace, 32 hexadecimal digits: the model and everything that decides its
            activations.
        prompts : sequence of bytes
            Prompts, 16 bytes each: a hash of the token ids and of the position that is read.
        layers : sequence of int
            Layers to look up, 0-based.

        Returns
        -------
        rows : list of ndarray of shape (n_layers, d), float32, or None
            Activations of each prompt; None if a layer is missing or damaged.
        """
        with open_folder(self.path).reading() as work:
            return [_find(work, namespace, prompt, layers) for prompt in prompts]

    def insert(
        self,
        namespace: str,
        prompts: Sequence[bytes],
        rows: Mapping[int, npt.NDArray[np.float32]],
        description: Mapping[str, str] | None = None,
    ) -> None:
        """Commit the activations of a batch of prompts: either all of them or none.

        Parameters
        ----------
        namespace : str
            Namespace, 32 hexadecimal digits.
        prompts : sequence of bytes
            Prompts, 16 bytes each.
        rows : mapping of int to ndarray of shape (n_prompts, d), float32
            Activations at each layer.
        description : mapping of str to str or None, default=None
            Names of the ``model`` and the ``device``, for :meth:`info` and :meth:`prune`.

        Raises
        ------
        OSError
            If the disk is full or the folder can't be written to.
        """
        written = time.time()
        values = {}
        for layer, matrix in rows.items():
            for prompt, row in zip(prompts, matrix, strict=True):
                key = _key(namespace, prompt, layer)
                values[key] = encode(key, row, written)

        def put(work: Work) -> None:
            tally = _tally(work, namespace) or {"n_rows": 0, "n_bytes": 0, "first_written": written}
            tally |= {**(description or {}), "last_written": written}
            for key, value in values.items():
                old = work.transaction.get(key, db=work.rows)
                if old is not None:
                    if decode(key, old) is not None:
                        continue
                    tally["n_rows"] -= 1
                    tally["n_bytes"] -= len(old)
                work.transaction.put(key, value, db=work.rows)
                tally["n_rows"] += 1
                tally["n_bytes"] += len(value)
            _put_tally(work, namespace, tally)

        open_folder(self.path).write(put)

    def claim(self, namespace: str, prompts: Sequence[bytes]) -> AbstractContextManager[list[bool]]:
        """Claim prompts before computing them, so that nobody else computes them too.

        Parameters
        ----------
        namespace : str
            Namespace, 32 hexadecimal digits.
        prompts : sequence of bytes
            Prompts, 16 bytes each.

        Returns
        -------
        claim : context manager
            Yields a list of bool: whether the caller now has the claim on each prompt. If not,
            another thread or process has it. Claims end with the context or with the process.
        """
        names = [bytes.fromhex(namespace) + prompt for prompt in prompts]
        return open_folder(self.path).key_locks.acquire(names)

    def info(self) -> StoreInfo:
        """Summarize the contents of the store.

        Returns
        -------
        info : StoreInfo
            Numbers of rows and bytes, in total and per namespace. Print it to see a table.
        """
        folder = open_folder(self.path)
        with folder.reading() as work:
            tallies = list(_tallies(work))
        frame = _frame(tallies)
        return StoreInfo(
            path=self.path,
            n_rows=int(frame["n_rows"].sum()),
            n_bytes=int(frame["n_bytes"].sum()),
            n_bytes_on_disk=folder.size_on_disk(),
            namespaces=frame,
        )

    def prune(
        self,
        *,
        namespace: str | None = None,
        model: str | None = None,
        max_bytes: int | None = None,
    ) -> pd.DataFrame:
        """Remove the rows of a namespace or model, or the least recently written ones.

        New rows reuse the space, but the file keeps its size. To get a smaller copy, run
        ``python -m lmdb -e FOLDER copy --compact TARGET``.

        Parameters
        ----------
        namespace : str or None, default=None
            Namespace whose rows are removed, as listed by :meth:`info`. If None, rows of all
            namespaces.
        model : str or None, default=None
            Model whose rows are removed, as listed by :meth:`info`. If None, rows of all models.
        max_bytes : int or None, default=None
            Size in bytes that the chosen rows may keep. The least recently written ones are
            removed; rows that were written together are removed together. If None, all chosen
            rows are removed.

        Returns
        -------
        removed : DataFrame
            Removed rows per namespace: ``namespace``, ``model``, ``n_rows`` and ``n_bytes``.

        Raises
        ------
        ValueError
            If no argument is given, the namespace or model is not in the store, or ``max_bytes``
            is negative.
        """
        if namespace is None and model is None and max_bytes is None:
            raise ValueError(
                "Got neither namespace, model nor max_bytes, expected at least one of them. Pass "
                "max_bytes=0 to remove everything."
            )
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"Got max_bytes={max_bytes}, expected 0 or more.")
        folder = open_folder(self.path)
        with folder.reading() as work:
            chosen = _choose(list(_tallies(work)), namespace, model)
            limit = np.inf
            if max_bytes is not None:
                limit = _newest_to_remove(work, [found["namespace"] for found in chosen], max_bytes)
        for found in chosen:
            n_rows = n_bytes = 0
            start = bytes.fromhex(found["namespace"])
            while start:
                removal = partial(_remove, start=start, limit=limit)
                more_rows, more_bytes, start = folder.write(removal)
                n_rows += more_rows
                n_bytes += more_bytes
            found |= {"n_rows": n_rows, "n_bytes": n_bytes}
        return _frame(chosen)[["namespace", "model", "n_rows", "n_bytes"]]


def _key(namespace: str, prompt: bytes, layer: int) -> bytes:
    return bytes.fromhex(namespace) + prompt + layer.to_bytes(2, "big")


def _find(work: Work, namespace: str, prompt: bytes, layers: Sequence[int]) -> Row | None:
    rows = []
    for layer in layers:
        key = _key(namespace, prompt, layer)
        row = decode(key, work.transaction.get(key, db=work.rows))
        if row is None:
            return None
        rows.append(row)
    return np.stack(rows)


def _tally(work: Work, namespace: str) -> dict[str, Any] | None:
    """Read the record of a namespace: numbers of rows and bytes, times, description."""
    found = work.transaction.get(bytes.fromhex(namespace), db=work.namespaces)
    return None if found is None else json.loads(bytes(found))


def _put_tally(work: Work, namespace: str, tally: Mapping[str, Any]) -> None:
    key = bytes.fromhex(namespace)
    work.transaction.put(key, json.dumps(tally).encode(), db=work.namespaces)


def _tallies(work: Work) -> Iterator[dict[str, Any]]:
    for key, value in work.transaction.cursor(db=work.namespaces):
        yield {"namespace": bytes(key).hex(), **json.loads(bytes(value))}


def _frame(tallies: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    times = ["first_written", "last_written"]
    columns = ["namespace", "model", "device", "n_rows", "n_bytes", *times]
    frame = pd.DataFrame(tallies, columns=columns)
    for name in times:
        frame[name] = pd.to_datetime(frame[name], unit="s", utc=True)
    counts = {"n_rows": int, "n_bytes": int}
    return frame.astype(counts).sort_values("last_written", ignore_index=True)


def _choose(
    tallies: list[dict[str, Any]], namespace: str | None, model: str | None
) -> list[dict[str, Any]]:
    for name, wanted in (("namespace", namespace), ("model", model)):
        if wanted is not None:
            known = sorted({str(found.get(name)) for found in tallies})
            tallies = [found for found in tallies if found.get(name) == wanted]
            if not tallies:
                raise ValueError(f"Got {name}={wanted!r}, expected one in the store: {known}.")
    return tallies


def _scan(work: Work, start: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Iterate over the keys and values of a namespace, starting at a key."""
    cursor = work.transaction.cursor(db=work.rows)
    if cursor.set_range(start):
        for key, value in cursor:
            if key[:_KEY_PART] != start[:_KEY_PART]:
                return
            yield bytes(key), value


def _newest_to_remove(work: Work, namespaces: Sequence[str], max_bytes: int) -> float:
    """Find the time up to which rows have to be removed to keep ``max_bytes``."""
    found = [
        (written_at(value), len(value))
        for namespace in namespaces
        for _, value in _scan(work, bytes.fromhex(namespace))
    ]
    times, sizes = np.array(found, np.float64).reshape(-1, 2).T
    order = np.argsort(-times, kind="stable")
    too_many = np.flatnonzero(sizes[order].cumsum() > max_bytes)
    return float(times[order][too_many[0]]) if len(too_many) else -np.inf


def _remove(work: Work, start: bytes, limit: float) -> tuple[int, int, bytes]:
    """Remove some rows written up to ``limit``.

    Returns their number, their bytes, and the key to continue with, empty if there is none.
    """
    old: list[bytes] = []
    n_bytes, following = 0, b""
    for key, value in _scan(work, start):
        if len(old) == _DELETED_AT_ONCE:
            following = key
            break
        if written_at(value) <= limit:
            old.append(key)
            n_bytes += len(value)
    for key in old:
        work.transaction.delete(key, db=work.rows)
    namespace = start[:_KEY_PART].hex()
    tally = _tally(work, namespace)
    if tally is not None:
        tally["n_rows"] -= len(old)
        tally["n_bytes"] -= n_bytes
        if tally["n_rows"] > 0:
            _put_tally(work, namespace, tally)
        else:
            work.transaction.delete(start[:_KEY_PART], db=work.namespaces)
    return len(old), n_bytes, following
