"""What a call costs beside the model itself: one prompt, one thread, in turn with the bare model.

    python benchmarks/call_cost.py CHECKPOINT [--rounds 30]

A checkpoint is the folder of a causal language model. ``transform`` of a new prompt is compared
with rendering, tokenizing and a forward pass up to a hook in the middle that reads and stops;
``generate`` with rendering, tokenizing and ``model.generate``, for as many tokens. Medians of the
ratios within a round, with 95 % bootstrap intervals, and milliseconds; wall time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import make_pipeline
from transformers import AutoModelForCausalLM, AutoTokenizer

from skgate import ActivationTransformer, LatentGate, SteeringWrapper

PLACES = ["the station", "a lake", "the old town", "some island", "our school"]
KINDS = ["a short walk to {}", "the history of {}"]


class _Stop(Exception):  # noqa: N818 - not an error
    pass


class Bare:
    """The model by itself, with a hook of its own."""

    def __init__(self, model: Any, tokenizer: Any, layer: int) -> None:
        self.model, self.tokenizer, self.layer = model, tokenizer, layer

    def encode(self, prompt: str) -> Any:
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        ).to(self.model.device)

    @torch.no_grad()
    def read(self, prompt: str) -> torch.Tensor:
        read: list[torch.Tensor] = []

        def stop(module: Any, args: Any, output: Any) -> None:
            read.append((output[0] if isinstance(output, tuple) else output)[:, -1].float().cpu())
            raise _Stop

        handle = self.model.model.layers[self.layer].register_forward_hook(stop)
        try:
            self.model.model(**self.encode(prompt), use_cache=False)
        except _Stop:
            pass
        finally:
            handle.remove()
        return read[0]

    def generate(self, prompt: str, n_tokens: int) -> str:
        inputs = self.encode(prompt)
        out = self.model.generate(**inputs, **length(n_tokens))
        return str(self.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]))


def length(n_tokens: int) -> dict[str, Any]:
    return {"do_sample": False, "max_new_tokens": n_tokens, "min_new_tokens": n_tokens}


def alternate(
    one: Callable[[str], Any], other: Callable[[str], Any], rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Time both in turn, each time on a prompt that neither has seen; the order changes."""
    times: dict[Any, list[float]] = {one: [], other: []}
    for i in range(rounds + 2):
        for j, call in enumerate((one, other) if i % 2 else (other, one)):
            prompt = f"Tell me about whale number {rounds}{i}{j}{time.time_ns()}, please."
            start = time.perf_counter()
            call(prompt)
            times[call].append(time.perf_counter() - start)
    return np.array(times[one][2:]), np.array(times[other][2:])  # the first two warm up


def describe(name: str, ours: np.ndarray, bare: np.ndarray) -> dict[str, Any]:
    ratios = ours / bare
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return {
        "call": name,
        "skgate (ms)": f"{1000 * np.median(ours):.1f}",
        "bare (ms)": f"{1000 * np.median(bare):.1f}",
        "ratio": f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype="auto").eval()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer: Any = AutoTokenizer.from_pretrained(options.checkpoint)
    layer = model.config.get_text_config().num_hidden_layers // 2
    bare = Bare(model, tokenizer, layer)
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=layer)
    prompts = [kind.format(place) for kind in KINDS for place in PLACES]
    y = np.repeat([0, 1], len(PLACES))
    wrapper = SteeringWrapper(make_pipeline(reader, LatentGate()), strength=1.0).fit(prompts, y)
    reader = wrapper.gate_[0]
    rows = [
        describe(
            "transform, new prompt",
            *alternate(lambda p: reader.transform([p]), bare.read, options.rounds),
        )
    ]
    cached, _ = alternate(lambda p: reader.transform(prompts[:1]), len, options.rounds)
    rows.append(
        {"call": "transform, cached prompt", "skgate (ms)": f"{1000 * np.median(cached):.1f}"}
    )
    for n_tokens in (1, 64):
        rounds = max(6, options.rounds // (1 if n_tokens == 1 else 3))
        found = alternate(
            lambda p, n=n_tokens: wrapper.generate([p], **length(n)),
            lambda p, n=n_tokens: bare.generate(p, n),
            rounds,
        )
        rows.append(describe(f"generate, {n_tokens} tokens", *found))
    print(pd.DataFrame(rows).fillna("").to_string(index=False))


if __name__ == "__main__":
    main()
