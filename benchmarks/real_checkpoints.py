"""Real checkpoints on every road that leads to them, against bare hooks and plain transformers.

    SKGATE_DATA=FOLDER python benchmarks/real_checkpoints.py CHECKPOINT ...

A checkpoint is the folder of a causal language model; its subfolder ``gguf`` may hold the same
model as a GGUF file. Roads: the folder; the GGUF file; the folder renamed after the fit, and the
wrapper loaded in another process and pointed at it. For each, in float32: the largest relative
difference between an activation and that of a bare hook, and whether unsteered and steered replies
to one prompt of each class equal those that transformers gives without and with a bare edit.
Prompts are of PolyRefuse.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import make_pipeline
from transformers import AutoModelForCausalLM, AutoTokenizer

import skgate
from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.datasets import fetch_polyrefuse

N_PROMPTS = 12  # of each class
N_TOKENS = 16
STRENGTH = 6.0  # at 2, Qwen's replies to the two prompts stay as they were
GREEDY = {"do_sample": False, "max_new_tokens": N_TOKENS}


def find_layer(model: Any) -> int:
    """Find the block in the middle."""
    return int(model.config.get_text_config().num_hidden_layers) // 2


@contextlib.contextmanager
def hooked(model: Any, hook: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """Look at the middle block's output, or replace it."""

    def call(module: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        edited = hook(hidden)
        if edited is None:
            return None
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    handle = model.model.layers[find_layer(model)].register_forward_hook(call)
    try:
        yield
    finally:
        handle.remove()


class Bare:
    """A model as transformers loads it, read and edited by hooks of its own."""

    def __init__(self, folder: str, **options: Any) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
        self.layer = find_layer(self.model)
        self.has_template = self.tokenizer.chat_template is not None  # GGUF files may have none

    def encode(self, prompt: str) -> torch.Tensor:
        if not self.has_template:
            return torch.tensor([self.tokenizer(prompt).input_ids])
        ids: torch.Tensor = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"]
        return ids

    @torch.no_grad()
    def read(self, prompts: list[str]) -> np.ndarray:
        rows: list[np.ndarray] = []
        with hooked(self.model, lambda hidden: rows.append(hidden[0, -1].numpy())):
            for prompt in prompts:
                self.model(input_ids=self.encode(prompt))
        return np.stack(rows)

    @torch.no_grad()
    def generate(self, prompt: str, gate: LatentGate | None = None) -> str:
        """Reply with the edit that a gate decides on, or without."""
        ids = self.encode(prompt)
        edit: Any = contextlib.nullcontext()
        if gate is not None:
            harmful = gate.harm_score(self.read([prompt]))[0] > 0
            edit = hooked(self.model, make_edit(gate, ids.shape[1], harmful))
        with edit:
            out = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **GREEDY)
        return str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def make_edit(gate: LatentGate, n_tokens: int, harmful: bool) -> Any:
    """Add the direction from the last token of the prompt on, or ablate it at every token."""
    v = torch.tensor(gate.direction_, dtype=torch.float32)
    n_seen = 0

    def edit(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal n_seen
        first = max(0, n_tokens - 1 - n_seen)
        n_seen += hidden.shape[1]
        if not harmful:
            return hidden - (hidden @ v)[..., None] * v
        hidden = hidden.clone()
        hidden[:, first:] += STRENGTH * gate.projection_gap_ * v
        return hidden

    return edit


def load_prompts() -> pd.DataFrame:
    frame = fetch_polyrefuse(languages="en", split="train").frame
    return frame.groupby("harmful").head(N_PROMPTS)


def choose(prompts: pd.DataFrame) -> list[str]:
    """Choose the prompts to reply to: one of each class."""
    return prompts.groupby("harmful")["prompt"].first().tolist()


def make_wrapper(folder: str, expected: dict[str, Any], **options: Any) -> SteeringWrapper:
    reader = ActivationTransformer(
        folder,
        layer=expected["layer"],
        position="last",
        chat_template=expected["has_template"],
        dtype="float32",
        store=False,
        model_kwargs=options or None,
    )
    return SteeringWrapper(
        make_pipeline(reader, LatentGate()), strength=STRENGTH, generate_kwargs=GREEDY
    )


def compare(wrapper: SteeringWrapper, prompts: pd.DataFrame, expected: dict[str, Any]) -> dict:
    """Compare a fitted wrapper with what the bare model gave."""
    rows = wrapper.gate_[:-1].transform(prompts["prompt"])
    size = np.linalg.norm(expected["rows"], axis=1, keepdims=True)
    asked = choose(prompts)
    plain = skgate.SteeringWrapper(
        wrapper.gate, on_harmful=None, on_harmless=None, generate_kwargs=GREEDY
    ).fit(prompts["prompt"], prompts["harmful"], language=prompts["language"])
    return {
        "largest difference": float(np.abs((rows - expected["rows"]) / size).max()),
        "unsteered": plain.generate(asked) == expected["unsteered"],
        "steered": wrapper.generate(asked) == expected["steered"],
        "steering changed them": expected["steered"] != expected["unsteered"],
    }


def expect(folder: str, prompts: pd.DataFrame, **options: Any) -> dict[str, Any]:
    """Read and generate the slow way."""
    bare = Bare(folder, **options)
    rows = bare.read(prompts["prompt"].tolist())
    gate = LatentGate().fit(rows, prompts["harmful"], language=prompts["language"])
    asked = choose(prompts)
    return {
        "rows": rows,
        "layer": bare.layer,
        "has_template": bare.has_template,
        "unsteered": [bare.generate(prompt) for prompt in asked],
        "steered": [bare.generate(prompt, gate) for prompt in asked],
    }


def try_road(folder: str, prompts: pd.DataFrame, **options: Any) -> tuple[Any, dict, dict]:
    expected = expect(folder, prompts, **options)
    gc.collect()
    wrapper = make_wrapper(folder, expected, **options)
    wrapper.fit(prompts["prompt"], prompts["harmful"], language=prompts["language"])
    found = compare(wrapper, prompts, expected)
    skgate.release_models()
    return wrapper, expected, found


def try_moved(dumped: Path, folder: str, expected: Path) -> dict:
    """Load a wrapper whose folder has moved, see that it says so, and point it at the new one."""
    prompts = load_prompts()
    wrapper = joblib.load(dumped)
    with contextlib.suppress(FileNotFoundError):
        wrapper.predict(prompts["prompt"])
        raise RuntimeError("The folder has not moved.")
    return compare(skgate.relocate(wrapper, folder), prompts, joblib.load(expected))


def try_checkpoint(checkpoint: Path) -> pd.DataFrame:
    prompts = load_prompts()
    found = {}
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as scratch:
        here, there = Path(scratch, "here"), Path(scratch, "there")
        shutil.copytree(checkpoint, here, copy_function=os.link, ignore=lambda *_: ["gguf"])
        wrapper, expected, found["folder"] = try_road(str(here), prompts)
        dumped, wanted = Path(scratch, "wrapper.joblib"), Path(scratch, "expected.joblib")
        joblib.dump(wrapper, dumped)
        joblib.dump(expected, wanted)
        here.rename(there)
        other = [sys.executable, __file__, "--moved", str(dumped), str(there), str(wanted)]
        printed = subprocess.run(other, check=True, stdout=subprocess.PIPE).stdout
        found["moved, another process"] = json.loads(printed.splitlines()[-1])
    for file in sorted(checkpoint.glob("gguf/*.gguf")):
        found["GGUF"] = try_road(str(file.parent), prompts, gguf_file=file.name)[2]
    return pd.DataFrame(found).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--moved", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.moved:
        dumped, folder, expected = options.moved
        print(json.dumps(try_moved(Path(dumped), folder, Path(expected))))
    for checkpoint in options.checkpoints:
        print(
            f"\n{checkpoint.name}\n{try_checkpoint(checkpoint.resolve()).to_markdown()}", flush=True
        )


if __name__ == "__main__":
    main()
