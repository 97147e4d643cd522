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
from typing import NamedTuple

import numpy as np
import pandas as pd

from skgate.model._batching import length_batches

N_PROMPTS, N_PREFIX, LAYER, N_LAYERS, HIDDEN, INNER = 128, 22, 15, 28, 512, 1408
N_HEADS, N_KEY_VALUE_HEADS = 8, 2
# Operations of a block per token, and of its attention per pair of tokens.
PER_TOKEN = 2 * HIDDEN * (HIDDEN * 2 + HIDDEN // N_HEADS * N_KEY_VALUE_HEADS * 2 + 3 * INNER)
PER_PAIR = 4 * HIDDEN
BATCH_TOKENS = 512
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<pad>", "<eos>", "<system>", "<user>", "<assistant>", "<end>"]
OWN = ["bound", "skgate", "output_hidden_states", "hook, full model"]
PEERS = [
    "nnsight trace with stop",
    "transformer-lens, stop_at_layer",
    "nnsight trace",
    "repeng",
    "steering-vectors",
    "transformer-lens",
]
ALL_LAYERS = ["skgate, all layers", "output_hidden_states, all layers"]
# Prompts per batch, in their order of arrival, padded.
BATCHES = {
    "nnsight trace with stop": 4,
    "transformer-lens, stop_at_layer": 8,
    "output_hidden_states": 8,
    "output_hidden_states, all layers": 8,
    "hook, full model": 8,
    "nnsight trace": 4,
    "repeng": 32,
    "steering-vectors": 1,
    "transformer-lens": 8,
}
STOPPING = ["nnsight trace with stop", "transformer-lens, stop_at_layer"]
SLOW = [way for way in BATCHES if way not in STOPPING]
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "extraction_curves.svg"
VARIANTS = [
    "skgate, no prefix reuse",
    "skgate, deepest block whole",
    "skgate, bfloat16",
    *(f"skgate, {n}-token batches" for n in (128, 256, 384, 768, 1024)),
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
        "own_lengths": own.tolist(),
        "n_needed": int(N_PREFIX + own.sum()),
        # query-key pairs of the forward passes that are needed
        "n_pairs": int((own * N_PREFIX + own * (own + 1) / 2).sum() + N_PREFIX**2 / 2),
    }
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return prompts


class Task(NamedTuple):
    """A way to run, on some prompts, down to some layer."""

    name: str
    way: str
    folder: Path
    layer: int


class Worker:
    """A task in a process of its own."""

    def __init__(self, task: Task, python: str) -> None:
        self.task = task
        # Beside the checkpoint, not in it: skgate loads a folder anew whose files have changed.
        results = task.folder / "results"
        results.mkdir(exist_ok=True)
        place = results / f"{task.name}-{task.layer}"
        self.log = open(f"{place}.log", "w+")  # noqa: SIM115 (closed with self)
        checkpoint, prompts = task.folder, task.folder / "prompts.json"
        arguments = [task.way, checkpoint, prompts, task.layer, f"{place}.npy"]
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
        raise RuntimeError(f"{self.task.name} failed: {self.log.read()[-2000:]}")

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


def compare(tasks: list[Task], options: argparse.Namespace) -> pd.DataFrame:
    """CPU seconds of each task in each round, the tasks taking turns."""
    pythons = dict(item.split("=", 1) for item in options.python)
    workers = []
    for task in tasks:
        library = task.way.split(",")[0].split(" ")[0]
        if task.way in PEERS and library not in pythons:
            continue
        if task.way in SLOW and not options.slow_rounds:
            continue
        worker = Worker(task, pythons.get(library, sys.executable))
        try:
            worker.read()
            workers.append(worker)
        except RuntimeError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
            worker.close()
    seconds = []
    for i in range(options.rounds):
        if i == options.slow_rounds:
            for worker in workers:
                if worker.task.way in SLOW:
                    worker.close()
            workers = [worker for worker in workers if worker.task.way not in SLOW]
        seconds.append({worker.task.name: worker.run() for worker in workers})
        print(json.dumps(seconds[-1]), file=sys.stderr, flush=True)
    for worker in workers:
        worker.close()
    return pd.DataFrame(seconds)


def count_operations(way: str, lengths: list[int], vocabulary: int) -> float | None:
    """Floating-point operations of the matrix products of a way, over all prompts."""
    all_layers = way.endswith("all layers")
    deepest = N_LAYERS - 1 if all_layers else LAYER
    shared = narrowed = 0
    if way in ("skgate", "skgate, all layers"):
        shared = N_PREFIX
        batches = [[lengths[i] for i in b] for b in length_batches(lengths, BATCH_TOKENS)]
        narrowed = 6 * HIDDEN * INNER * sum(len(b) * (max(b) - 1) for b in batches)
    elif way in BATCHES:
        whole = [N_PREFIX + length for length in lengths]
        batches = [whole[i : i + BATCHES[way]] for i in range(0, len(whole), BATCHES[way])]
    else:
        return None
    n_tokens = sum(len(batch) * max(batch) for batch in batches) + shared
    n_pairs = sum(len(batch) * max(batch) * (max(batch) + shared) for batch in batches)
    n_pairs += shared**2
    n_blocks = N_LAYERS if way in SLOW else deepest + 1
    head = 2 * HIDDEN * vocabulary * n_tokens if way in SLOW else 0
    return n_blocks * (PER_TOKEN * n_tokens + PER_PAIR * n_pairs) - narrowed + head


def cosines(ways: list[str], folder: Path, layer: int, reference: str) -> dict[str, float]:
    """The smallest cosine between a way's activations and the reference's, over prompts."""
    found: dict[str, float] = {}
    results = folder / "results"
    if not (results / f"{reference}-{layer}.npy").exists():
        return found
    expected = np.load(results / f"{reference}-{layer}.npy").astype(float)
    for way in ways:
        rows = np.load(results / f"{way}-{layer}.npy").astype(float)
        if rows.shape == expected.shape:
            norms = np.linalg.norm(rows, axis=-1) * np.linalg.norm(expected, axis=-1)
            found[way] = float(((rows * expected).sum(-1) / norms).min())
    return found


def with_attention(seconds: pd.Series, prompts: dict[str, object]) -> pd.Series:
    """Add the attention's products to the time of the matrices', at the same rate."""
    return seconds * (1 + PER_PAIR * prompts["n_pairs"] / (PER_TOKEN * prompts["n_needed"]))


def show(
    seconds: pd.DataFrame,
    cosine: dict[str, float],
    against: str,
    operations: dict[str, float | None] | None = None,
) -> None:
    """Print medians, and medians of the ratios within the rounds."""
    print("| way | rounds | CPU seconds | ratio, median | least to most | counted | cosine |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    ratios = seconds.div(seconds[against], axis=0)
    for way in seconds.median().sort_values().index:
        counted = (operations or {}).get(way)
        cells = [
            way,
            str(seconds[way].count()),
            f"{seconds[way].median():.2f}",
            f"{ratios[way].median():.2f}",
            f"{ratios[way].min():.2f} to {ratios[way].max():.2f}",
            f"{counted / operations[against]:.2f}" if counted else "",
            f"{cosine[way]:.6f}" if way in cosine else "",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def draw(curves: dict[str, pd.DataFrame], file: Path) -> None:
    """Draw cost against what it should be linear in, and print the table."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(style="ticks")
    figure, axes = plt.subplots(1, len(curves), figsize=(8, 3), layout="constrained")
    for ax, (name, seconds) in zip(axes, curves.items(), strict=True):
        x, y = np.array(seconds.columns, float), seconds.median().to_numpy()
        slope, intercept = np.polyfit(x, y, 1)
        explained = np.corrcoef(x, y)[0, 1] ** 2
        print(f"\n| {name} | CPU seconds, median | least to most | line |")
        print("| --- | --- | --- | --- |")
        for column, at in zip(seconds, x, strict=True):
            low, high = seconds[column].min(), seconds[column].max()
            print(
                f"| {column} | {seconds[column].median():.2f} | {low:.2f} to {high:.2f} "
                f"| {intercept + slope * at:.2f} |"
            )
        print(f"\n{slope:.3g} s per unit, {intercept:.2f} s apart from it, R2 {explained:.4f}")
        long = seconds.melt(var_name=name, value_name="CPU seconds").astype(float)
        sns.scatterplot(long, x=name, y="CPU seconds", ax=ax, color="#0072B2", alpha=0.5)
        ends = np.array([0, x.max()])
        ax.plot(ends, intercept + slope * ends, color="#D55E00", label=f"$R^2$ = {explained:.4f}")
        ax.set(xlim=(0, None), ylim=(0, None))
        ax.legend(frameon=False)
    sns.despine()
    file.parent.mkdir(exist_ok=True, parents=True)
    figure.savefig(file)


def measure_curves(folder: Path, options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """CPU seconds by depth, and by distinct tokens."""
    layers = [3, 7, 15, 23, 27]
    tasks = [Task(str(layer + 1), "skgate", folder, layer) for layer in layers]
    by_depth = compare(tasks, options)
    tasks = []
    for mean in (10, 20, 40, 80, 160):
        copy = folder / f"mean-{mean}"
        copy.mkdir()
        for file in folder.iterdir():
            if file.is_file() and file.name != "prompts.json":
                (copy / file.name).symlink_to(file)
        tasks.append(Task(str(make_prompts(copy, mean)["n_needed"]), "skgate", copy, LAYER))
    return {"blocks run": by_depth, "distinct tokens": compare(tasks, options)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[151_936, 21_000])
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument(
        "--part", nargs="+", default=["peers", "all", "variants", "curves"],
        choices=["peers", "all", "variants", "curves"],
    )  # fmt: skip
    options = parser.parse_args()

    for vocabulary in options.vocabulary:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_checkpoint(folder, vocabulary)
            prompts = make_prompts(folder)
            operations = {
                way: count_operations(way, prompts["own_lengths"], vocabulary)
                for way in ("skgate", *ALL_LAYERS, *BATCHES)
            }
            first = vocabulary == options.vocabulary[0]
            print(f"\n## Vocabulary {vocabulary:,}: {prompts['n_needed']} distinct tokens")

            def run(ways: list[str], folder: Path = folder) -> pd.DataFrame:
                return compare([Task(way, way, folder, LAYER) for way in ways], options)

            if "peers" in options.part:
                seconds = run([*OWN, *PEERS])
                seconds["bound"] = with_attention(seconds["bound"], prompts)
                print(f"\nLayer {LAYER}, ratio to skgate:\n")
                ways = [way for way in seconds if way != "bound"]
                same = cosines(ways, folder, LAYER, "output_hidden_states")
                show(seconds, same, "skgate", operations)
                to_bound = seconds["skgate"] / seconds["bound"]
                print(f"\nskgate to the bound: {to_bound.median():.3f}")
            if "all" in options.part:
                print("\nAll layers, ratio to skgate:\n")
                show(run(ALL_LAYERS), {}, "skgate, all layers", operations)
            if "variants" in options.part and first:
                ways = ["skgate", *VARIANTS]
                seconds = run(ways)
                print("\nWays to run skgate, ratio to its defaults:\n")
                show(seconds, cosines(ways, folder, LAYER, "skgate"), "skgate")
            if "curves" in options.part and first:
                draw(measure_curves(folder, options), FIGURE)


if __name__ == "__main__":
    main()
