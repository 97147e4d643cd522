"""Labelled activations of languages that a gate has to be calibrated on.

PolyRefuse through MiniLM, Gemma-3-270M and Qwen2.5-Coder-1.5B-Instruct, the model organism (see
probe_data.py), and a generator of shifted and squeezed normal distributions whose best boundaries
are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from probe_data import Place, Rows, language_model, minilm, organism

QWEN_TARGETS, GEMMA_TARGETS = ["ja", "ko", "pl", "yo"], ["ar", "ja", "ko", "pl", "ru", "th", "yo"]
WORLDS = 3


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
    params: dict[str, object] = field(default_factory=dict)  # of the gates, beside the defaults

    def rows(self, split: str, language: str) -> np.ndarray:
        """Indices of a language's rows."""
        return np.flatnonzero((self.train == (split == "train")) & (self.language == language))

    @property
    def source_rows(self) -> np.ndarray:
        """Indices of the source languages' train rows."""
        return np.flatnonzero(self.train & np.isin(self.language, self.sources))

    @property
    def pool(self) -> int:
        """Number of shots per class that every target language can give."""
        labels = [self.y[self.rows("train", name)] for name in self.targets]
        return min(int(np.bincount(y, minlength=2).min()) for y in labels)


@dataclass
class Folder:
    """Where activations are kept, and the models that they are read from if they aren't there."""

    activations: Path
    qwen: str | None = None
    gemma: str | None = None

    def read_qwen(self, targets: list[str] = QWEN_TARGETS) -> Rows:
        """Read PolyRefuse through Qwen."""
        return language_model("Qwen", self.qwen, self.activations, targets)

    def read_gemma(self) -> Rows:
        """Read PolyRefuse through Gemma."""
        return language_model("Gemma", self.gemma, self.activations, GEMMA_TARGETS)


def at_places(
    rows: Rows, places: list[Place], name: str, params: dict[str, object] | None = None
) -> Languages:
    """Take the activations at some places, side by side."""
    frame = rows.frame
    return Languages(
        name,
        "+".join(f"{layer} {position}" for layer, position in places),
        rows.read(places, np.ones(len(frame), dtype=bool)),
        frame["harmful"].to_numpy().astype(int),
        frame["language"].to_numpy().astype(object),
        (frame["split"] == "train").to_numpy(),
        rows.sources,
        rows.targets,
        params=params or {},
    )


def last(layer: int) -> list[Place]:
    """The last token of a block."""
    return [(layer, "last")]


def last_and_mean(layer: int) -> list[Place]:
    """The last token and the mean of a block."""
    return [(layer, "last"), (layer, "mean")]


def generator(world: int, d: int = 32) -> Languages:
    """Normal classes of unit spread; the sources' lie 4 apart, their boundaries within 0.5 or so.

    The targets' boundaries are shifted by 1 along the direction of harm, their gaps squeezed to
    0.35 to 1, their spreads 0.8 to 1.2, their directions tilted by about 35 degrees. Fixed before
    any calibration was tried on it.
    """
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
    return Languages(
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


def _qwen(
    layer: int, places: Callable[[int], list[Place]], name: str, **params: object
) -> Callable:
    return lambda folder: [at_places(folder.read_qwen(), places(layer), name, params)]


# What --data can name. Each gives the data set's variants.
DATASETS: dict[str, Callable[[Folder], list[Languages]]] = {
    "minilm": lambda folder: [at_places(minilm(folder.activations), [(3, "mean")], "MiniLM")],
    "gemma": lambda folder: [at_places(folder.read_gemma(), last(12), "Gemma 12 last")],
    "qwen-15": _qwen(15, last, "Qwen 15 last"),
    "qwen-15-rank6": _qwen(15, last, "Qwen 15 last, rank=6, C=1", rank=6, C=1.0),
    "qwen-17": _qwen(17, last, "Qwen 17 last"),
    "qwen-15-both": _qwen(15, last_and_mean, "Qwen 15 last+mean"),
    "qwen-17-both": _qwen(17, last_and_mean, "Qwen 17 last+mean"),
    "organism": lambda folder: [
        at_places(organism(folder.activations), last(4), "organism 4 last"),
    ],
    "organism-both": lambda folder: [
        at_places(organism(folder.activations), last_and_mean(4), "organism 4 last+mean"),
    ],
    "generator": lambda folder: [generator(world) for world in range(WORLDS)],
}
