"""Activations kept in memory, shared by every transformer of the process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]


class ActivationCache:
    """A bounded map from (model, prompt, layer) to an activation; the least recently used go first.

    Parameters
    ----------
    max_bytes : int
        Bytes of activations to keep.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._rows: OrderedDict[Hashable, Row] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, namespace: Hashable, prompt: Hashable, layers: Sequence[int]) -> Row | None:
        """Return the prompt's activations, of shape (n_layers, d), if every layer is here."""
        with self._lock:
            rows = [self._rows.get((namespace, prompt, layer)) for layer in layers]
            if any(row is None for row in rows):
                return None
            for layer in layers:
                self._rows.move_to_end((namespace, prompt, layer))
        return np.stack([row for row in rows if row is not None])

    def put(self, namespace: Hashable, prompt: Hashable, rows: Mapping[int, Row]) -> None:
        """Keep one prompt's activation, of shape (d,), for each layer in ``rows``."""
        with self._lock:
            for layer, row in rows.items():
                key = (namespace, prompt, layer)
                known = self._rows.pop(key, None)
                if known is not None:
                    self.n_bytes -= known.nbytes
                self._rows[key] = row.copy()
                self.n_bytes += row.nbytes
            while self.n_bytes > self.max_bytes:
                _, dropped = self._rows.popitem(last=False)
                self.n_bytes -= dropped.nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._rows.clear()
            self.n_bytes = 0


memory_cache = ActivationCache(max_bytes=2 << 30)
