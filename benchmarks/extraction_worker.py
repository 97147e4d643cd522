"""Ways to get activations, run on request: the part of extraction.py that runs per environment.

    python benchmarks/extraction_worker.py WAY CHECKPOINT PROMPTS LAYER ACTIVATIONS

Loads what the way needs, warms up, writes "ready", and for every line read runs the way once over
all prompts and writes the CPU seconds; the activations go to a file, for comparison.
Every way is given the prompts as texts that the chat template has already been applied to, but
skgate, which is given the users' texts and applies it itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

Run = Callable[[], Any]  # gives activations of shape (n_prompts, d)
BATCH = 8
N_WARM_UP = 8  # prompts; of skgate all, which tries its shortcuts only where they pay


def load(checkpoint: str) -> tuple[Any, Any]:
    """Load the model and its tokenizer, padding on the left as chat models' do."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint).eval(), load_tokenizer(checkpoint)


def load_tokenizer(checkpoint: str) -> Any:
    """Load the word tokenizer as it was saved (AutoTokenizer would make a Qwen2Tokenizer of it)."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(checkpoint, padding_side="left")


def batches(texts: list[str], size: int) -> Iterator[list[str]]:
    """Split texts as they come."""
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def encode(tokenizer: Any, texts: list[str]) -> Any:
    """Tokenize a padded batch."""
    return tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")


def skgate(checkpoint: str, prompts: dict[str, Any], layer: int | str, **params: Any) -> Run:
    """Use this library, without any cache."""
    from skgate import ActivationTransformer

    transformer = ActivationTransformer(
        checkpoint,
        layer=layer,
        position="last",
        tokenizer=load_tokenizer(checkpoint),
        system_prompt=prompts["system"],
        store=False,
        **params,
    )

    def run() -> Any:
        return transformer.transform(prompts["users"])

    return run


def plain(checkpoint: str, prompts: dict[str, Any], layer: int) -> Run:
    """Ask the whole model for all hidden states."""
    model, tokenizer = load(checkpoint)

    @torch.no_grad()
    def run() -> Any:
        rows = []
        for texts in batches(prompts["texts"], BATCH):
            states = model(**encode(tokenizer, texts), output_hidden_states=True).hidden_states
            rows.append(states[layer + 1][:, -1])
        return torch.cat(rows)

    return run


def plain_all(checkpoint: str, prompts: dict[str, Any], layer: int) -> Run:
    """Likewise, and keep every layer."""
    model, tokenizer = load(checkpoint)

    @torch.no_grad()
    def run() -> Any:
        rows = []
        for texts in batches(prompts["texts"], BATCH):
            states = model(**encode(tokenizer, texts), output_hidden_states=True).hidden_states
            rows.append(torch.stack([state[:, -1] for state in states[1:]], dim=1))
        return torch.cat(rows)

    return run


def hook(checkpoint: str, prompts: dict[str, Any], layer: int) -> Run:
    """Read in a forward hook, and run the whole model."""
    model, tokenizer = load(checkpoint)
    rows: list[torch.Tensor] = []

    def read(module: Any, args: Any, output: Any) -> None:
        rows.append((output[0] if isinstance(output, tuple) else output)[:, -1])

    @torch.no_grad()
    def run() -> Any:
        rows.clear()
        handle = model.model.layers[layer].register_forward_hook(read)
        for texts in batches(prompts["texts"], BATCH):
            model(**encode(tokenizer, texts))
        handle.remove()
        return torch.cat(rows)

    return run


def nnsight(checkpoint: str, prompts: dict[str, Any], layer: int, stop: bool = False) -> Run:
    """Trace batches of four."""
    from nnsight import LanguageModel

    model, tokenizer = load(checkpoint)
    traced = LanguageModel(model, tokenizer=tokenizer)

    @torch.no_grad()
    def run() -> Any:
        rows = []
        for texts in batches(prompts["texts"], 4):
            if stop:
                with traced.trace(texts) as tracer:
                    hidden = traced.model.layers[layer].output.save()
                    tracer.stop()
            else:
                with traced.trace(texts):
                    hidden = traced.model.layers[layer].output.save()
            rows.append((hidden[0] if isinstance(hidden, tuple) else hidden)[:, -1])
        return torch.cat(rows)

    return run


def repeng(checkpoint: str, prompts: dict[str, Any], layer: int) -> Run:
    """Read hidden states as its ControlVector.train does, in its batches of 32."""
    from repeng.extract import batched_get_hiddens

    model, tokenizer = load(checkpoint)

    def run() -> Any:
        return batched_get_hiddens(model, tokenizer, prompts["texts"], [layer], 32)[layer]

    return run


def steering_vectors(checkpoint: str, prompts: dict[str, Any], layer: int) -> Run:
    """Record pairs of prompts, one pair at a time."""
    from steering_vectors.train_steering_vector import extract_activations

    model, tokenizer = load(checkpoint)

    def run() -> Any:
        pairs = list(zip(prompts["texts"][::2], prompts["texts"][1::2], strict=True))
        first, second = extract_activations(model, tokenizer, pairs, layers=[layer])
        both = [torch.cat(part[layer]) for part in (first, second)]
        return torch.stack(both, dim=1).flatten(0, 1)

    return run


def transformer_lens(checkpoint: str, prompts: dict[str, Any], layer: int, **options: Any) -> Run:
    """Run with a cache of one hook point."""
    from transformer_lens.model_bridge import TransformerBridge

    model, tokenizer = load(checkpoint)
    bridge = TransformerBridge.boot_transformers(
        checkpoint, hf_model=model, tokenizer=tokenizer, dtype=torch.float32, device="cpu"
    )
    name = f"blocks.{layer}.hook_out"

    @torch.no_grad()
    def run() -> Any:
        rows = []
        for texts in batches(prompts["texts"], BATCH):
            encoded = encode(tokenizer, texts)
            _, cache = bridge.run_with_cache(
                encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                names_filter=name,
                **options,
            )
            rows.append(cache[name][:, -1])
        return torch.cat(rows)

    return run


def bound(checkpoint: str, prompts: dict[str, Any], layer: int) -> Run:
    """Multiply as many rows by the same matrices as the forward passes can't do without."""
    model, _ = load(checkpoint)
    blocks = [
        [module for module in block.modules() if isinstance(module, torch.nn.Linear)]
        for block in model.model.layers[: layer + 1]
    ]
    sizes = [512] * (prompts["n_needed"] // 512) + [prompts["n_needed"] % 512]
    inputs = {
        (n, linear.in_features): torch.randn(n, linear.in_features)
        for n in sizes
        for linear in blocks[0]
    }

    @torch.no_grad()
    def run() -> Any:
        for n in sizes:
            for block in blocks:
                for linear in block:
                    torch.nn.functional.linear(inputs[n, linear.in_features], linear.weight)
        return np.zeros(1)

    return run


WAYS: dict[str, Callable[[str, dict[str, Any], int], Run]] = {
    "bound": bound,
    "skgate": skgate,
    "skgate, no prefix reuse": lambda c, p, layer: _without_prefix(skgate(c, p, layer)),
    "skgate, deepest block whole": lambda c, p, layer: _without_narrowing(skgate(c, p, layer)),
    "skgate, bfloat16": lambda c, p, layer: skgate(c, p, layer, dtype="bfloat16"),
    "skgate, all layers": lambda c, p, layer: skgate(c, p, "all"),
    **{
        f"skgate, {n}-token batches": lambda c, p, layer, n=n: skgate(c, p, layer, batch_tokens=n)
        for n in (128, 256, 384, 768, 1024)
    },
    "output_hidden_states": plain,
    "output_hidden_states, all layers": plain_all,
    "hook, full model": hook,
    "nnsight trace": nnsight,
    "nnsight trace with stop": lambda c, p, layer: nnsight(c, p, layer, stop=True),
    "repeng": repeng,
    "steering-vectors": steering_vectors,
    "transformer-lens": transformer_lens,
    "transformer-lens, stop_at_layer": lambda c, p, layer: transformer_lens(
        c, p, layer, stop_at_layer=layer + 1
    ),
}


def _without_prefix(run: Run) -> Run:
    from skgate.activations import _forward

    _forward.is_worthwhile = lambda *args: False
    return run


def _without_narrowing(run: Run) -> Run:
    from skgate.activations import _forward

    _forward.find_feed_forward = lambda block: None
    return run


def main() -> None:
    """Serve one way."""
    way, checkpoint, prompts_file, layer, activations_file = sys.argv[1:]
    torch.set_num_threads(1)
    with open(prompts_file) as file:
        prompts = json.load(file)
    n_warm_up = None if way.startswith("skgate") else N_WARM_UP
    few = {name: prompts[name][:n_warm_up] for name in ("users", "texts")}
    served = {**prompts, **few}
    run = WAYS[way](checkpoint, served, int(layer))
    run()
    served.update(prompts)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        rows = run()
        print(time.process_time() - start, flush=True)
        np.save(activations_file, np.asarray(rows, dtype=np.float32))


if __name__ == "__main__":
    main()
