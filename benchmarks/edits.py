"""Within how many calls an edit of one row of a model's weights is noticed.

    python benchmarks/edits.py [--edits 300]

A random Llama of 5 million weights. Each edit adds 1 to a random element, or to the random row that
it is in, through ``.data``, so that torch counts no change; then calls take cheap looks until one
notices it. Prints the share of edits that were noticed within some numbers of calls.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import torch
from transformers import LlamaConfig, LlamaModel

from skgate.model._watch import N_LOOKS, fingerprint

WITHIN = [1, 16, 64, 128, N_LOOKS]


def count_calls(model: LlamaModel, rng: np.random.Generator, whole_row: bool) -> int:
    """Edit one row of a matrix, or one element, and count the calls until that is noticed."""
    before = fingerprint(model)
    for _ in range(rng.integers(N_LOOKS)):  # wherever the rotation stands
        fingerprint(model)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    sizes = np.array([p.numel() for p in matrices])
    matrix = matrices[rng.choice(len(matrices), p=sizes / sizes.sum())]
    row, column = (int(rng.integers(n)) for n in matrix.shape)
    part = matrix.data[row] if whole_row else matrix.data[row, column]
    part += 1
    n_calls = 1
    while fingerprint(model) == before:
        n_calls += 1
    return n_calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=300)
    n_edits = parser.parse_args().edits
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=3, vocab_size=6000
    )
    model = LlamaModel(config).eval()
    rng = np.random.default_rng(0)
    table = {}
    for name, whole_row in (("one row", True), ("one element", False)):
        calls = np.array([count_calls(model, rng, whole_row) for _ in range(n_edits)])
        table[name] = {f"{n} calls": f"{np.mean(calls <= n):.0%}" for n in WITHIN}
    print(pd.DataFrame(table).T.to_string())


if __name__ == "__main__":
    main()
