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
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

_KEY_WIDTH = 16  # float32 numbers that identify a row
_MAX_ROWS = 1 << 17


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
    """

    model: str = field(compare=False)
    weights: str
    tokenizer: str
    template: str
    layer: tuple[int, ...]
    position: str | int

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


_sources: OrderedDict[bytes, tuple[ActivationSource, ...]] = OrderedDict()
_lock = threading.Lock()


def remember(rows: npt.NDArray[np.float32], source: ActivationSource) -> None:
    """Note down that ``rows``, of shape (n, d), were read at ``source``."""
    with _lock:
        for key in _keys(rows):
            known = _sources.pop(key, ())
            _sources[key] = (source, *(s for s in known if s != source))
        while len(_sources) > _MAX_ROWS:
            _sources.popitem(last=False)


def recall(rows: npt.NDArray[np.floating]) -> ActivationSource | None:
    """Find the source that all ``rows``, of shape (n, d), share; None if there is none."""
    shared: dict[ActivationSource, None] | None = None
    with _lock:
        for key in _keys(rows):
            known = _sources.get(key, ())
            candidates = known if shared is None else [s for s in shared if s in known]
            shared = dict.fromkeys(candidates)
            if not shared:
                return None
    return next(iter(shared), None) if shared else None


def _keys(rows: npt.NDArray[np.floating]) -> list[bytes]:
    with np.errstate(over="ignore"):
        heads = np.ascontiguousarray(rows[:, :_KEY_WIDTH], dtype=np.float32)
    return [head.tobytes() for head in heads]
