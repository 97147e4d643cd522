"""Activations of labelled prompts in many languages, at several layers and positions.

PolyRefuse through MiniLM, Gemma-3-270M and Qwen2.5-Coder-1.5B-Instruct, MultiJail through Qwen, and
the model organism. Of the two language models, every split is an evenly spaced sample. What was
read is kept in a folder, so that a model is needed once. No text is kept.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from polyrefuse_gate import MODEL, SOURCES, TARGETS, load_prompts

from skgate import ActivationTransformer
from skgate.datasets import load_organism

POSITIONS = ("last", "mean")
HELD_BACK = {"Qwen": ["ar", "ru", "th"], "MultiJail": ["ar", "th", "vi"]}
# Rows of each class: of the sources and the targets, in the train and the test split.
SIZES = {"Gemma": ((60, 60), (16, 60)), "Qwen": ((100, 40), (64, 100))}
LAYERS = {"Gemma": [8, 12, 17], "Qwen": [12, 15, 17]}
N_JAILS = 100

Place = tuple[int, str]


@dataclass
class Rows:
    """Labelled prompts, and their activations at each place."""

    name: str
    frame: pd.DataFrame  # language, split, harmful
    at: dict[Place, np.ndarray]  # (n, d) each
    sources: list[str]
    targets: list[str]

    def read(self, places: list[Place], chosen: np.ndarray) -> np.ndarray:
        """Activations of some rows at several places, side by side."""
        return np.concatenate([self.at[place][chosen] for place in places], axis=1).astype(float)


def minilm(folder: Path) -> Rows:
    """Read layer 3 of a sentence encoder of English."""
    prompts = load_prompts(test_step=1)
    prompts = prompts[prompts["language"].isin([*SOURCES, *TARGETS])]
    at = _read(
        folder / "minilm.npz",
        prompts,
        MODEL,
        [3],
        chat_template=False,
        truncate=True,
    )
    return Rows("MiniLM", prompts, at, SOURCES, TARGETS)


def organism(folder: Path) -> Rows:
    """Read block 4 of the model organism."""
    bundle = load_organism()
    prompts = bundle.prompts[bundle.prompts["split"] != "val"]
    tier = bundle.languages.set_index("language")["tier"]
    at = _read(folder / "organism.npz", prompts, bundle.model, [4], tokenizer=bundle.tokenizer)
    high, low = (sorted(tier.index[tier == name]) for name in ("high", "low"))
    return Rows("organism", prompts, at, high, low)


def language_model(name: str, checkpoint: str | None, folder: Path, targets: list[str]) -> Rows:
    """Read PolyRefuse through a language model, at every layer of ``LAYERS``."""
    of_sources, of_targets = SIZES[name]
    groups = load_prompts(test_step=1).groupby(["language", "split", "harmful"])
    chosen, read = [], []
    for language in [*SOURCES, *targets]:
        sizes = of_sources if language in SOURCES else of_targets
        parts = []
        for split, size in zip(("train", "test"), sizes, strict=True):
            for harmful in (False, True):
                rows = groups.get_group((language, split, harmful))
                parts.append(rows.iloc[:: len(rows) // size].iloc[:size])
        chosen.append(pd.concat(parts))
        file = folder / f"{name.lower()}_{language}.npz"
        read.append(_read(file, chosen[-1], checkpoint, LAYERS[name], dtype="float32"))
    return Rows(name, pd.concat(chosen, ignore_index=True), _stack(read), SOURCES, targets)


def jails(checkpoint: str | None, folder: Path, languages: list[str]) -> Rows:
    """Read every third of MultiJail's prompts, all harmful, through Qwen."""
    path = Path(os.environ["SKGATE_DATA"]) / "multijail" / "MultiJail.csv"
    with path.open(encoding="utf-8-sig", newline="") as opened:
        table = list(csv.DictReader(opened))[::3][:N_JAILS]
    chosen, read = [], []
    for language in languages:
        prompts = pd.DataFrame({"prompt": [row[language] for row in table], "language": language})
        chosen.append(prompts.assign(split="test", harmful=True))
        file = folder / f"multijail_{language}.npz"
        read.append(_read(file, prompts, checkpoint, LAYERS["Qwen"], dtype="float32"))
    return Rows("MultiJail", pd.concat(chosen, ignore_index=True), _stack(read), [], languages)


def _stack(parts: list[dict[Place, np.ndarray]]) -> dict[Place, np.ndarray]:
    return {place: np.concatenate([part[place] for part in parts]) for place in parts[0]}


def _read(
    file: Path, prompts: pd.DataFrame, model: object, layers: list[int], **params: object
) -> dict[Place, np.ndarray]:
    """Read prompts at every layer and position, or find what was read in a file."""
    if not file.exists():
        if model is None:
            raise SystemExit(f"{file} is not there: pass the folder of the model.")
        reader = ActivationTransformer(
            model, layer=layers, position=list(POSITIONS), store=False, **params
        )
        rows = reader.transform(prompts["prompt"])
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, rows=rows.astype(np.float16))
    with np.load(file) as found:
        rows = found["rows"]
    if len(rows) != len(prompts):
        raise SystemExit(f"{file} has {len(rows)} rows, expected {len(prompts)}: remove it.")
    places = [(layer, position) for layer in layers for position in POSITIONS]
    return dict(zip(places, np.split(rows, len(places), axis=1), strict=True))


def place_sets(layers: list[int]) -> Iterator[list[Place]]:
    """List where a gate could read: at each layer and position, or at several of them."""
    for layer in layers:
        yield [(layer, "last")]
        yield [(layer, "mean")]
        yield [(layer, "last"), (layer, "mean")]
