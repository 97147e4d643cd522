"""Batches of prompts of similar length, with a budget of tokens."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Collection, Sequence

import torch


def left_padded_mask(lengths: Sequence[int]) -> torch.Tensor:
    """Make the attention mask of prompts that are padded on the left, (n_prompts, n_tokens)."""
    width = max(lengths)
    return (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()


def token_budget(
    batch_tokens: int | str, device: torch.device, on_cpu: int, on_accelerator: int = 16_384
) -> int:
    """Resolve the parameter ``batch_tokens`` of an estimator.

    Parameters
    ----------
    batch_tokens : int or "auto"
        The parameter.
    device : torch.device
        Where the model takes its token ids.
    on_cpu : int
        What "auto" means on a CPU.
    on_accelerator : int, default=16384
        What "auto" means on any other device.

    Returns
    -------
    budget : int
        Tokens per batch.
    """
    if not isinstance(batch_tokens, str):
        return int(batch_tokens)
    return on_cpu if device.type == "cpu" else on_accelerator


def length_batches(
    lengths: Sequence[int],
    budget: int,
    *,
    padding: bool = True,
    boundaries: Collection[int] = (),
    reused: int = 0,
    room: int = sys.maxsize,
) -> list[list[int]]:
    """Split prompts into batches, the longest first.

    Parameters
    ----------
    lengths : sequence of int
        Number of tokens of each prompt.
    budget : int
        The most tokens per batch, padding included. A longer prompt gets its own batch.
    padding : bool, default=True
        Whether prompts of different length may share a batch.
    boundaries : collection of int, default=()
        Lengths at which batches are split: a prompt of at most so many tokens never shares a
        batch with a longer one.
    reused : int, default=0
        Further tokens of each prompt that don't run, but need memory.
    room : int, optional
        The most tokens per batch that fit into memory, padding and reused tokens included.

    Returns
    -------
    batches : list of list of int
        Indices into ``lengths``, each exactly once.
    """
    batches: list[list[int]] = []
    ordered = boundaries if isinstance(boundaries, range) else sorted(boundaries)
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        longest = lengths[batches[-1][0]] if batches else 0
        n_prompts = len(batches[-1]) + 1 if batches else 1
        full = n_prompts * longest > budget or n_prompts * (reused + longest) > room
        apart = bisect_left(ordered, lengths[i]) < bisect_left(ordered, longest)
        if not batches or full or apart or (longest != lengths[i] and not padding):
            batches.append([])
        batches[-1].append(i)
    return batches


def widest_pair(lengths: Sequence[int], boundaries: Collection[int] = ()) -> tuple[int, int]:
    """Find two prompts of the most different length that may share a batch.

    Parameters
    ----------
    lengths : sequence of int
        Number of tokens of each prompt.
    boundaries : collection of int, default=()
        Lengths at which batches are split, as in :func:`length_batches`.

    Returns
    -------
    pair : (int, int)
        Indices into ``lengths``: the longer prompt, then the shorter one.
    """
    # Without a budget, only boundaries separate batches.
    batches = length_batches(lengths, sys.maxsize, boundaries=boundaries)
    widest = max(batches, key=lambda batch: lengths[batch[0]] - lengths[batch[-1]])
    return widest[0], widest[-1]
