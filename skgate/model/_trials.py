"""What was found out about a model: which shortcuts leave its activations as they are.

A shortcut that an architecture can't take often gives wrong activations without an error. So each
is tried once per model and compared with plain passes before anything relies on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

# Why a model can't, "" if it can; by backbone, then by what else decides it.
_verdicts: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], str]] = WeakKeyDictionary()


def verdict(backbone: nn.Module, *shortcut: str) -> str | None:
    """Tell why a model can't take a shortcut: "" if it can, None if it was never tried."""
    return _verdicts.get(backbone, {}).get((*shortcut, *_state(backbone)))


def note_verdict(backbone: nn.Module, *shortcut: str, reason: str) -> None:
    """Keep a verdict for later calls with the same model."""
    _verdicts.setdefault(backbone, {})[*shortcut, *_state(backbone)] = reason


def is_exact(backbone: nn.Module) -> bool:
    """Whether a model computes in float32 or wider, so that only rounding in float32 is allowed."""
    return next(backbone.parameters()).dtype in (torch.float32, torch.float64)


def differ(actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], exact: bool) -> bool:
    """Whether two activations differ by more than rounding does (``exact``: in float32)."""
    error = np.linalg.norm(actual - expected)
    return not error <= (1e-4 if exact else 5e-2) * np.linalg.norm(expected)


def _state(backbone: nn.Module) -> tuple[str, ...]:
    dtype = next(backbone.parameters()).dtype
    return str(getattr(backbone.config, "_attn_implementation", None)), str(dtype)
