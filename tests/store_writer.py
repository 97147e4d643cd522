"""Rows for stores, and a program that writes them until it is killed. No torch, to start fast.

python store_writer.py PATH SEED
"""

from __future__ import annotations

import hashlib
import itertools
import sys

import numpy as np

from skgate import ActivationStore

NAMESPACE, LAYERS, BATCH, D = "ab" * 16, (1, 5), 16, 48


def names(n, start=0):
    """Prompts as the store knows them."""
    return [i.to_bytes(16, "big") for i in range(start, start + n)]


def matrix(n, d=8, seed=0):
    """Make n random activations."""
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def prompts_of(seed, batch):
    """Name the prompts of a batch."""
    return [
        hashlib.blake2b(f"{seed} {batch} {i}".encode(), digest_size=16).digest()
        for i in range(BATCH)
    ]


def rows_of(seed, batch):
    """Compute the batch's only right rows, one matrix per layer."""
    rng = np.random.default_rng([seed, batch])
    return {layer: rng.normal(size=(BATCH, D)).astype(np.float32) for layer in LAYERS}


if __name__ == "__main__":
    store, seed = ActivationStore(sys.argv[1]), int(sys.argv[2])
    for batch in itertools.count():
        with store.claim(NAMESPACE, prompts_of(seed, batch)) as claimed:
            assert all(claimed)
            store.insert(NAMESPACE, prompts_of(seed, batch), rows_of(seed, batch))
        print(batch, flush=True)
