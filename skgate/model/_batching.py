"""Batches of prompts of similar length, by a budget of tokens."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence


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
        Tokens of each prompt.
    budget : int
        Tokens per batch, padding included; a longer prompt is a batch of its own.
    padding : bool, default=True
        Whether prompts of different length may be in one batch.
    boundaries : collection of int, default=()
        Prompts of up to so many tokens are never in a batch with longer ones.
    reused : int, default=0
        Tokens that every prompt brings besides: not run, but held in memory.
    room : int, optional
        Tokens per batch that fit into memory, padding and reused ones included.

    Returns
    -------
    batches : list of list of int
        Indices into ``lengths``.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        longest = lengths[batches[-1][0]] if batches else 0
        n_prompts = len(batches[-1]) + 1 if batches else 1
        full = n_prompts * longest > budget or n_prompts * (reused + longest) > room
        apart = any(lengths[i] <= boundary < longest for boundary in boundaries)
        if not batches or full or apart or (longest != lengths[i] and not padding):
            batches.append([])
        batches[-1].append(i)
    return batches


def widest_pair(lengths: Sequence[int], boundaries: Collection[int] = ()) -> tuple[int, int]:
    """Find the longest and the shortest of prompts that may be in one batch.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each prompt.
    boundaries : collection of int, default=()
        As in :func:`length_batches`.

    Returns
    -------
    pair : (int, int)
        Indices into ``lengths``: those that differ the most.
    """
    # Without a budget there are batches only where prompts must not be in one.
    batches = length_batches(lengths, sys.maxsize, boundaries=boundaries)
    widest = max(batches, key=lambda batch: lengths[batch[0]] - lengths[batch[-1]])
    return widest[0], widest[-1]
