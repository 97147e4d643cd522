"""Claims: which work is being done by whom, so that nobody does it twice at a time.

A claim is a lock on one byte of a file that stays empty, at an offset hashed from a name. The
operating system lets go of it when its process ends, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

try:
    import fcntl
except ImportError:  # Windows: claims hold within one process alone
    fcntl = None  # type: ignore[assignment]  # (a module elsewhere)


class Claims:
    """Claims of one process, known to its threads and to other processes.

    There must be one object per process and file: a second one that closes the file would let go
    of the first one's claims.

    Parameters
    ----------
    path : str
        The file, made if it doesn't exist.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._held: set[int] = set()
        self._lock = threading.Lock()

    @contextmanager
    def take(self, names: Sequence[bytes]) -> Iterator[list[bool]]:
        """Claim what nobody else has claimed, for the time of the context. Never waits.

        Parameters
        ----------
        names : sequence of bytes
            What to claim.

        Yields
        ------
        taken : list of bool
            Whether the claim on each name is now held.
        """
        places = [_place(name) for name in names]
        mine: list[int] = []
        try:
            taken = []
            for place in places:
                taken.append(self._take(place))
                if taken[-1]:
                    mine.append(place)
            yield taken
        finally:
            for place in mine:
                self._release(place)

    def close(self) -> None:
        """Let go of every claim."""
        os.close(self._file)

    def _take(self, place: int) -> bool:
        with self._lock:
            if place in self._held:
                return False
            if fcntl is not None:
                try:
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                except (BlockingIOError, PermissionError):
                    return False
                except OSError:  # a file system without locks: the work may be done twice
                    pass
            self._held.add(place)
            return True

    def _release(self, place: int) -> None:
        with self._lock:
            if fcntl is not None:
                with suppress(OSError):
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
            self._held.discard(place)


def _place(name: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 2
