"""Folders with an LMDB database. Each is opened once per process, when needed, as LMDB requires.

Several processes may use a folder, each with several threads. LMDB coordinates the processes; a
lock allows one transaction at a time among the threads of this process.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import lmdb

from skgate.activations.store._key_locks import KeyLocks

T = TypeVar("T")

_FORMAT = {"what": "skgate activation store", "version": 1}
_FILES = {"data.mdb", "lock.mdb", "claims.lock"}
_FIRST_MAP_SIZE = 1 << 28
_NO_ROOM = {os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}


class Work(NamedTuple):
    """A transaction and the two databases of a store."""

    transaction: lmdb.Transaction[memoryview]
    rows: lmdb._Database
    namespaces: lmdb._Database


class Folder:
    """An open store. :func:`open_folder` returns the only one of the process.

    Parameters
    ----------
    path : str
        The folder; created if it doesn't exist.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.RLock()
        _check_folder(path)
        data = os.path.join(path, "data.mdb")
        size = os.stat(data).st_size if os.path.exists(data) else 0
        with self._errors():
            self._environment = lmdb.open(
                path,
                map_size=max(_FIRST_MAP_SIZE, 2 * size),
                max_dbs=2,
                max_readers=1024,
                max_spare_txns=0,
                metasync=False,  # a power cut may undo the last commit, but breaks nothing
                readahead=False,
                mode=0o666,
            )
            try:
                self._environment.reader_check()
                _check_format(self._environment, path)
                _pad_to_full_length(self._environment, data)
                self._rows = self._environment.open_db(b"rows")
                self._namespaces = self._environment.open_db(b"namespaces")
                self.key_locks = KeyLocks(os.path.join(path, "claims.lock"))
            except BaseException:
                self._environment.close()
                raise
        self.file = _identity(data)

    @contextmanager
    def reading(self) -> Iterator[Work]:
        """Open a transaction that sees the present state of the store."""
        with self._errors(), self.lock, self._begin(write=False) as transaction:
            yield Work(transaction, self._rows, self._namespaces)

    def write(self, work: Callable[[Work], T]) -> T:
        """Commit everything that ``work`` does, or nothing.

        If the memory map has to grow, ``work`` is called again.
        """
        with self._errors(), self.lock:
            while True:
                try:
                    with self._begin(write=True) as transaction:
                        return work(Work(transaction, self._rows, self._namespaces))
                except lmdb.MapFullError:
                    self._environment.set_mapsize(2 * self._environment.info()["map_size"])

    def size_on_disk(self) -> int:
        """Return the size of the data file in bytes."""
        return os.stat(os.path.join(self.path, "data.mdb")).st_size

    def close(self) -> None:
        """Close the files. No transaction may be open."""
        self._environment.close()
        self.key_locks.close()

    def _begin(self, write: bool) -> lmdb.Transaction[memoryview]:
        try:
            return self._environment.begin(write=write, buffers=True)
        except lmdb.MapResizedError:  # another process has enlarged the map
            self._environment.set_mapsize(0)
            return self._environment.begin(write=write, buffers=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate LMDB's errors. Everything that was committed is kept."""
        try:
            yield
        except lmdb.MapFullError:
            raise
        except (lmdb.InvalidError, lmdb.VersionMismatchError) as error:
            raise ValueError(
                f"Got path={self.path!r}, whose data.mdb is not an activation store ({error}). "
                "Expected a new or empty folder, or one created by ActivationStore."
            ) from error
        except (lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
            raise OSError(
                f"The database of the activation store {self.path!r} is damaged ({error}). Delete "
                "the folder; its activations will be computed again."
            ) from error
        except lmdb.Error as error:
            forget_folder(self)  # a failed environment has to be opened again
            full = isinstance(error, lmdb.DiskError) or any(why in str(error) for why in _NO_ROOM)
            raise OSError(
                errno.ENOSPC if full else errno.EIO,
                f"The activation store failed ({error}) with "
                f"{shutil.disk_usage(self.path).free:,} bytes free on its disk. Everything that "
                "was committed is kept. If the disk is full, free some space or prune the store, "
                "then run the call again",
                self.path,
            ) from error


_open: dict[str, Folder] = {}
_opening = threading.RLock()


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """Return the open store in a folder, the same object in each call until the process forks.

    Parameters
    ----------
    path : str or path
        The folder; created if it doesn't exist.

    Returns
    -------
    folder : Folder
        The open store.

    Raises
    ------
    ValueError
        If the folder holds other files, or a store of another format.
    OSError
        If the folder can't be written to, or the database is damaged.
    """
    real = os.path.realpath(path)
    with _opening:
        folder = _open.get(real)
        if folder is not None and folder.file != _identity(os.path.join(real, "data.mdb")):
            forget_folder(folder)  # it was deleted, and perhaps created again, in the meantime
            folder = None
        if folder is None:
            folder = _open[real] = Folder(real)
        return folder


def forget_folder(folder: Folder) -> None:
    """Close an open store; the next :func:`open_folder` opens it again."""
    with _opening, folder.lock:
        if _open.get(folder.path) is folder:
            del _open[folder.path]
            folder.close()


def _check_folder(path: str) -> None:
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"Got path={path!r}, which is a file, expected a folder.")
    try:
        os.makedirs(path, exist_ok=True)
        others = sorted(set(os.listdir(path)) - _FILES)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"The folder of the activation store can't be created or read ({error.strerror})",
            path,
        ) from error
    if others and not os.path.exists(os.path.join(path, "data.mdb")):
        raise ValueError(
            f"Got path={path!r}, which holds {others[0]!r} and is not an activation store. "
            "Expected a new or empty folder, or one created by ActivationStore."
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(
            errno.EACCES,
            "The folder of the activation store is not writable",
            path,
        )


def _check_format(environment: lmdb.Environment, path: str) -> None:
    with environment.begin(write=True) as transaction:
        found = transaction.get(b"format")
        if found is None and transaction.stat()["entries"] == 0:
            found = json.dumps(_FORMAT).encode()
            transaction.put(b"format", found)
    try:
        known = json.loads(found or b"{}")
    except ValueError:
        known = {}
    if not isinstance(known, dict) or known.get("what") != _FORMAT["what"]:
        raise ValueError(
            f"Got path={path!r}, which holds the LMDB data of another program. Expected a new or "
            "empty folder, or one created by ActivationStore."
        )
    if known.get("version") != _FORMAT["version"]:
        raise ValueError(
            f"Got path={path!r}, an activation store of format version {known.get('version')!r}, "
            f"expected version {_FORMAT['version']}. Use another folder, or the version of skgate "
            "that wrote this one."
        )


def _pad_to_full_length(environment: lmdb.Environment, data: str) -> None:
    """Fill a truncated file with zeros, which fail the checksum; a gap would kill the process."""

    def full_length() -> int:
        return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]

    if os.stat(data).st_size < full_length():
        with environment.begin(write=True):  # no other process writes meanwhile
            if os.stat(data).st_size < full_length():
                os.truncate(data, full_length())


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _before_fork() -> None:
    # With every lock held, a child can't inherit an unfinished transaction.
    _opening.acquire()
    for folder in _open.values():
        folder.lock.acquire()


def _after_fork_in_parent() -> None:
    for folder in _open.values():
        folder.lock.release()
    _opening.release()


def _after_fork_in_child() -> None:
    global _opening
    for folder in _open.values():
        folder.close()
    _open.clear()
    _opening = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
