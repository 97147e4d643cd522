"""The cost of steering: generate() with a gate, against plain and two-pass generation.

    python benchmarks/steering_overhead.py [--device cuda] [--rounds 15]

A random Qwen2-like model (hidden size 512, 16 layers, vocabulary 21,000), 16 prompts of 10 to 100
tokens in one batch, 32 new tokens. In each round, the ways run one after the other. The table shows
medians of the seconds and of their ratios to plain generation in the same round: CPU seconds of one
thread (idle threads that wait for work would count as well), or wall seconds on another device.

- plain: ``model.generate`` on prepared token ids.
- one pass: ``SteeringWrapper.generate``, from prompts to replies, with gates that read at one
  place, two or four.
- two passes: as in the reference implementation, a forward pass with hidden states for the gate,
  then ``model.generate`` under a hook that edits the rows by masked assignment.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import make_pipeline
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from skgate import ActivationTransformer, LatentGate, SteeringWrapper

VOCABULARY, LAYER, N_PROMPTS = 21_000, 8, 16
PLACES = {
    "one pass, last": ([LAYER], "last"),
    "one pass, last and mean": ([LAYER], ["last", "mean"]),
    "one pass, the same at two blocks": ([LAYER // 2, LAYER], ["last", "mean"]),
}
OPTIONS = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False}


def make_model() -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    """Make the random model and a word tokenizer for it."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=16,
        num_attention_heads=8,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<pad>", pad_token="<pad>", eos_token="<eos>"
    )
    return Qwen2ForCausalLM(config).eval(), tokenizer


def make_prompts(n: int, seed: int) -> list[str]:
    """Make prompts of lognormal length, 10 to 100 tokens."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(35), 0.6, n).astype(int), 10, 100)
    return [" ".join(f"w{i}" for i in rng.integers(2, VOCABULARY, k)) for k in lengths]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    rounds, device = arguments.rounds, torch.device(arguments.device)
    torch.set_num_threads(1)
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    model, tokenizer = make_model()
    model.to(device)
    train, y = make_prompts(64, seed=1), np.tile([0, 1], 32)
    wrappers = {}
    for name, (layer, position) in PLACES.items():
        reader = ActivationTransformer(
            model, tokenizer=tokenizer, layer=layer, position=position, chat_template=False
        )
        wrapper = SteeringWrapper(
            make_pipeline(reader, LatentGate()), generate_kwargs=OPTIONS, strength=1.0
        )
        wrappers[name] = wrapper.fit(train, y)
    gate = wrappers["one pass, last"].gate_[-1]
    prompts = make_prompts(N_PROMPTS, seed=2)
    encoded = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(device)
    encoded.pop("token_type_ids", None)
    v = torch.tensor(gate.direction_, dtype=torch.float32, device=device)
    alpha = gate.projection_gap_

    def plain() -> None:
        model.generate(**encoded, **OPTIONS)

    def two_passes() -> None:
        with torch.no_grad():
            states = model(**encoded, output_hidden_states=True).hidden_states[LAYER + 1]
        scores = gate.harm_score(states[:, -1].cpu().numpy())
        harmful = torch.from_numpy(scores > 0).to(device)
        prefill = [True]

        def edit(module: object, args: object, hidden: torch.Tensor) -> torch.Tensor:
            hidden = hidden.clone()
            where = slice(-1, None) if prefill[0] else slice(None)
            hidden[harmful, where] = hidden[harmful, where] + alpha * v
            rows = hidden[~harmful]
            hidden[~harmful] = rows - (rows @ v)[..., None] * v
            prefill[0] = False
            return hidden

        handle = model.model.layers[LAYER].register_forward_hook(edit)
        model.generate(**encoded, **OPTIONS)
        handle.remove()

    ways: dict[str, Callable[[], None]] = {
        "plain": plain,
        **{name: partial(one.generate, prompts) for name, one in wrappers.items()},
        "two passes": two_passes,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, run in ways.items():
            start = clock()
            run()
            if i:  # the first round warms up
                seconds[name].append(clock() - start)
    table = pd.DataFrame(seconds)
    ratios = table.div(table["plain"], axis=0)
    print("| | seconds, median | ratio to plain, median | quartiles |\n| --- | --- | --- | --- |")
    for name in ways:
        low, high = ratios[name].quantile([0.25, 0.75])
        print(
            f"| {name} | {table[name].median():.3f} | {ratios[name].median():.3f} "
            f"| {low:.3f} to {high:.3f} |"
        )


if __name__ == "__main__":
    main()
