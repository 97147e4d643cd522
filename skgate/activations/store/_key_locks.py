"""Locks on keys, which threads and processes use to avoid doing the same work twice.

A lock covers one byte of an empty file, at an offset hashed from the key. The operating system
releases it when its process ends, even if the process is killed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

try:
    import fcntl
except ImportError:  # Windows: keys are only locked within a process
    fcntl = None  # type: ignore[assignment]  # (a module elsewhere)


class KeyLocks:
    """Locks of one process, respected by its threads and by other processes.

    Create one object per process and file: closing a second one would release the locks of the
    first.

    Parameters
    ----------
    path : str
        The file; created if it doesn't exist.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._held: set[int] = set()
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self, keys: Sequence[bytes]) -> Iterator[list[bool]]:
        """Lock the keys that are free, until the context ends. Never waits.

        Parameters
        ----------
        keys : sequence of bytes
            The keys to lock.

        Yields
        ------
        acquired : list of bool
            Whether each key is now locked by this caller.
        """
        acquired: list[bool] = []
        offsets = [_hash_key(key) for key in keys]
        try:
            for offset in offsets:
                acquired.append(self._acquire(offset))
            yield acquired
        finally:
            for offset, mine in zip(offsets, acquired, strict=False):
                if mine:
                    self._release(offset)

    def close(self) -> None:
        """Release every lock."""
        os.close(self._file)

    def _acquire(self, offset: int) -> bool:
        with self._lock:
            if offset in self._held:
                return False
            if fcntl is not None:
                try:
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
                except (BlockingIOError, PermissionError):
                    return False
                except OSError:  # a file system without locks: work may be done twice
                    pass
            self._held.add(offset)
            return True

    def _release(self, offset: int) -> None:
        with self._lock:
            if fcntl is not None:
                with suppress(OSError):
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, offset)
            self._held.discard(offset)


def _hash_key(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 2
