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

from skgate.activations.store._lmdb_folder import Work, open_folder
from skgate.activations.store._row_codec import Row, decode, encode, written_at

if TYPE_CHECKING:
    import pandas as pd

_KEY_PART = 16  # bytes of a namespace, and of a prompt
_DELETED_AT_ONCE = 10_000


@dataclass(frozen=True)
class StoreInfo:
    """What an :class:`ActivationStore` holds.

    Attributes
    ----------
    path : Path
        The folder.
    n_rows : int
        Activations, one per model, prompt and layer.
    n_bytes : int
        Bytes of these rows.
    n_bytes_on_disk : int
        Bytes of the file they are in. It never shrinks: what is pruned makes room for new rows.
    namespaces : DataFrame
        One row per namespace (what shares weights, configuration and device type), the least
        recently written first: ``namespace``, ``model``, ``device``, ``n_rows``, ``n_bytes``,
        ``first_written`` and ``last_written`` (UTC).
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


class ActivationStore:
    """Activations in a folder, to be computed once and read by every process that needs them.

    Give it, or the folder's path, to :class:`ActivationTransformer` as ``store``. Every batch is
    committed when it has been computed: an interrupted extraction resumes where it stopped.

    Parameters
    ----------
    path : str or path
        The folder, made when first used. On a local disk: LMDB's locks and memory maps do
        not work on network file systems.

    See Also
    --------
    ActivationTransformer : Fills and reads it.

    Notes
    -----
    An LMDB database, read through a memory map in O(log n). Its keys are hashes of all that
    decides an activation: the weights' and the model's fingerprint, the device's type, token ids,
    position and layer. Its values are kept in 2 bytes a number where this loses nothing, as with
    models in bfloat16 or float16, in 4 otherwise; float32 is what comes back. Each has a checksum:
    a damaged row is taken for missing, computed anew and overwritten.

    Any number of processes and threads may read and write at the same time, and be killed at any
    moment: a commit is seen whole or not at all. A row that is there and sound is never replaced.
    The object pickles as its path.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skgate import ActivationStore
    >>> store = ActivationStore(tempfile.mkdtemp())
    >>> store.info().n_rows
    0

    What a transformer does with it, for each batch of prompts:

    >>> namespace, prompts = 32 * "0", [16 * b"a", 16 * b"b"]
    >>> with store.claim(namespace, prompts) as ours:
    ...     store.insert(namespace, prompts, {15: np.ones((2, 4), dtype=np.float32)},
    ...                  {"model": "an/old-model", "device": "cpu"})
    >>> ours
    [True, True]
    >>> store.lookup(namespace, [16 * b"b", 16 * b"c"], layers=[15])
    [array([[1., 1., 1., 1.]], dtype=float32), None]

    Make room:

    >>> store.prune(model="an/old-model")["n_rows"].sum()
    np.int64(2)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"path={path!r} is of type {type(path).__name__}; expected a folder as str or path."
            )
        if not os.fspath(path):
            raise ValueError("path='' is empty; expected a folder as str or path.")
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
            32 hexadecimal digits: the model and all that decides its activations.
        prompts : sequence of bytes
            16 bytes each: a hash of the token ids and of the token that is read.
        layers : sequence of int
            0-based layers.

        Returns
        -------
        rows : list of ndarray of shape (n_layers, d), float32, or None
            None where a layer is missing or damaged.
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
        """Commit the activations of a batch of prompts, all or none.

        Parameters
        ----------
        namespace : str
            32 hexadecimal digits.
        prompts : sequence of bytes
            16 bytes each.
        rows : mapping of int to ndarray of shape (n_prompts, d), float32
            The activations at each layer.
        description : mapping of str to str or None
            ``model`` and ``device``, for :meth:`info` and :meth:`prune`.

        Raises
        ------
        OSError
            If there is no room left, or the folder can't be written to.
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
        """Claim prompts that are about to be computed, so that nobody else computes them too.

        Parameters
        ----------
        namespace : str
            32 hexadecimal digits.
        prompts : sequence of bytes
            16 bytes each.

        Returns
        -------
        claim : context manager
            Gives a list of bool: whether this process now has the claim on each prompt; if not,
            another thread or process has. It ends with the context, or with the process.
        """
        names = [bytes.fromhex(namespace) + prompt for prompt in prompts]
        return open_folder(self.path).claims.take(names)

    def info(self) -> StoreInfo:
        """Say what the store holds.

        Returns
        -------
        info : StoreInfo
            Rows and bytes, in all and by namespace; print it for a table.
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
        """Remove rows: of a namespace or model, or the least recently written ones.

        The space is used for new rows; the file itself keeps its size. (``python -m lmdb -e FOLDER
        copy --compact TARGET`` makes a small copy.)

        Parameters
        ----------
        namespace : str or None
            Remove only rows of this namespace, as listed by :meth:`info`.
        model : str or None
            Remove only rows of this model, as listed by :meth:`info`.
        max_bytes : int or None
            Keep rows of that many bytes among those chosen by ``namespace`` and ``model``, or
            among all; rows that were written together go together. None removes them all.

        Returns
        -------
        removed : DataFrame
            ``namespace``, ``model``, ``n_rows`` and ``n_bytes`` removed.

        Raises
        ------
        ValueError
            If nothing is given, no such namespace or model is there, or ``max_bytes`` is negative.
        """
        if namespace is None and model is None and max_bytes is None:
            raise ValueError(
                "namespace, model and max_bytes are all None; expected one of them, to say what to "
                "remove (max_bytes=0 removes everything)."
            )
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"max_bytes={max_bytes} is negative; expected 0 or more.")
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
    """What is known of a namespace: numbers of rows and bytes, times, description."""
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
                raise ValueError(f"{name}={wanted!r} is not in the store; expected one of {known}.")
    return tallies


def _scan(work: Work, start: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a namespace, from a key on."""
    cursor = work.transaction.cursor(db=work.rows)
    if cursor.set_range(start):
        for key, value in cursor:
            if key[:_KEY_PART] != start[:_KEY_PART]:
                return
            yield bytes(key), value


def _newest_to_remove(work: Work, namespaces: Sequence[str], max_bytes: int) -> float:
    """When the newest row was written that must go so that ``max_bytes`` are left."""
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
    """Remove some rows written up to ``limit``; their number, bytes, and the key to go on from."""
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
