"""Notice edits of a model between calls, without reading all of its weights at each call.

A full read fingerprints everything. Later calls make cheap checks:

- whether modules and parameters are the same objects;
- whether settings have the same values;
- whether torch counted a change;
- whether 4,096 values of each tensor are the same;
- whether a rotating part of all rows still has its checksums.

So an edit that the first four don't notice is found within ``N_LOOKS`` calls.
"""

from __future__ import annotations

import itertools
import operator
import threading
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from skgate.model._blocks import list_modules
from skgate.model._fingerprint import (
    RowSums,
    Structure,
    adapter_state,
    fingerprint_structure,
    inner_tensors,
    is_setting,
    read_weights,
)
from skgate.model._rope import is_rewritten

N_LOOKS = 256
_N_SAMPLED = 4096
_N_BLOCKS = 32  # of neighbours: a cache line is read whole
_PLAIN = (bool, int, float, str, tuple, list)

_epochs = itertools.count(1)
_epoch = 0
_watched: weakref.WeakKeyDictionary[nn.Module, _Snapshot] = weakref.WeakKeyDictionary()
_reading = threading.Lock()


class Fingerprints(NamedTuple):
    """What a model's activations follow from.

    Attributes
    ----------
    weights : str
        As :func:`skgate.model._fingerprint.fingerprint_weights` returns it.
    structure : Structure
        Everything besides.
    """

    weights: str
    structure: Structure


def fingerprint(backbone: nn.Module, *, full: bool = False) -> Fingerprints:
    """Fingerprint a model: from memory, if a cheap look notices no edit.

    Parameters
    ----------
    backbone : torch.nn.Module
        The backbone of a language model.
    full : bool, default=False
        Whether to read all weights in any case.

    Returns
    -------
    fingerprints : Fingerprints
        Those of the model as it is, or, for up to ``N_LOOKS`` calls after an edit that only a full
        read notices, as it was.
    """
    known = _watched.get(backbone)
    if not full and known is not None and known.holds(backbone):
        return known.fingerprints
    with _reading:
        weights, sums = read_weights(backbone)
        found = Fingerprints(weights, fingerprint_structure(backbone))
        snapshot = _Snapshot.take(backbone, found, sums)
        if snapshot is None:
            _watched.pop(backbone, None)
        else:
            _watched[backbone] = snapshot
    return found


def require_full_read() -> None:
    """Make the next call read all weights of its model, whichever it is."""
    global _epoch
    _epoch = next(_epochs)


class _Snapshot:
    """What a cheap look compares a model with."""

    def __init__(
        self, backbone: nn.Module, fingerprints: Fingerprints, sums: list[RowSums]
    ) -> None:
        self.fingerprints = fingerprints
        self._epoch = _epoch
        modules = list_modules(backbone)
        self._modules = list(map(_ModuleState, modules))
        configs = {id(config): config for config in _configs(modules)}
        self._configs = [(config, _copy_values(config)) for config in configs.values()]
        self._tensors = list(_tensors(modules))
        leaves = _find_leaves(self._tensors)
        self._are_leaves = not any(inner_tensors(tensor) for tensor in self._tensors)
        self._marks = list(map(_mark, leaves))
        self._samples = _Samples(leaves)
        self._sums = [part for part in sums if len(part.sums)]
        self._ends = list(itertools.accumulate(len(part.sums) for part in self._sums))
        self._n_looks = itertools.count()

    @classmethod
    def take(
        cls, backbone: nn.Module, fingerprints: Fingerprints, sums: list[RowSums]
    ) -> _Snapshot | None:
        """Remember a model; None if a cheap look can't see its tensors."""
        leaves = _find_leaves(_tensors(list_modules(backbone)))
        if all(not leaf.is_meta and leaf.is_contiguous() for leaf in leaves):
            return cls(backbone, fingerprints, sums)
        return None

    def holds(self, backbone: nn.Module) -> bool:
        """Whether the cheap look notices no edit."""
        modules = list_modules(backbone)
        return (
            self._epoch == _epoch
            and self._same_modules(modules)
            and self._same_tensors(modules)
            and self._samples.agree()
            and self._part_agrees(next(self._n_looks) % N_LOOKS)
        )

    def _same_modules(self, modules: list[nn.Module]) -> bool:
        return (
            len(modules) == len(self._modules)
            and all(map(_ModuleState.holds, self._modules, modules))
            and all(_copy_values(config) == values for config, values in self._configs)
        )

    def _same_tensors(self, modules: list[nn.Module]) -> bool:
        tensors = list(_tensors(modules))
        if len(tensors) != len(self._tensors) or not all(map(operator.is_, tensors, self._tensors)):
            return False
        leaves = tensors if self._are_leaves else _find_leaves(tensors)
        return list(map(_mark, leaves)) == self._marks

    def _part_agrees(self, part: int) -> bool:
        """Whether one part of all rows has its checksums."""
        n_rows = self._ends[-1] if self._ends else 0
        first, last = part * n_rows // N_LOOKS, (part + 1) * n_rows // N_LOOKS
        while first < last:
            i = bisect_right(self._ends, first)
            start = self._ends[i] - len(self._sums[i].sums)
            stop = min(last, self._ends[i])
            if not self._sums[i].agree(first - start, stop - start):
                return False
            first = stop
        return True


class _ModuleState:
    """A module's class and settings. It holds no reference to the module."""

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self._class = type(module)
        self._n_attributes = len(module.__dict__)
        settings = {
            name: list(value) if isinstance(value, list) else value
            for name, value in module.__dict__.items()
            if is_setting(name) and isinstance(value, _PLAIN)
        }
        others = {
            name: id(value)
            for name, value in module.__dict__.items()
            if name == "config" or (is_setting(name) and callable(value))
        }
        self._names, self._values = list(settings), list(settings.values())
        self._other_names, self._other_ids = list(others), list(others.values())
        self._adapters = repr(adapter_state(module))

    def holds(self, module: nn.Module) -> bool:
        attributes = module.__dict__
        return (
            self._module() is module
            and type(module) is self._class
            and len(attributes) == self._n_attributes
            and list(map(attributes.get, self._names)) == self._values
            and list(map(id, map(attributes.get, self._other_names))) == self._other_ids
            and (self._adapters == "[]" or repr(adapter_state(module)) == self._adapters)
        )


class _Samples:
    """Blocks of values spread over each tensor, as views and as copies of what they held."""

    def __init__(self, leaves: list[torch.Tensor]) -> None:
        groups: dict[tuple[Any, ...], list[torch.Tensor]] = {}
        for leaf in leaves:
            sample = _sample(leaf)
            groups.setdefault((sample.device, sample.ndim, sample.shape[1:]), []).append(sample)
        self._groups = [(views, _read(views)) for views in groups.values()]

    def agree(self) -> bool:
        return all(torch.equal(_read(views), held) for views, held in self._groups)


def _read(views: list[torch.Tensor]) -> torch.Tensor:
    """Copy bytes, as 8-byte words if they fill them, which are compared faster."""
    octets = torch.cat(views).reshape(-1)
    return octets if octets.numel() % 8 else octets.view(torch.int64)


def _sample(leaf: torch.Tensor) -> torch.Tensor:
    octets = leaf.detach().reshape(-1).view(torch.uint8)  # a view, wherever its values begin
    size = _N_SAMPLED * leaf.element_size()
    if octets.numel() <= size:
        return octets
    block = size // _N_BLOCKS
    step = (octets.numel() - block) // (_N_BLOCKS - 1)
    return octets.as_strided((_N_BLOCKS, block), (step, 1), octets.storage_offset())


def _tensors(modules: Iterable[nn.Module]) -> Iterator[torch.Tensor]:
    """Parameters and buffers, except those that forward passes rewrite."""
    for child in modules:
        for parameter in child._parameters.values():  # noqa: SLF001  (torch: no public way)
            if parameter is not None:
                yield parameter
        for name, buffer in child._buffers.items():  # noqa: SLF001
            if buffer is not None and not is_rewritten(child, name):
                yield buffer


def _find_leaves(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Replace quantized, sharded and other special tensors by those inside them."""
    leaves: list[torch.Tensor] = []
    for tensor in tensors:
        inner = inner_tensors(tensor)
        leaves += [tensor] if inner is None else _find_leaves(inner)
    return leaves


def _mark(leaf: torch.Tensor) -> tuple[int | None, int]:
    """Where a tensor's values are, and how many changes of them torch has counted."""
    version = None if leaf.is_inference() else leaf._version  # noqa: SLF001  (torch: no public way)
    return version, leaf.data_ptr()


def _copy_values(value: Any) -> Any:
    """Copy a configuration as plain dicts and lists; whatever else is in it goes by its identity.

    Configurations whose layers differ can't be compared or copied as they are.
    """
    if hasattr(value, "to_dict"):
        value = vars(value)
    if isinstance(value, dict):
        return {name: _copy_values(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_copy_values(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else id(value)


def _configs(modules: Iterable[nn.Module]) -> Iterator[Any]:
    for child in modules:
        config = child.__dict__.get("config")
        if config is not None and hasattr(config, "__dict__"):
            yield config
