"""Labelled activations of languages that a gate has to be calibrated on.

PolyRefuse through MiniLM (every layer), the model organism (blocks 3 and 4), and a generator of
shifted and squeezed normal distributions whose best boundaries are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from polyrefuse_gate import MODEL, SOURCES, TARGETS, load_prompts

from skgate import ActivationTransformer
from skgate.datasets import load_organism


@dataclass
class Languages:
    """Activations with labels, languages and splits."""

    dataset: str
    variant: str
    X: np.ndarray
    y: np.ndarray
    language: np.ndarray
    train: np.ndarray
    sources: list[str]
    targets: list[str]
    middle: dict[str, np.ndarray] = field(default_factory=dict)  # known truth: the class midpoint

    def rows(self, split: str, language: str) -> np.ndarray:
        """Indices of a language's rows."""
        return np.flatnonzero((self.train == (split == "train")) & (self.language == language))

    @property
    def source_rows(self) -> np.ndarray:
        """Indices of the source languages' train rows."""
        return np.flatnonzero(self.train & np.isin(self.language, self.sources))


def polyrefuse(store: str | None, layers: list[int]) -> Iterator[Languages]:
    """Six source and seven target languages, through a sentence encoder of English."""
    prompts = load_prompts(test_step=1)
    prompts = prompts[prompts["language"].isin([*SOURCES, *TARGETS])]
    transformer = ActivationTransformer(
        MODEL, layer="all", position="mean", chat_template=False, truncate=True, store=store
    )
    X = transformer.transform(prompts["prompt"])
    X = X.reshape(len(prompts), len(transformer.activation_source().layer), -1)
    for layer in layers:
        yield Languages(
            "PolyRefuse, MiniLM",
            f"layer {layer}",
            X[:, layer].astype(float),
            prompts["harmful"].to_numpy().astype(int),
            prompts["language"].to_numpy(),
            (prompts["split"] == "train").to_numpy(),
            SOURCES,
            TARGETS,
        )


def organism(layers: list[int]) -> Iterator[Languages]:
    """Five high-resource languages as sources, six low-resource ones as targets."""
    bundle = load_organism()
    prompts = bundle.prompts[bundle.prompts["split"] != "val"]
    tier = bundle.languages.set_index("language")["tier"]
    for layer in layers:
        transformer = ActivationTransformer(
            bundle.model, tokenizer=bundle.tokenizer, layer=layer, position="last"
        )
        yield Languages(
            "organism",
            f"block {layer}",
            transformer.transform(prompts["prompt"]).astype(float),
            prompts["harmful"].to_numpy().astype(int),
            prompts["language"].to_numpy(),
            (prompts["split"] == "train").to_numpy(),
            sorted(tier.index[tier == "high"]),
            sorted(tier.index[tier == "low"]),
        )


def generator(worlds: list[int], d: int = 32) -> Iterator[Languages]:
    """Normal classes of unit spread; the sources' lie 4 apart, their boundaries within 0.5 or so.

    The targets' boundaries are shifted by 1 along the direction of harm, their gaps squeezed to
    0.35 to 1, their spreads 0.8 to 1.2, their directions tilted by about 35 degrees. Fixed before
    any calibration was tried on it.
    """
    for world in worlds:
        rng = np.random.default_rng([2, world])
        parts, middle = [], {}
        names = {"source": [f"s{i}" for i in range(8)], "target": [f"t{i}" for i in range(8)]}
        for role, languages in names.items():
            for name in languages:
                tilt, shift, squeeze, spread = (
                    (0.4, rng.normal(0, 0.5), rng.uniform(0.85, 1.1), rng.uniform(0.9, 1.1))
                    if role == "source"
                    else (0.7, rng.normal(), rng.uniform(0.35, 1.0), rng.uniform(0.8, 1.2))
                )
                harm = np.eye(d)[0] + tilt * rng.normal(size=d) / np.sqrt(d)
                harm /= np.linalg.norm(harm)
                middle[name] = rng.normal(0, 0.8, size=d)
                middle[name][0] = shift
                for train, n in ((True, 230), (False, 500)):
                    y = np.tile([0, 1], n)
                    noise = spread * rng.normal(size=(2 * n, d))
                    rows = middle[name] + np.outer((y - 0.5) * 4 * squeeze, harm) + noise
                    parts.append((rows, y, np.full(2 * n, name, object), np.full(2 * n, train)))
        X, y, language, train = (np.concatenate(part) for part in zip(*parts, strict=True))
        yield Languages(
            "generator",
            f"world {world}",
            X,
            y,
            language,
            train,
            names["source"],
            names["target"],
            {name: middle[name] for name in names["target"]},
        )


def every_dataset(store: str | Path | None, quick: bool) -> Iterator[Languages]:
    """All of them; fewer layers and worlds if ``quick``."""
    yield from generator([0] if quick else [0, 1, 2])
    yield from organism([4] if quick else [3, 4])
    folder = None if store is None else str(store)
    yield from polyrefuse(folder, [3] if quick else [0, 1, 2, 3, 4, 5])
