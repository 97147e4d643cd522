"""Results of trials: which shortcuts leave a model's activations unchanged.

A shortcut that an architecture doesn't support often gives wrong activations without an error. So
each shortcut is tried once per model and compared with plain forward passes before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

# Why a shortcut failed, "" if it didn't; by backbone, then by shortcut, attention and dtype.
_results: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], str]] = WeakKeyDictionary()


def trial_result(backbone: nn.Module, *shortcut: str) -> str | None:
    """Return why a shortcut failed on a model: "" if it didn't, None if it was never tried."""
    return _results.get(backbone, {}).get((*shortcut, *_state(backbone)))


def record_trial(backbone: nn.Module, *shortcut: str, failure: str) -> None:
    """Record why a shortcut failed on a model, "" if it didn't, for later calls."""
    _results.setdefault(backbone, {})[*shortcut, *_state(backbone)] = failure


def forget_trials() -> None:
    """Forget all results, so that every shortcut is tried again."""
    _results.clear()


def is_exact(backbone: nn.Module) -> bool:
    """Whether a model computes in float32 or wider, where differences are rounding errors only."""
    return next(backbone.parameters()).dtype in (torch.float32, torch.float64)


def differ(actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], exact: bool) -> bool:
    """Whether two activations differ by more than rounding errors (``exact``: in float32)."""
    error = np.linalg.norm(actual - expected)
    return not error <= (1e-4 if exact else 5e-2) * np.linalg.norm(expected)


def _state(backbone: nn.Module) -> tuple[str, ...]:
    dtype = next(backbone.parameters()).dtype
    return str(getattr(backbone.config, "_attn_implementation", None)), str(dtype)
