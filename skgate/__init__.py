"""Scikit-learn estimators that make language models act on the harm they already see.

The public names are imported when first used, so that ``import skgate`` loads neither torch
nor transformers.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import datasets, distributed, inspection, judges, metrics
    from ._activations import ActivationTransformer
    from ._gate import LatentGate
    from ._operating_point import OperatingPoint
    from ._provenance import ActivationSource
    from ._steering import SteeringWrapper
    from ._store import ActivationStore

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
    "ActivationStore": "._store",
    "ActivationTransformer": "._activations",
    "LatentGate": "._gate",
    "OperatingPoint": "._operating_point",
    "SteeringWrapper": "._steering",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name], __name__), name)
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
