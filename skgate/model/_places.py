"""Where a checkpoint is: in a folder, or on a hub that may be unreachable."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "subfolder", "token")
_SECONDS_TO_REACH = 5.0


@dataclass(frozen=True)
class Place:
    """Where a model or a tokenizer is loaded from.

    Attributes
    ----------
    path : str
        The real path of a folder, or an id.
    is_folder : bool
        Whether it is a folder.
    what : str
        What is loaded from there, for messages: "model" or "tokenizer".
    """

    path: str
    is_folder: bool
    what: str = "model"

    def modified(self, subfolder: str | None = None) -> tuple[tuple[str, int], ...]:
        """List when each file of a folder, or of its subfolder, was last written; () for an id."""
        path = os.path.join(self.path, subfolder or "")
        if not self.is_folder or not os.path.isdir(path):
            return ()
        with os.scandir(path) as files:
            return tuple(sorted((f.name, f.stat().st_mtime_ns) for f in files if f.is_file()))


def locate(place: str | os.PathLike[str], what: str = "model") -> Place:
    """Tell a folder from an id. No hub is asked.

    A relative path without a dot in front, such as "models/llama", looks like an id. It is a
    folder if there is one.

    Parameters
    ----------
    place : str or path
        A folder, or the id of a model on a hub.
    what : str, default="model"
        What is loaded from there, for messages.

    Returns
    -------
    place : Place
        The folder or id.

    Raises
    ------
    FileNotFoundError
        If it can only be a folder and there is none.
    """
    path = os.path.expanduser(os.fspath(place))
    if os.path.isdir(path):
        return Place(os.path.realpath(path), True, what)
    if not _looks_like_path(place):
        return Place(path, False, what)
    got = f"Got {what}={os.fspath(place)!r}"
    if os.path.isfile(path):
        hint = (
            f". For a GGUF file, pass {what}={os.path.dirname(path) or '.'!r} and model_kwargs="
            f'{{"gguf_file": {os.path.basename(path)!r}}}'
            if path.endswith(".gguf")
            else ""
        )
        raise FileNotFoundError(
            f"{got}, which is a file, expected a folder with a checkpoint{hint}."
        )
    raise FileNotFoundError(
        f"{got}, a folder that doesn't exist, expected a folder with a checkpoint. If it has "
        "moved, skgate.relocate(estimator, new_folder) gives a copy of a fitted estimator that "
        "uses the new one."
    )


def hub_options(place: Place, options: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the options that say how to read files, and stay in the cache if the hub is away.

    Parameters
    ----------
    place : Place
        What is about to be loaded.
    options : mapping
        Arguments of ``from_pretrained``.

    Returns
    -------
    hub : dict
        Those of ``options`` that concern files. For an id, ``local_files_only`` is True if the hub
        can't be reached within a few seconds.
    """
    hub = {name: options[name] for name in _HUB_OPTIONS if name in options}
    if not place.is_folder and not hub.get("local_files_only"):
        hub["local_files_only"] = not _is_reachable(place.path)
    return hub


def find_file(place: Place, name: str, revision: str | None, hub: Mapping[str, Any]) -> str | None:
    """Find a file of a checkpoint, and download it if need be.

    Parameters
    ----------
    place : Place
        The checkpoint.
    name : str
        The file's name.
    revision : str or None
        The revision of a model on a hub.
    hub : mapping
        What :func:`hub_options` returns.

    Returns
    -------
    path : str or None
        The file; None if the checkpoint has none of this name, or if it is not known.

    Raises
    ------
    OSError
        If the hub refuses, in one line that names the id.
    """
    if place.is_folder:
        path = os.path.join(place.path, hub.get("subfolder") or "", name)
        return path if os.path.isfile(path) else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        return hf_hub_download(place.path, name, revision=revision, **hub)
    except EntryNotFoundError:  # also if it is not in the cache
        return None
    except (HfHubHTTPError, HFValidationError) as error:
        raise OSError(
            f"Got {place.what}={place.path!r}, which is neither a folder nor a checkpoint that can "
            f"be downloaded: {one_line(error)}"
        ) from error


def use_cached_folder(
    place: Place, names: Sequence[str], revision: str | None, hub: Mapping[str, Any]
) -> Place:
    """Replace an id by the folder of the local cache that holds it, if the hub is away.

    transformers looks for some files on the hub, again and again, even if it is told not to.

    Parameters
    ----------
    place : Place
        The checkpoint.
    names : sequence of str
        Files of which it has at least one.
    revision : str or None
        The revision of a model on a hub.
    hub : mapping
        What :func:`hub_options` returns.

    Returns
    -------
    place : Place
        The same place if it is a folder, if the hub can be reached, or if nothing is in the cache.
    """
    if place.is_folder or not hub.get("local_files_only"):
        return place
    for name in names:
        file = find_file(place, name, revision, hub)
        if file is not None:
            inside = os.path.join(hub.get("subfolder") or "", name)
            return Place(file.removesuffix(inside).rstrip("/\\"), True, place.what)
    return place


def describe_missing(place: Place, names: str, hub: Mapping[str, Any]) -> str:
    """Say in one line that a checkpoint is not there, and why.

    Parameters
    ----------
    place : Place
        The checkpoint.
    names : str
        The files that were looked for, such as "config.json or adapter_config.json".
    hub : mapping
        What :func:`hub_options` returned.

    Returns
    -------
    message : str
        The message.
    """
    got = f"Got {place.what}={place.path!r}"
    if place.is_folder:
        inside = f" in its subfolder {hub['subfolder']!r}" if hub.get("subfolder") else ""
        return f"{got}, a folder without {names}{inside}, expected a folder with a checkpoint."
    if not hub.get("local_files_only"):
        return f"{got}, which has no {names}, expected a checkpoint of transformers."
    from huggingface_hub import constants

    why = (
        "offline mode is on (HF_HUB_OFFLINE)"
        if constants.HF_HUB_OFFLINE
        else f"{constants.ENDPOINT} can't be reached or local_files_only=True was given"
    )
    return (
        f"{got}, which is neither a folder nor in the local cache (no {names}), and {why}. "
        "Expected a folder, or an id that is in the cache or can be downloaded."
    )


def one_line(error: Exception) -> str:
    """Write the message of an error in one line."""
    return re.sub(r"\s+", " ", str(error)).strip()


def _looks_like_path(place: str | os.PathLike[str]) -> bool:
    """Whether something can't be an id, "name" or "organization/name"."""
    if isinstance(place, os.PathLike):
        return True
    return (
        os.path.isabs(place)
        or place.startswith((".", "~"))
        or "\\" in place
        or place.count("/") > 1
        or place.endswith((".gguf", "/"))
    )


def _is_reachable(model_id: str) -> bool:
    """Whether the hub answers at all, with whatever, within a few seconds.

    Its own requests are repeated for most of a minute. The thread is left behind if looking up the
    host's name hangs, which no timeout of a request covers.
    """
    from huggingface_hub import constants, get_session, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[object] = []

    def ask() -> None:
        try:
            url = hf_hub_url(model_id, "config.json")
            answers.append(get_session().head(url, timeout=_SECONDS_TO_REACH))
        except Exception as error:  # each HTTP library has its own
            if isinstance(error, ValueError) and not isinstance(error, OSError):
                answers.append(error)  # no valid id: the hub's own check says so

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_REACH + 1)
    return bool(answers)
