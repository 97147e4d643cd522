"""Caches of activations between calls, in memory and on disk."""

from __future__ import annotations

from skgate.activations.store._store import ActivationStore, StoreInfo

__all__ = ["ActivationStore", "StoreInfo"]
