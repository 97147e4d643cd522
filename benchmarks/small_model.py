"""What ActivationTransformer costs over a bare forward pass, where forward passes are cheap.

    python benchmarks/small_model.py

The bundled model organism (6 blocks, width 128), block 3, last token, 300 short prompts. "Bare"
formats and tokenizes the prompts as well, sorts them into the same batches, and runs the model in
each up to a hook that reads and stops; it knows no layer lists, caches, fingerprints or checks.
The ways take turns, on one thread; medians of the ratios of CPU seconds within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from skgate import ActivationTransformer
from skgate.activations import _forward
from skgate.activations.store._row_caches import memory_cache
from skgate.datasets import load_organism
from skgate.model._batching import length_batches

LAYER, N_PROMPTS, BATCH_TOKENS = 3, 300, 512


class _Stop(Exception):  # noqa: N818 - not an error
    pass


def make_bare(model: Any, tokenizer: Any, prompts: list[str]) -> Callable[[], Any]:
    """Read by a hook that stops the forward pass, and nothing else."""
    read: list[torch.Tensor] = []

    def stop(module: Any, args: Any, output: Any) -> None:
        read.append(output[0] if isinstance(output, tuple) else output)
        raise _Stop

    @torch.no_grad()
    def run() -> Any:
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
        ids = tokenizer(texts, add_special_tokens=False).input_ids
        out = torch.empty(len(prompts), model.config.hidden_size)
        handle = model.base_model.layers[LAYER].register_forward_hook(stop)
        for batch in length_batches([len(row) for row in ids], BATCH_TOKENS):
            lengths = torch.tensor([len(ids[i]) for i in batch])
            mask = torch.arange(int(lengths.max())) < lengths[:, None]
            input_ids = torch.zeros(mask.shape, dtype=torch.int64)
            input_ids[mask] = torch.tensor([token for i in batch for token in ids[i]])
            with contextlib.suppress(_Stop):
                model.base_model(input_ids=input_ids, attention_mask=mask, use_cache=False)
            out[batch] = read.pop()[torch.arange(len(batch)), lengths - 1]
        handle.remove()
        return out.numpy()

    return run


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    organism = load_organism()
    prompts = organism.prompts["prompt"].drop_duplicates().head(N_PROMPTS).tolist()
    common = {
        "model": organism.model,
        "tokenizer": organism.tokenizer,
        "layer": LAYER,
        "position": "last",
        "batch_tokens": BATCH_TOKENS,
    }
    without = ActivationTransformer(**common, store=False)
    caching = ActivationTransformer(**common)

    def run_caching() -> Any:
        memory_cache.clear()
        return caching.transform(prompts)

    def run_whole() -> Any:
        find, _forward.find_feed_forward = _forward.find_feed_forward, lambda block: None
        try:
            return without.transform(prompts)
        finally:
            _forward.find_feed_forward = find

    ways = {
        "bare": make_bare(organism.model, organism.tokenizer, prompts),
        "transform, store=False": lambda: without.transform(prompts),
        "transform, filling the memory cache": run_caching,
        "transform, store=False, deepest block whole": run_whole,
    }
    expected = ways["bare"]()
    for run in ways.values():
        for _ in range(2):
            np.testing.assert_allclose(run(), expected, rtol=1e-3, atol=1e-4)
    seconds = []
    for _ in range(options.rounds):
        took = {}
        for way, run in ways.items():
            start = time.process_time()
            run()
            took[way] = time.process_time() - start
        seconds.append(took)
    table = pd.DataFrame(seconds)
    ratios = table.div(table["bare"], axis=0)
    print("| way | CPU ms, median | ratio to bare, median | quartiles |")
    print("| --- | --- | --- | --- |")
    for way in ways:
        low, high = ratios[way].quantile([0.25, 0.75])
        print(
            f"| {way} | {1000 * table[way].median():.0f} | {ratios[way].median():.3f} "
            f"| {low:.3f} to {high:.3f} |"
        )


if __name__ == "__main__":
    main()
