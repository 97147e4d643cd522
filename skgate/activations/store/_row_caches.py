"""Where activations are kept between calls: nowhere, in memory, or in a store."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import numpy.typing as npt

from skgate.activations.store._memory import Row, memory_cache
from skgate.activations.store._store import ActivationStore


class Keeper(Protocol):
    """Keeps the activations of one model, by a 16-byte name for each prompt."""

    def expect(self, n_rows: int, d: int) -> str:
        """Take note of how many activations, of ``d`` numbers each, are about to come.

        What that means for the memory, in words; "" if nothing.
        """

    def lookup(self, prompts: Sequence[bytes], layers: Sequence[int]) -> list[Row | None]:
        """Return arrays of shape (n_layers, d), None where one is missing."""

    def insert(self, prompts: Sequence[bytes], rows: Mapping[int, npt.NDArray[np.float32]]) -> None:
        """Keep arrays of shape (n_prompts, d), one per layer."""

    def claim(self, prompts: Sequence[bytes]) -> AbstractContextManager[list[bool]]:
        """Tell, for the time of a context, which prompts nobody else is computing."""


class KeepNothing:
    """Forgets everything."""

    def expect(self, n_rows: int, d: int) -> str:
        return ""

    def lookup(self, prompts: Sequence[bytes], layers: Sequence[int]) -> list[Row | None]:
        return [None] * len(prompts)

    def insert(
        self, prompts: Sequence[bytes], rows: Mapping[int, npt.NDArray[np.float32]]
    ) -> None: ...

    def claim(self, prompts: Sequence[bytes]) -> AbstractContextManager[list[bool]]:
        return nullcontext([True] * len(prompts))


class KeepInMemory(KeepNothing):
    """Keeps activations in the cache of the process."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def expect(self, n_rows: int, d: int) -> str:
        needed = 4 * n_rows * d
        message = (
            f"{n_rows:,} activations of {d:,} numbers need {_gibibytes(needed)}; the memory cache "
            f"holds {_gibibytes(memory_cache.max_bytes)}"
        )
        if needed > memory_cache.max_bytes:
            warnings.warn(
                f"{message} and will drop the least recently used, which are computed again when "
                "asked for. Use store='folder' to keep them on disk, or store=False to keep none.",
                stacklevel=5,
            )
        return message

    def lookup(self, prompts: Sequence[bytes], layers: Sequence[int]) -> list[Row | None]:
        return [memory_cache.get(self.namespace, prompt, layers) for prompt in prompts]

    def insert(self, prompts: Sequence[bytes], rows: Mapping[int, npt.NDArray[np.float32]]) -> None:
        for i, prompt in enumerate(prompts):
            memory_cache.put(
                self.namespace, prompt, {layer: matrix[i] for layer, matrix in rows.items()}
            )


class KeepInStore(KeepNothing):
    """Keeps activations in a folder."""

    def __init__(
        self, store: ActivationStore, namespace: str, description: Mapping[str, str]
    ) -> None:
        self.store = store
        self.namespace = namespace
        self.description = description

    def lookup(self, prompts: Sequence[bytes], layers: Sequence[int]) -> list[Row | None]:
        return self.store.lookup(self.namespace, prompts, layers)

    def insert(self, prompts: Sequence[bytes], rows: Mapping[int, npt.NDArray[np.float32]]) -> None:
        self.store.insert(self.namespace, prompts, rows, self.description)

    def claim(self, prompts: Sequence[bytes]) -> AbstractContextManager[list[bool]]:
        return self.store.claim(self.namespace, prompts)


def _gibibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"
