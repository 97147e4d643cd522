"""Scikit-learn estimators that make language models act on the harm they already see.

The public names are imported when first used, so that ``import skgate`` loads neither torch
nor transformers.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skgate._provenance import ActivationSource
    from skgate.activations._transformer import ActivationTransformer
    from skgate.activations.store._store import ActivationStore
    from skgate.gate._latent_gate import LatentGate
    from skgate.gate._operating_point import OperatingPoint
    from skgate.steering._wrapper import SteeringWrapper

    from . import datasets, distributed, inspection, judges, metrics

__version__ = version("skgate")

__all__ = [
    "ActivationSource",
    "ActivationStore",
    "ActivationTransformer",
    "LatentGate",
    "OperatingPoint",
    "SteeringWrapper",
    "datasets",
    "distributed",
    "inspection",
    "judges",
    "metrics",
]

_HOME = {
    "ActivationSource": "._provenance",
    "ActivationStore": ".activations.store._store",
    "ActivationTransformer": ".activations._transformer",
    "LatentGate": ".gate._latent_gate",
    "OperatingPoint": ".gate._operating_point",
    "SteeringWrapper": ".steering._wrapper",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name], __name__), name)
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
