"""Finds the files of a public data set on disk, or downloads them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_ENVIRONMENT_VARIABLE = "SKGATE_DATA"


class Repository(NamedTuple):
    """A public repository that holds a data set.

    Attributes
    ----------
    name : str
        The name of the data set.
    url : str
        The page of the repository.
    contents : str
        What a copy of it holds, for error messages.
    """

    name: str
    url: str
    contents: str

    @property
    def folder(self) -> str:
        """The subfolder of ``data_home`` or ``SKGATE_DATA`` that holds the data set."""
        return self.name.lower()

    @property
    def offline_help(self) -> str:
        """How to get the data without a connection, for error messages."""
        return (
            f"To work offline, get a copy of {self.url} on a machine with a connection (git clone, "
            f"or the zip file of that page). Pass its folder as base_path, or name it "
            f"{self.folder!r} and set the environment variable {_ENVIRONMENT_VARIABLE} to the "
            "folder that holds it."
        )


def choose(name: str, value: str | Iterable[str] | None, known: Sequence[str]) -> list[str]:
    """Find the known values that a filter asks for.

    Parameters
    ----------
    name : str
        Name of the parameter, for error messages.
    value : str, iterable of str or None
        What is asked for. None means everything.
    known : sequence of str
        The values that the data set has.

    Returns
    -------
    chosen : list of str
        What is asked for, in the order of ``known``.

    Raises
    ------
    ValueError
        If nothing or something unknown is asked for.
    TypeError
        If ``value`` is of another type.
    """
    if value is None:
        return list(known)
    expected = f"None or one or more of {', '.join(map(repr, known))}"
    if not isinstance(value, Iterable):
        raise TypeError(f"Got {name}={value!r}, expected {expected}.")
    asked = [value] if isinstance(value, str) else list(value)
    unknown = [item for item in asked if item not in known]
    if unknown or not asked:
        detail = f" (unknown: {', '.join(map(repr, unknown))})" if unknown else ""
        raise ValueError(f"Got {name}={value!r}, expected {expected}{detail}.")
    return [item for item in known if item in asked]


def check_n_retries(n_retries: int) -> None:
    """Raise a ValueError if ``n_retries`` is not an integer of 0 or more.

    Parameters
    ----------
    n_retries : int
        How often to retry a failed download.
    """
    if not isinstance(n_retries, int | np.integer) or n_retries < 0:
        raise ValueError(f"Got n_retries={n_retries!r}, expected an integer of 0 or more.")


def find_local_root(
    repository: Repository, base_path: str | os.PathLike[str] | None
) -> Path | None:
    """Find the user's local copy of a repository.

    Parameters
    ----------
    repository : Repository
        The repository.
    base_path : path-like or None
        The folder of the copy. If None, it is the repository's subfolder of the folder that the
        environment variable ``SKGATE_DATA`` names.

    Returns
    -------
    root : Path or None
        The folder of the copy. None if neither names one.

    Raises
    ------
    FileNotFoundError
        If it is not a folder.
    """
    if base_path is not None:
        root, origin = Path(base_path).expanduser(), "base_path"
    elif folder := os.environ.get(_ENVIRONMENT_VARIABLE):
        root = Path(folder).expanduser() / repository.folder
        origin = f"the environment variable {_ENVIRONMENT_VARIABLE}"
    else:
        return None
    if not root.is_dir():
        raise FileNotFoundError(
            f"Got {str(root)!r} from {origin}, expected a folder: a copy of {repository.url} with "
            f"{repository.contents}."
        )
    return root


def download(
    repository: Repository,
    base_url: str,
    registry: Mapping[str, str],
    paths: Iterable[str],
    *,
    data_home: str | os.PathLike[str] | None,
    download_if_missing: bool,
    n_retries: int,
    verbose: bool,
) -> Path:
    """Download the files that are not in the cache.

    Parameters
    ----------
    repository : Repository
        The repository that holds the files.
    base_url : str
        The URL that paths are appended to.
    registry : mapping of str to str
        The SHA-256 checksum of each file, by its path.
    paths : iterable of str
        The files that are needed.
    data_home : path-like or None
        The folder for downloads, which are kept in the repository's subfolder. If None, the user's
        cache folder.
    download_if_missing : bool
        Whether to download missing files, or raise an error for them.
    n_retries : int
        How often to retry a failed download of a file.
    verbose : bool
        Whether to show a progress bar.

    Returns
    -------
    root : Path
        The folder with the files.

    Raises
    ------
    OSError
        If files are missing and ``download_if_missing=False``, if a download fails (a
        ``ConnectionError``), or if a downloaded file has another checksum.
    """
    import pooch

    home = pooch.os_cache("skgate") if data_home is None else Path(data_home).expanduser()
    source = pooch.create(
        path=home / repository.folder,
        base_url=base_url,
        retry_if_failed=n_retries,
        registry=dict(registry),
    )
    missing = [path for path in paths if not _is_cached(source, path)]
    if missing and not download_if_missing:
        count = "1 file" if len(missing) == 1 else f"{len(missing)} files"
        raise OSError(
            f"{count} of {repository.name} {'is' if len(missing) == 1 else 'are'} missing or "
            f"incomplete in {source.path}, and download_if_missing=False. "
            f"{repository.offline_help}"
        )
    if missing:
        _download_missing(source, missing, repository, verbose)
    return Path(source.path)


def _is_cached(source: Any, path: str) -> bool:
    import pooch

    local = Path(source.path) / path
    return local.is_file() and pooch.file_hash(str(local)) == source.registry[path]


def _download_missing(source: Any, paths: list[str], repository: Repository, verbose: bool) -> None:
    from tqdm.auto import tqdm

    with _quiet_pooch():
        for path in tqdm(paths, desc=repository.name, unit="file", disable=not verbose):
            try:
                source.fetch(path)
            except OSError as error:
                # Errors of the disk have a number, those of the network library do not.
                if error.errno is not None:
                    raise
                raise ConnectionError(
                    f"Could not download {source.get_url(path)} ({type(error).__name__}). "
                    f"{repository.offline_help}"
                ) from error
            except ValueError as error:
                raise OSError(
                    f"{source.get_url(path)} has another SHA-256 checksum than expected: the "
                    "download is corrupt, or the public file has changed. Try again, update "
                    "skgate, or pass the folder of a copy that you trust as base_path, which is "
                    "not compared with checksums."
                ) from error


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Silence pooch's line per file; there is a progress bar."""
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
