"""Caches of activations, for one model each: none, in memory, or on disk."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from skgate._base import find_stack_level
from skgate.activations.store._row_codec import Row
from skgate.activations.store._store import ActivationStore

_Rows = Mapping[int, npt.NDArray[np.float32]]  # (n_prompts, d) per layer
# Bytes of an entry's Python objects and of its places in dicts, measured with tracemalloc.
_ENTRY_BYTES = 540


class RowCache(Protocol):
    """Caches the activations of one model. Prompts are identified by 16 bytes.

    Attributes
    ----------
    on_disk : bool
        Whether the activations are read by other processes and later sessions.
    """

    on_disk: bool

    def announce(self, n_rows: int, n_layers: int, d: int) -> str:
        """Prepare for prompts that are about to be computed.

        Returns a message about the memory they need, "" if there is nothing to say.
        """

    def lookup(self, prompts: Sequence[bytes], layers: Sequence[int]) -> list[Row | None]:
        """Return arrays of shape (n_layers, d), None where a layer is missing."""

    def insert(self, prompts: Sequence[bytes], rows: _Rows) -> None:
        """Add arrays of shape (n_prompts, d), one per layer."""

    def claim(self, prompts: Sequence[bytes]) -> AbstractContextManager[list[bool]]:
        """Lock the prompts that nobody else is computing; return whether each one was locked."""


class NoRowCache:
    """Caches nothing."""

    on_disk = False

    def announce(self, n_rows: int, n_layers: int, d: int) -> str:
        return ""

    def lookup(self, prompts: Sequence[bytes], layers: Sequence[int]) -> list[Row | None]:
        return [None] * len(prompts)

    def insert(self, prompts: Sequence[bytes], rows: _Rows) -> None: ...

    def claim(self, prompts: Sequence[bytes]) -> AbstractContextManager[list[bool]]:
        return nullcontext([True] * len(prompts))


class _Entry(NamedTuple):
    layers: tuple[int, ...]
    rows: npt.NDArray[np.float32]  # (n_layers, d)


def _size_of(entry: _Entry) -> int:
    """Count the bytes that an entry takes in a :class:`MemoryCache`."""
    return entry.rows.nbytes + _ENTRY_BYTES


class MemoryCache:
    """Activations of many models in memory; the least recently used prompts are dropped first.

    Parameters
    ----------
    max_bytes : int
        The most memory to use.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: LRUCache[tuple[str, bytes], _Entry] = LRUCache(max_bytes, _size_of)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        """Memory in use, Python's objects included."""
        return int(self._entries.currsize)

    def lookup(
        self, namespace: str, prompts: Sequence[bytes], layers: Sequence[int]
    ) -> list[Row | None]:
        """Return copies of shape (n_layers, d), None where a layer is missing."""
        with self._lock:
            return [_take(self._entries.get((namespace, prompt)), layers) for prompt in prompts]

    def insert(self, namespace: str, prompts: Sequence[bytes], rows: _Rows) -> None:
        """Add copies of arrays of shape (n_prompts, d), one per layer."""
        layers = tuple(sorted(rows))
        stacked = np.stack([rows[layer] for layer in layers], axis=1)
        with self._lock:
            for prompt, new in zip(prompts, stacked, strict=True):
                known = self._entries.get((namespace, prompt))
                entry = _Entry(layers, new.copy()) if known is None else _unite(known, layers, new)
                if _size_of(entry) <= self.max_bytes:
                    self._entries[namespace, prompt] = entry

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()


memory_cache = MemoryCache(max_bytes=2 << 30)


class MemoryRowCache(NoRowCache):
    """Caches activations in the memory of the process."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def announce(self, n_rows: int, n_layers: int, d: int) -> str:
        needed = n_rows * (4 * n_layers * d + _ENTRY_BYTES)
        message = (
            f"{n_rows * n_layers:,} activations of {d:,} numbers need {_gibibytes(needed)}; the "
            f"memory cache holds {_gibibytes(memory_cache.max_bytes)}"
        )
        if needed > memory_cache.max_bytes:
            warnings.warn(
                f"{message}, so it will drop the least recently used ones, which are computed "
                "again when needed. Pass store='folder' to keep them on disk, or store=False to "
                "cache nothing.",
                UserWarning,
                stacklevel=find_stack_level(),
            )
        return message

    def lookup(self, prompts: Sequence[bytes], layers: Sequence[int]) -> list[Row | None]:
        return memory_cache.lookup(self.namespace, prompts, layers)

    def insert(self, prompts: Sequence[bytes], rows: _Rows) -> None:
        memory_cache.insert(self.namespace, prompts, rows)


class StoreRowCache(NoRowCache):
    """Caches activations in a folder."""

    on_disk = True

    def __init__(
        self, store: ActivationStore, namespace: str, description: Mapping[str, str]
    ) -> None:
        self.store = store
        self.namespace = namespace
        self.description = description

    def lookup(self, prompts: Sequence[bytes], layers: Sequence[int]) -> list[Row | None]:
        return self.store.lookup(self.namespace, prompts, layers)

    def insert(self, prompts: Sequence[bytes], rows: _Rows) -> None:
        self.store.insert(self.namespace, prompts, rows, self.description)

    def claim(self, prompts: Sequence[bytes]) -> AbstractContextManager[list[bool]]:
        return self.store.claim(self.namespace, prompts)


def open_row_cache(store: Any, namespace: str, description: Mapping[str, str]) -> RowCache:
    """Open the cache that an ActivationTransformer's parameter ``store`` stands for.

    Parameters
    ----------
    store : None, False, str, path or ActivationStore
        The parameter.
    namespace : str
        32 hexadecimal digits: the model, and everything that decides its activations.
    description : mapping of str to str
        ``model`` and ``device``, for :meth:`ActivationStore.info`.

    Returns
    -------
    row_cache : RowCache
        The cache of that model.
    """
    if store is False:
        return NoRowCache()
    if store is None:
        return MemoryRowCache(namespace)
    if not isinstance(store, ActivationStore):
        store = ActivationStore(store)
    return StoreRowCache(store, namespace, description)


def _take(entry: _Entry | None, layers: Sequence[int]) -> Row | None:
    """Copy the rows of some layers, if all of them are there."""
    if entry is None or not set(layers) <= set(entry.layers):
        return None
    return entry.rows[[entry.layers.index(layer) for layer in layers]]


def _unite(known: _Entry, layers: tuple[int, ...], new: npt.NDArray[np.float32]) -> _Entry:
    """Combine a prompt's layers; new rows replace known ones."""
    rows = dict(zip(known.layers, known.rows, strict=True)) | dict(zip(layers, new, strict=True))
    order = tuple(sorted(rows))
    return _Entry(order, np.stack([rows[layer] for layer in order]))


def _gibibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"
