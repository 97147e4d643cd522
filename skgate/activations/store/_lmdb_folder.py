"""One LMDB environment per folder and process, as LMDB demands: opened when needed, never forked.

Several processes may use a folder, and several threads of each: a transaction of this process
holds a lock among its threads, and LMDB sees to the processes.
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

from skgate.activations.store._key_locks import Claims

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
    """An open store. Get it from :func:`open_folder`, which keeps one per process.

    Parameters
    ----------
    path : str
        The folder, made if it doesn't exist.
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
                self.claims = Claims(os.path.join(path, "claims.lock"))
            except BaseException:
                self._environment.close()
                raise
        self.file = _identity(data)

    @contextmanager
    def reading(self) -> Iterator[Work]:
        """Give a transaction that sees the store as it is now."""
        with self._errors(), self.lock, self._begin(write=False) as transaction:
            yield Work(transaction, self._rows, self._namespaces)

    def write(self, work: Callable[[Work], T]) -> T:
        """Commit all that ``work`` does, or nothing; it is run anew if the map has to grow."""
        with self._errors(), self.lock:
            while True:
                try:
                    with self._begin(write=True) as transaction:
                        return work(Work(transaction, self._rows, self._namespaces))
                except lmdb.MapFullError:
                    self._environment.set_mapsize(2 * self._environment.info()["map_size"])

    def size_on_disk(self) -> int:
        """Return the bytes that the folder's data takes on the disk."""
        return os.stat(os.path.join(self.path, "data.mdb")).st_size

    def close(self) -> None:
        """Close the files. No transaction may be open."""
        self._environment.close()
        self.claims.close()

    def _begin(self, write: bool) -> lmdb.Transaction[memoryview]:
        try:
            return self._environment.begin(write=write, buffers=True)
        except lmdb.MapResizedError:  # another process has let the map grow
            self._environment.set_mapsize(0)
            return self._environment.begin(write=write, buffers=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in plain words what LMDB means. What was committed stays."""
        try:
            yield
        except lmdb.MapFullError:
            raise
        except (lmdb.InvalidError, lmdb.VersionMismatchError) as error:
            raise ValueError(
                f"path={self.path!r} holds a data.mdb that is no activation store ({error}); "
                "expected a new or empty folder, or one that ActivationStore made."
            ) from error
        except (lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
            raise OSError(
                f"the activation store {self.path!r} is damaged beyond its rows ({error}); delete "
                "the folder: its activations will be computed anew."
            ) from error
        except lmdb.Error as error:
            _forget(self)  # an environment that failed is opened anew
            full = isinstance(error, lmdb.DiskError) or any(why in str(error) for why in _NO_ROOM)
            raise OSError(
                errno.ENOSPC if full else errno.EIO,
                f"the activation store failed ({error}) with "
                f"{shutil.disk_usage(self.path).free:,} bytes free on its disk; what was committed "
                "is kept. If there is no room left, make some or prune the store, and go on",
                self.path,
            ) from error


_open: dict[str, Folder] = {}
_opening = threading.RLock()


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """Return the open store in a folder: always the same object, until the process forks.

    Parameters
    ----------
    path : str or path
        The folder, made if it doesn't exist.

    Returns
    -------
    folder : Folder
        The open store.

    Raises
    ------
    ValueError
        If the folder holds something else, or a store of another format.
    OSError
        If it can't be written to, or is damaged.
    """
    real = os.path.realpath(path)
    with _opening:
        folder = _open.get(real)
        if folder is not None and folder.file != _identity(os.path.join(real, "data.mdb")):
            _forget(folder)  # deleted, and perhaps made anew, in the meantime
            folder = None
        if folder is None:
            folder = _open[real] = Folder(real)
        return folder


def _forget(folder: Folder) -> None:
    with _opening, folder.lock:
        if _open.get(folder.path) is folder:
            del _open[folder.path]
            folder.close()


def _check_folder(path: str) -> None:
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"path={path!r} is a file; expected a folder for the activation store.")
    try:
        os.makedirs(path, exist_ok=True)
        others = sorted(set(os.listdir(path)) - _FILES)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"can't make or read the activation store's folder ({error.strerror})",
            path,
        ) from error
    if others and not os.path.exists(os.path.join(path, "data.mdb")):
        raise ValueError(
            f"path={path!r} is no activation store: it holds {others[0]!r}; expected a new or "
            "empty folder, or one that ActivationStore made."
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(
            errno.EACCES,
            "can't write to the activation store's folder; it has to be writable",
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
            f"path={path!r} holds another program's LMDB data; expected a new or empty folder, or "
            "one that ActivationStore made."
        )
    if known.get("version") != _FORMAT["version"]:
        raise ValueError(
            f"path={path!r} is an activation store of the format version "
            f"{known.get('version')!r}; this skgate reads version {_FORMAT['version']}. Use "
            "another folder, or the skgate that wrote it."
        )


def _pad_to_full_length(environment: lmdb.Environment, data: str) -> None:
    """Give a file that was cut short its length back: zeros fail their checksum, a gap kills."""

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
    # With every lock held there is no transaction that a child could inherit half done.
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
