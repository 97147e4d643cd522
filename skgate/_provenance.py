"""Where activations were read, so that a gate can detect activations from another source.

An activation array is a plain ndarray, or a DataFrame after ``set_output`` or a
``ColumnTransformer``. Neither can carry a note of the model, layer and position. So the transformer
remembers a hash of every row it returns, and the gate looks up the rows it is given. Slicing,
shuffling, concatenating and pickling rows doesn't change their hashes. Anything that changes the
numbers (a scaler, a projection) leaves the source unknown.
"""

from __future__ import annotations

import hashlib
import operator
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import cycle
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from skgate._base import set_module

_FLOAT32 = np.dtype(np.float32)
_SAMPLED = 16  # at most so many numbers of a row identify it, spread over all of its places
_FEW = 16
_HASHED_AT_ONCE = 1 << 16
_MAX_RECENT = 1 << 12
_MAX_KEYS = 1 << 24  # 8 bytes each: 128 MiB
_MAX_SOURCES = 1 << 12


@set_module("skgate")
@dataclass(frozen=True)
class ActivationSource:
    """Where activations were read: everything that a gate fitted on them depends on.

    Parameters
    ----------
    model : str
        Name of the model, for messages; not compared.
    weights : str
        Fingerprint of the weights, their dtype and the active adapters.
    tokenizer : str
        Fingerprint of the tokenizer.
    template : str
        Fingerprint of the prompt format: chat template, its arguments and the system prompt.
    layer : tuple of int
        The layers read, 0-based.
    position : str, int or tuple of these
        The token position read, or several.
    settings : str, default=""
        Version of transformers and fingerprint of the model's configuration and module settings,
        such as "5.23.0/0f3a". "" means not known.
    date : str, default=""
        The date that the chat template was rendered with, as "2026-01-01"; "" if it does not read
        the clock.

    See Also
    --------
    ActivationTransformer.activation_source : Describes where its activations come from.

    Notes
    -----
    ``==`` compares every attribute except ``model``. Fingerprints of settings can only be
    compared within one version of transformers; :meth:`differences` takes this into account.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from skgate import ActivationSource
    >>> source = ActivationSource(model="an/instruct-model", weights="4f0a", tokenizer="c1d2",
    ...                           template="99be", layer=(15,), position="last")
    >>> elsewhere = replace(source, model="a/copy", layer=(16,))
    >>> source.differences(elsewhere)
    ['layer']
    >>> source.describe_change(elsewhere)
    'layer=(16,) instead of (15,)'
    """

    model: str = field(compare=False)
    weights: str
    tokenizer: str
    template: str
    layer: tuple[int, ...]
    position: str | int | tuple[str | int, ...]
    settings: str = ""
    date: str = ""

    @property
    def places(self) -> list[tuple[int, str | int]]:
        """The (layer, position) pairs read, in the order of their columns."""
        positions = self.position if isinstance(self.position, tuple) else (self.position,)
        return list_places(self.layer, positions)

    @property
    def steered_place(self) -> int:
        """Which of ``places`` steering acts at: in the deepest layer, "last" or else the first."""
        return find_steered_place(self.places)

    def describe_change(self, other: ActivationSource) -> str:
        """Describe how another source differs, for error messages.

        Parameters
        ----------
        other : ActivationSource
            The source to compare with.

        Returns
        -------
        description : str
            Such as "layer=(16,) instead of (15,)"; empty if the sources don't differ.
        """
        return ", ".join(
            f"{name}={getattr(other, name)!r} instead of {getattr(self, name)!r}"
            for name in self.differences(other)
        )

    def differences(self, other: ActivationSource) -> list[str]:
        """Name the attributes in which two sources differ.

        ``settings`` is only listed if it is known for both sources and was written by the same
        version of transformers.

        Parameters
        ----------
        other : ActivationSource
            The source to compare with.

        Returns
        -------
        names : list of str
            Names of the attributes. If it is empty, a gate fitted on one source can be used on
            the other.
        """
        names = [
            f.name
            for f in fields(self)
            if f.compare and getattr(self, f.name) != getattr(other, f.name)
        ]
        if "settings" in names and not _comparable(self.settings, other.settings):
            names.remove("settings")
        return names


def list_places(
    layers: Sequence[int], positions: Sequence[str | int]
) -> list[tuple[int, str | int]]:
    """List the (layer, position) pairs read, in the order of their columns."""
    return [(layer, position) for layer in layers for position in positions]


def find_steered_place(places: Sequence[tuple[int, str | int]]) -> int:
    """Find which place steering acts at: in the deepest layer, "last" or else the first."""
    deepest = max(layer for layer, _ in places)
    found = [i for i, (layer, _) in enumerate(places) if layer == deepest]
    last = [i for i in found if places[i][1] == "last"]
    return (last or found)[0]


def check_same_source(
    fitted_on: ActivationSource, found: ActivationSource, than: str = "the gate was fitted on"
) -> None:
    """Raise an error if activations come from another source than those used in ``fit``.

    Parameters
    ----------
    fitted_on : ActivationSource
        Source of the activations used in ``fit``.
    found : ActivationSource
        Source of the activations given now.
    than : str, default="the gate was fitted on"
        Where ``fitted_on`` comes from, for the message.

    Raises
    ------
    ValueError
        If the sources differ.
    """
    change = fitted_on.describe_change(found)
    if change:
        raise ValueError(
            f"Got activations of another source than {than}: {change}. Expected the "
            "same model, tokenizer, template, layer, position, module settings and date."
        )


class _Origin(NamedTuple):
    """A source, the width of its rows, and the hash of both."""

    salt: int
    width: int
    source: ActivationSource


class RowMemory:
    """Remembers which source each row of activations came from. Safe to use from threads.

    Per row and source it keeps a 64-bit key: a hash of up to 16 of the row's numbers, combined with
    a hash of its width and the source. The keys are held in two generations. When the younger one
    is full, the older one is forgotten and the younger one takes its place.

    Parameters
    ----------
    max_keys : int
        The most keys of both generations together, 8 bytes each. A call with up to half as many
        keys is always remembered completely.
    max_sources : int
        Approximate largest number of sources in both generations.
    """

    def __init__(self, max_keys: int = _MAX_KEYS, max_sources: int = _MAX_SOURCES) -> None:
        self._max_keys = max_keys // 2
        self._max_sources = max_sources // 2
        self._lock = threading.Lock()
        self._young, self._old = _Generation(), _Generation()

    def remember(self, rows: npt.NDArray[np.float32], source: ActivationSource) -> None:
        """Remember that ``rows`` were read at ``source``: side by side, by layer and by place.

        Parameters
        ----------
        rows : ndarray of shape (n, n_places, d)
            Activations at each of the source's places.
        source : ActivationSource
            Where they were read.
        """
        groups = _split(source, rows.shape[2])
        origins = [origin for group in groups for origin in group]
        step = max(1, min(_HASHED_AT_ONCE, self._max_keys) // len(origins))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            keys: list[int] = []
            for group in groups:
                salts = cycle([origin.salt for origin in group])
                hashes = _hash_rows(part.reshape(-1, group[0].width))
                keys += map(operator.xor, hashes, salts)
            with self._lock:
                self._add(keys, origins)

    def recall(self, rows: npt.NDArray[np.floating]) -> ActivationSource | None:
        """Find the one source that all rows share.

        Parameters
        ----------
        rows : ndarray of shape (n, d)
            Activations.

        Returns
        -------
        source : ActivationSource or None
            The source; None if the rows share none, or more than one.
        """
        if not len(rows):
            return None
        first, *others = _hash_rows(rows)
        with self._lock:
            known = self._old.origins | self._young.origins
            possible = [origin for origin in known.values() if origin.width == rows.shape[1]]
            # The first row alone rules out most of them
            unknown = set(self._find_unknown([first ^ origin.salt for origin in possible]))
            possible = [origin for origin in possible if first ^ origin.salt not in unknown]
            for origin in possible if others else ():
                if self._find_unknown([h ^ origin.salt for h in others]):
                    possible = [other for other in possible if other is not origin]
        return possible[0].source if len(possible) == 1 else None

    def forget(self) -> None:
        """Forget all rows."""
        with self._lock:
            self._young, self._old = _Generation(), _Generation()

    def _add(self, keys: list[int], origins: list[_Origin]) -> None:
        if self._young.n_keys + len(keys) > self._max_keys:
            self._young.merge()
            if self._young.n_keys > self._max_keys // 2:
                self._renew()
        self._young.add(keys)
        self._young.origins.update((origin.salt, origin) for origin in origins)
        if len(self._young.origins) > self._max_sources:
            self._renew()

    def _renew(self) -> None:
        self._young, self._old = _Generation(), self._young

    def _find_unknown(self, keys: list[int]) -> list[int]:
        return self._old.find_unknown(self._young.find_unknown(keys))


class _Generation:
    """A set of keys, and the origins they belong to.

    Single keys are gathered in a set of int. Many keys go to sorted arrays, each at least twice as
    long as the next; a key may be in several of them until they are merged.
    """

    def __init__(self) -> None:
        self.origins: dict[int, _Origin] = {}  # by salt
        self._recent: set[int] = set()
        self._arrays: list[npt.NDArray[np.int64]] = []
        self._n_in_arrays = 0

    @property
    def n_keys(self) -> int:
        return len(self._recent) + self._n_in_arrays

    def find_unknown(self, keys: list[int]) -> list[int]:
        """List the keys that are not in the set."""
        keys = [key for key in keys if key not in self._recent]
        if not keys or not self._arrays:
            return keys
        unknown = np.sort(np.array(keys, np.int64))  # sorted keys are found faster
        for array in self._arrays:
            places = array.searchsorted(unknown)
            unknown = unknown[array.take(places, mode="clip") != unknown]
        return unknown.tolist()

    def add(self, keys: list[int]) -> None:
        """Add keys to the set."""
        self._recent.update(keys)
        if len(self._recent) > _MAX_RECENT:
            added = self._take_recent()
            while self._arrays and len(self._arrays[-1]) < 2 * len(added):
                added = _unite([self._arrays.pop(), added])
            self._set_arrays([*self._arrays, added])

    def merge(self) -> None:
        """Put all keys into one array."""
        self._set_arrays([_unite([self._take_recent(), *self._arrays])])

    def _take_recent(self) -> npt.NDArray[np.int64]:
        keys = np.fromiter(self._recent, np.int64, len(self._recent))
        keys.sort()
        self._recent.clear()
        return keys

    def _set_arrays(self, arrays: list[npt.NDArray[np.int64]]) -> None:
        self._arrays = arrays
        self._n_in_arrays = sum(map(len, arrays))


_memory = RowMemory()
remember = _memory.remember
recall = _memory.recall
forget = _memory.forget


def _comparable(one: str, two: str) -> bool:
    """Whether both settings are known and written by the same version of transformers."""
    return bool(one and two) and one.partition("/")[0] == two.partition("/")[0]


@lru_cache(1024)
def _split(source: ActivationSource, d: int) -> list[list[_Origin]]:
    """List the origins of a source's rows: all places side by side, each layer, each place."""
    groups = [[source]]
    if len(source.layer) > 1:
        groups.append([replace(source, layer=(layer,)) for layer in source.layer])
    if isinstance(source.position, tuple):
        groups.append(
            [replace(source, layer=(layer,), position=where) for layer, where in source.places]
        )
    return [[_origin(part, d * len(part.places)) for part in group] for group in groups]


def _origin(source: ActivationSource, width: int) -> _Origin:
    return _Origin(_salt(width, source), width, source)


def _salt(width: int, source: ActivationSource) -> int:
    """Hash the width of a row and the compared attributes of its source into 64 bits."""
    compared = [getattr(source, f.name) for f in fields(source) if f.compare]
    text = repr((width, compared)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def _hash_rows(rows: npt.NDArray[np.floating]) -> list[int]:
    """Hash some numbers of each row into 64 bits, by Python's own hash of bytes.

    They are evenly spread, so that rows which share some of their places differ. The hash is keyed
    and about as fast as arithmetic with arrays, also for a single row.
    """
    samples = rows[:, :: -(-rows.shape[1] // _SAMPLED) or 1]
    if samples.dtype != _FLOAT32:
        with np.errstate(over="ignore"):
            samples = samples.astype(np.float32)
    if len(samples) <= _FEW:
        return [hash(sample.tobytes()) for sample in samples]
    as_bytes = np.ascontiguousarray(samples).view((np.void, samples.shape[1] * samples.itemsize))
    return list(map(hash, as_bytes.ravel().tolist()))


def _unite(arrays: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Merge arrays into a sorted one without duplicates, ten times as fast as numpy.unique."""
    keys = np.concatenate(arrays)
    keys.sort()
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
