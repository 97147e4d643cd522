"""Activations of prompts: the transformer, and the store that caches them on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader  # type: ignore[import-untyped]  # (has no type hints)

from skgate._provenance import ActivationSource
from skgate.activations.store import ActivationStore, StoreInfo

if TYPE_CHECKING:
    from skgate.activations._transformer import ActivationTransformer

__all__ = ["ActivationSource", "ActivationStore", "ActivationTransformer", "StoreInfo"]

# It needs torch, which a process that only uses the store need not load.
__getattr__, _, _ = lazy_loader.attach(
    __name__, submod_attrs={"_transformer": ["ActivationTransformer"]}
)


def __dir__() -> list[str]:
    return __all__
