"""Extraction in other processes, with a record of every prompt that a model sees in any of them."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

from skgate import ActivationTransformer
from skgate.activations._reader import open_reader


class CountingTransformer(ActivationTransformer):
    """Writes down, beside the folder of its model, the token ids of every forwarded prompt."""

    def transform(self, X):
        _count_prompts(type(open_reader(self).language_model.backbone))
        return super().transform(X)


def _count_prompts(kind):
    forward = kind.forward
    if hasattr(forward, "counts"):
        return

    def counting(self, *args, **kwargs):
        if self.name_or_path:
            rows = zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True)
            lines = [str(ids[mask.bool()].tolist()) + "\n" for ids, mask in rows]
            with open(f"{self.name_or_path}.log", "a") as log:
                log.write("".join(lines))
            time.sleep(_delay(self.name_or_path))
        return forward(self, *args, **kwargs)

    counting.counts = True
    kind.forward = counting


def forwarded(path):
    """Read what was written down of a model: a str of token ids per forwarded prompt."""
    log = Path(f"{path}.log")
    return log.read_text().splitlines() if log.exists() else []


def slow_down(path, seconds):
    """Make every forward pass of a model wait, in any process."""
    Path(f"{path}.delay").write_text(str(seconds))


def _delay(path):
    file = Path(f"{path}.delay")
    return float(file.read_text()) if file.exists() else 0.0


def processes():
    """Give a way to start processes of their own that have torch imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["counting", "transformers.models.llama.modeling_llama"])
    return context


def extract(arguments, prompts, shuffled=None):
    """Read activations, of two thirds of the prompts if a seed is given, and return both."""
    if shuffled is not None:
        prompts = random.Random(shuffled).sample(prompts, k=2 * len(prompts) // 3)
    return prompts, CountingTransformer(**arguments).transform(prompts)


def structure_of(path):
    """Fingerprint the structure of a saved model."""
    from transformers import AutoModel

    from skgate.model._fingerprint import fingerprint_structure

    return fingerprint_structure(AutoModel.from_pretrained(path))
