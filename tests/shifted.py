"""Languages whose scores are shifted and squeezed, and gates, for tests of calibration."""

from __future__ import annotations

from typing import Any

import numpy as np

from skgate import LatentGate

SOURCES = ["de", "en", "es", "fr"]
D = 12


def draw(rng, n_per_class, shift=0.0, squeeze=1.0, place=None, gap=4.0):
    """Rows of a language: labels alternate 0, 1; harm along the first axis; ``place`` on others."""
    y = np.tile([0, 1], n_per_class)
    X = rng.normal(size=(len(y), D))
    X[:, 0] += shift + (y - 0.5) * gap * squeeze
    if place is not None:
        X[:, 1:] += place
    return X, y


def draw_sources(rng, n_per_class=60):
    """Rows of the source languages, each in a place of its own."""
    drawn = [draw(rng, n_per_class, 0.2 * rng.normal(), place=place(name)) for name in SOURCES]
    X, y = (np.concatenate(part) for part in zip(*drawn, strict=True))
    return X, y, np.repeat(SOURCES, 2 * n_per_class)


def place(name):
    """Where the language lies on the axes that have nothing to do with harm."""
    rng = np.random.default_rng([ord(letter) for letter in name])
    return 3 * rng.normal(size=D - 1)


def steered_part(gate: LatentGate) -> np.ndarray:
    """The part of a gate's direction for the place at which a model is steered."""
    places = gate.activation_source_.places
    return np.split(gate.direction_, len(places))[gate.activation_source_.steered_place]


def pooled_gate(**params: Any) -> LatentGate:
    """A gate that has the pooled source's boundary wherever it isn't told a language it knows."""
    return LatentGate(**{"unknown_language": "source", **params})
