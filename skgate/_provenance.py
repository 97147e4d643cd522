"""Where activations came from, so that a gate can tell when it is used on others.

An activation array is a plain ndarray, or a DataFrame once ``set_output`` or a
``ColumnTransformer`` had it: neither can carry a note about the model, layer and position it was
read at. So the transformer notes down the first numbers of every row it hands out, and the gate
looks up the rows it is fitted on. Slicing, shuffling and concatenating rows change nothing;
anything that changes the numbers (a scaler, a projection) leaves the source unknown.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt

_KEY_WIDTH = 16  # float32 numbers that identify a row
_MAX_ROWS = 1 << 18


@dataclass(frozen=True)
class ActivationSource:
    """Where activations were read: everything that a gate fitted on them depends on.

    Two sources are equal if a gate fitted on the one can be used on the other.

    Attributes
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
    position : str or int
        The token position read.

    See Also
    --------
    ActivationTransformer.activation_source : Describes where its activations come from.

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
    position: str | int

    def describe_change(self, other: ActivationSource) -> str:
        """Tell in what ``other`` differs, for error messages."""
        return ", ".join(
            f"{name}={getattr(other, name)!r} instead of {getattr(self, name)!r}"
            for name in self.differences(other)
        )

    def differences(self, other: ActivationSource) -> list[str]:
        """Name the fields in which two sources differ.

        Parameters
        ----------
        other : ActivationSource
            The source to compare with.

        Returns
        -------
        names : list of str
            Names of the compared fields whose values differ; empty if the sources are equal.
        """
        return [
            f.name
            for f in fields(self)
            if f.compare and getattr(self, f.name) != getattr(other, f.name)
        ]


_Key = tuple[int, bytes]
_sources: OrderedDict[_Key, tuple[ActivationSource, ...]] = OrderedDict()
_lock = threading.Lock()


def remember(rows: npt.NDArray[np.float32], source: ActivationSource) -> None:
    """Note down that ``rows``, of shape (n, n_layers, d), were read at ``source``.

    Layer by layer, and as they stand side by side. What was noted first is forgotten first, but
    nothing of the last call.
    """
    notes = [(rows.reshape(len(rows), -1), source)]
    if len(source.layer) > 1:
        notes = [
            (rows[:, i], replace(source, layer=(layer,))) for i, layer in enumerate(source.layer)
        ] + notes
    with _lock:
        for part, where in notes:
            for key in _keys(part):
                known = _sources.pop(key, ())
                _sources[key] = (where, *(s for s in known if s != where))
        limit = max(_MAX_ROWS, len(notes) * len(rows))
        while len(_sources) > limit:
            _sources.popitem(last=False)


def recall(rows: npt.NDArray[np.floating]) -> ActivationSource | None:
    """Find the one source that all ``rows``, of shape (n, d), share; None if that isn't sure."""
    shared: list[ActivationSource] | None = None
    with _lock:
        for key in _keys(rows):
            known = _sources.get(key, ())
            shared = [s for s in known if shared is None or s in shared]
            if not shared:
                return None
    return shared[0] if shared and len(shared) == 1 else None


def _keys(rows: npt.NDArray[np.floating]) -> list[_Key]:
    with np.errstate(over="ignore"):
        heads = np.ascontiguousarray(rows[:, :_KEY_WIDTH], dtype=np.float32)
    return [(rows.shape[1], head.tobytes()) for head in heads]
