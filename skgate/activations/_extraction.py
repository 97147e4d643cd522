"""Extract activations: look them up in the cache, or else compute them in batches."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from skgate.activations._forward import PLAIN, Shortcuts, find_shortcuts, read_batch
from skgate.model._batching import length_batches, token_budget
from skgate.model._residual_stream import is_edited
from skgate.model._rope import length_boundaries
from skgate.model._vocabulary import check_token_ids

if TYPE_CHECKING:
    from skgate.activations.store._row_caches import RowCache
    from skgate.model._loading import LanguageModel
    from skgate.model._prompts import Request

_BATCH_TOKENS_ON_CPU = 512
_LOOKED_UP_AT_ONCE = 1024
_SECONDS_BETWEEN_LOOKUPS = 0.02


@dataclass(frozen=True)
class Extraction:
    """How activations are extracted from one model.

    Attributes
    ----------
    language_model : LanguageModel
        The model.
    layers : sequence of int
        0-based blocks to return.
    cached_layers : sequence of int
        0-based blocks to read and cache, ``layers`` among them.
    row_cache : RowCache
        Where activations are looked up and added.
    batch_tokens : int or "auto"
        Tokens per batch.
    verbose : bool
        Whether to report progress.
    """

    language_model: LanguageModel
    layers: Sequence[int]
    cached_layers: Sequence[int]
    row_cache: RowCache
    batch_tokens: int | str
    verbose: bool

    def run(self, requests: Sequence[Request]) -> npt.NDArray[np.float32]:
        """Read the activations of prompts, each distinct one once.

        Parameters
        ----------
        requests : sequence of Request
            The prompts.

        Returns
        -------
        rows : ndarray of shape (n_requests, n_layers, n_positions, d), float32
            In the order of ``requests``.

        Raises
        ------
        PromptError
            If the model has no embedding for a prompt's token.
        """
        check_token_ids(requests, self.language_model.embeddings)
        distinct = {request.keys: request for request in requests}
        numbers = {keys: i for i, keys in enumerate(distinct)}
        rows = self._read(list(distinct.values()))
        return rows[[numbers[request.keys] for request in requests]]

    def lacks(self, requests: Sequence[Request]) -> bool:
        """Whether an activation is not in the cache."""
        found = self.row_cache.lookup(_keys(requests), self.layers)
        return any(row is None for row in found)

    def _read(self, requests: list[Request]) -> npt.NDArray[np.float32]:
        n_positions = len(requests[0].indices)
        shape = len(requests), len(self.layers), n_positions, self.language_model.hidden_size
        rows = np.empty(shape, np.float32)
        missing = self._look_up(requests, range(len(requests)), rows)
        if not missing:
            return rows
        self._announce(len(requests) * n_positions)
        shortcuts = self._find_shortcuts([requests[i] for i in missing])
        with tqdm(
            total=len(missing), desc="activations", unit="prompt", disable=not self.verbose
        ) as progress:
            while missing:
                locked = []  # prompts that other threads or processes are computing
                for batch in self._split([requests[i] for i in missing], shortcuts):
                    chosen = [missing[j] for j in batch]
                    refused = self._compute(requests, chosen, shortcuts, rows)
                    locked += refused
                    progress.update(len(chosen) - len(refused))
                missing = self._look_up(requests, locked, rows)
                progress.update(len(locked) - len(missing))
                if missing and len(missing) == len(locked):
                    time.sleep(_SECONDS_BETWEEN_LOOKUPS)
        return rows

    def _look_up(
        self, requests: list[Request], chosen: Sequence[int], rows: npt.NDArray[np.float32]
    ) -> list[int]:
        """Fill in the rows that are cached at each position; return the others of ``chosen``."""
        missing, n_positions = [], rows.shape[2]
        for start in range(0, len(chosen), _LOOKED_UP_AT_ONCE):
            part = chosen[start : start + _LOOKED_UP_AT_ONCE]
            found = self.row_cache.lookup(_keys([requests[i] for i in part]), self.layers)
            for i, *cached in zip(part, *[iter(found)] * n_positions, strict=True):
                for j, row in enumerate(cached):
                    if row is None:
                        missing.append(i)
                        break
                    rows[i, :, j] = row
        return missing

    def _compute(
        self,
        requests: list[Request],
        chosen: list[int],
        shortcuts: Shortcuts,
        rows: npt.NDArray[np.float32],
    ) -> list[int]:
        """Fill in the rows of a batch; return the prompts that others are computing."""
        # One key each will do: who reads the same positions has the same keys.
        with self.row_cache.claim([min(requests[i].keys) for i in chosen]) as claimed:
            free = [i for i, is_free in zip(chosen, claimed, strict=True) if is_free]
            # Others may have finished some of them since the last lookup.
            due = self._look_up(requests, free, rows)
            if due:
                computed = read_batch(
                    self.language_model,
                    [requests[i] for i in due],
                    self.cached_layers,
                    shortcuts,
                )
                rows[due] = np.stack([computed[layer] for layer in self.layers], axis=1)
                self.row_cache.insert(
                    _keys([requests[i] for i in due]),
                    {layer: row.reshape(-1, row.shape[-1]) for layer, row in computed.items()},
                )
        return [i for i, is_free in zip(chosen, claimed, strict=True) if not is_free]

    def _find_shortcuts(self, requests: list[Request]) -> Shortcuts:
        if is_edited(self.language_model.backbone):
            return PLAIN
        return find_shortcuts(self.language_model, requests, self.cached_layers, self._report)

    def _split(self, requests: list[Request], shortcuts: Shortcuts) -> list[list[int]]:
        """Split requests into batches of indices."""
        device = self.language_model.input_device
        reused, room = 0, sys.maxsize
        if shortcuts.prefix is not None:
            reused, room = shortcuts.prefix.length, shortcuts.prefix.room
        return length_batches(
            [len(request.ids) - reused for request in requests],
            token_budget(self.batch_tokens, device, _BATCH_TOKENS_ON_CPU),
            boundaries=length_boundaries(self.language_model.backbone.config),
            reused=reused,
            room=room,
        )

    def _announce(self, n_rows: int) -> None:
        message = self.row_cache.announce(
            n_rows, len(self.cached_layers), self.language_model.hidden_size
        )
        if message:
            self._report(message)

    def _report(self, message: str) -> None:
        if self.verbose:
            tqdm.write(f"activations: {message}", file=sys.stderr)


def _keys(requests: Sequence[Request]) -> list[bytes]:
    """List the cache keys of requests: for each request, those of its positions."""
    return [key for request in requests for key in request.keys]
