"""What activations cost: skgate, other ways and other libraries, and a lower bound.

    python benchmarks/extraction.py
    python benchmarks/extraction.py --python nnsight=/envs/a/bin/python --python repeng=...

A random Qwen2-like model (hidden size 512, 28 layers) with the vocabulary of Qwen2 (151,936), and
with one of 21,000, whose head has about the share of the work that it has in a model of 7 billion
parameters. 128 prompts of 10 to 150 tokens (lognormal) in random order, after 22 tokens that the
chat template puts before each. Every way runs in a process of its own and with the batches that
are its default; the ways take turns, on one thread; medians of the CPU seconds are compared.

Libraries that need an environment of their own are named by ``--python NAME=PATH``, NAME being
the first word of the way; without that, they are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

N_PROMPTS, N_PREFIX, LAYER, N_LAYERS, HIDDEN, INNER = 128, 22, 15, 28, 512, 1408
N_HEADS, N_KEY_VALUE_HEADS = 8, 2
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<pad>", "<eos>", "<system>", "<user>", "<assistant>", "<end>"]
OWN = ["bound", "skgate", "output_hidden_states", "hook, full model"]
PEERS = [
    "nnsight trace",
    "nnsight trace with stop",
    "repeng",
    "steering-vectors",
    "transformer-lens",
    "transformer-lens, stop_at_layer",
]
ALL_LAYERS = ["output_hidden_states, all layers", "skgate, all layers"]
VARIANTS = [
    "skgate, no prefix reuse",
    "skgate, bfloat16",
    *(f"skgate, {n}-token batches" for n in (128, 256, 512, 1024, 2048)),
]


def make_checkpoint(folder: Path, vocabulary: int) -> None:
    """Save the random model and a word tokenizer for it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KEY_VALUE_HEADS,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    known = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(6, 21_000))])}
    words = Tokenizer(models.WordLevel(known, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(SPECIAL)
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<pad>",
        pad_token="<pad>",
        eos_token="<eos>",
        chat_template=CHAT_TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def make_prompts(folder: Path, mean: float | None = None) -> dict[str, object]:
    """Write the prompts: of lognormal length, or about ``mean`` tokens."""
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(0)
    scale = 35 if mean is None else mean / np.exp(0.18)
    lengths = rng.lognormal(np.log(scale), 0.6, N_PROMPTS)
    lengths = np.clip(lengths.astype(int), 10, 150 if mean is None else None)

    def text(n: int) -> str:
        return " ".join(f"w{i}" for i in rng.integers(6, 21_000, n))

    system = text(N_PREFIX - 3)
    users = [text(n) for n in lengths]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "system", "content": system}, {"role": "user", "content": user}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for user in users
    ]
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert len({tuple(row[:N_PREFIX]) for row in ids}) == 1
    own = np.array([len(row) - N_PREFIX for row in ids])
    prompts = {
        "system": system,
        "users": users,
        "texts": texts,
        "n_needed": int(N_PREFIX + own.sum()),
        # query-key pairs of the forward passes that are needed
        "n_pairs": int((own * N_PREFIX + own * (own + 1) / 2).sum() + N_PREFIX**2 / 2),
    }
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return prompts


class Worker:
    """A way in a process of its own."""

    def __init__(self, way: str, python: str, folder: Path, layer: int) -> None:
        self.way = way
        self.output = folder / f"{way}-{layer}.npy"
        self.log = open(folder / f"{way}-{layer}.log", "w+")  # noqa: SIM115 (closed with self)
        arguments = [way, folder, folder / "prompts.json", layer, self.output]
        self.process = subprocess.Popen(
            [python, Path(__file__).with_name("extraction_worker.py"), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def read(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ready") or line[0].isdigit():
                return line
        self.log.seek(0)
        raise RuntimeError(f"{self.way} failed: {self.log.read()[-2000:]}")

    def run(self) -> float:
        """Run once; the CPU seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return float(self.read())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.log.close()


def compare(
    ways: list[str], pythons: dict[str, str], folder: Path, layer: int, rounds: int
) -> pd.DataFrame:
    """CPU seconds of each way in each round, the ways taking turns."""
    workers = []
    for way in ways:
        name = way.split(",")[0].split(" ")[0]
        if way in PEERS and name not in pythons:
            continue
        worker = Worker(way, pythons.get(name, sys.executable), folder, layer)
        try:
            worker.read()
            workers.append(worker)
        except RuntimeError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
            worker.close()
    seconds = []
    for _ in range(rounds):
        seconds.append({worker.way: worker.run() for worker in workers})
        print(json.dumps(seconds[-1]), file=sys.stderr, flush=True)
    for worker in workers:
        worker.close()
    return pd.DataFrame(seconds)


def cosines(ways: list[str], folder: Path, layer: int, reference: str) -> dict[str, float]:
    """The smallest cosine between a way's activations and the reference's, over prompts."""
    found = {}
    expected = np.load(folder / f"{reference}-{layer}.npy").astype(float)
    for way in ways:
        rows = np.load(folder / f"{way}-{layer}.npy").astype(float)
        if rows.shape == expected.shape:
            norms = np.linalg.norm(rows, axis=-1) * np.linalg.norm(expected, axis=-1)
            found[way] = float(((rows * expected).sum(-1) / norms).min())
    return found


def with_attention(seconds: pd.Series, prompts: dict[str, object]) -> pd.Series:
    """Add the attention's products to the time of the matrices', at the same rate."""
    per_token = 2 * HIDDEN * (HIDDEN * 2 + HIDDEN // N_HEADS * N_KEY_VALUE_HEADS * 2 + 3 * INNER)
    per_pair = 4 * HIDDEN
    return seconds * (1 + per_pair * prompts["n_pairs"] / (per_token * prompts["n_needed"]))


def show(seconds: pd.DataFrame, cosine: dict[str, float], against: str) -> None:
    """Print medians, and medians of the ratios within the rounds."""
    print("| way | CPU seconds, median | ratio, median | quartiles | smallest cosine |")
    print("| --- | --- | --- | --- | --- |")
    ratios = seconds.div(seconds[against], axis=0)
    for way in seconds.median().sort_values().index:
        low, high = ratios[way].quantile([0.25, 0.75])
        same = f"{cosine[way]:.6f}" if way in cosine else ""
        print(
            f"| {way} | {seconds[way].median():.2f} | {ratios[way].median():.2f} "
            f"| {low:.2f} to {high:.2f} | {same} |",
            flush=True,
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[151_936, 21_000])
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument(
        "--part", nargs="+", default=["peers", "all", "variants", "curves"],
        choices=["peers", "all", "variants", "curves"],
    )  # fmt: skip
    options = parser.parse_args()
    pythons = dict(item.split("=", 1) for item in options.python)

    for vocabulary in options.vocabulary:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_checkpoint(folder, vocabulary)
            prompts = make_prompts(folder)
            first = vocabulary == options.vocabulary[0]
            print(f"\n## Vocabulary {vocabulary:,}: {prompts['n_needed']} distinct tokens")
            if "peers" in options.part:
                seconds = compare([*OWN, *PEERS], pythons, folder, LAYER, options.rounds)
                seconds["bound"] = with_attention(seconds["bound"], prompts)
                print(f"\nLayer {LAYER}, ratio to skgate:\n")
                ways = [way for way in seconds if way != "bound"]
                show(seconds, cosines(ways, folder, LAYER, "output_hidden_states"), "skgate")
            if "all" in options.part:
                seconds = compare(ALL_LAYERS, pythons, folder, LAYER, options.rounds)
                print("\nAll layers, ratio to skgate:\n")
                show(seconds, {}, "skgate, all layers")
            if "variants" in options.part and first:
                ways = ["skgate", *VARIANTS]
                seconds = compare(ways, pythons, folder, LAYER, options.rounds)
                print("\nWays to run skgate, ratio to its defaults:\n")
                show(seconds, cosines(ways, folder, LAYER, "skgate"), "skgate")
            if "curves" in options.part and first:
                print("\n| layer | CPU seconds, median | per block |\n| --- | --- | --- |")
                for layer in (3, 7, 15, 23, 27):
                    cost = compare(["skgate"], pythons, folder, layer, options.rounds).median()
                    print(f"| {layer} | {cost.iloc[0]:.2f} | {cost.iloc[0] / (layer + 1):.3f} |")
                print("\n| tokens | CPU seconds, median | ms per token |\n| --- | --- | --- |")
                for mean in (10, 20, 40, 80, 160):
                    n = make_prompts(folder, mean)["n_needed"]
                    cost = compare(["skgate"], pythons, folder, LAYER, options.rounds).median()
                    print(f"| {n} | {cost.iloc[0]:.2f} | {1000 * cost.iloc[0] / n:.3f} |")


if __name__ == "__main__":
    main()
