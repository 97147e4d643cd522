"""What the hooks that read and those that edit the residual stream have in common."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from skgate.model._blocks import list_modules

# Hooks of these modules edit nothing, or only what skgate means to edit.
HARMLESS_HOOK_MODULES = (
    "skgate.model._stream_reading",
    "skgate.model._stream_editing",
    "transformers.utils.output_capturing",
)
_running = threading.local()


@contextmanager
def innermost(user: object) -> Iterator[None]:
    """Let only the hooks of ``user`` act in this thread, except inside nested contexts."""
    stack: list[object] = _running.__dict__.setdefault("stack", [])
    stack.append(user)
    try:
        yield
    finally:
        stack.pop()


def acts(user: object) -> bool:
    stack: list[object] = _running.__dict__.get("stack", [])
    return bool(stack) and stack[-1] is user


def is_edited(module: nn.Module) -> bool:
    """Whether something may edit what ``module`` computes without changing its fingerprints.

    That is: forward hooks of others, a ``forward`` replaced on an object (except by accelerate),
    parametrizations, or autocast.
    """
    if any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")):
        return True
    registries: list[Any] = [
        torch_module._global_forward_hooks,  # noqa: SLF001  (torch: no public way)
        torch_module._global_forward_pre_hooks,  # noqa: SLF001
    ]
    for child in list_modules(module):
        if "forward" in child.__dict__ and not hasattr(child, "_hf_hook"):
            return True
        if child._modules.get("parametrizations"):  # noqa: SLF001  (is_parametrized is slow)
            return True
        # Torch has no public way to list hooks; None and empty dicts are left out.
        registries += filter(None, (child._forward_hooks, child._forward_pre_hooks))  # noqa: SLF001
    return any(
        getattr(hook, "__module__", None) not in HARMLESS_HOOK_MODULES
        for hooks in registries
        for hook in hooks.values()
    )


def hidden_of(output: Any) -> torch.Tensor:
    """Find the residual stream in what a block returns, perhaps with attention weights."""
    hidden = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(hidden, torch.Tensor):
        raise RuntimeError(
            f"Got a block that returns {type(hidden).__name__}, expected a Tensor, alone or first "
            "in a tuple or list. This architecture is not supported."
        )
    return hidden


def check_shape(hidden: torch.Tensor, expected: Sequence[int]) -> None:
    n_prompts, n_tokens = expected
    if hidden.dim() != 3:
        raise RuntimeError(
            f"Got a block's output of shape {tuple(hidden.shape)}, expected ({n_prompts}, "
            f"{n_tokens}, d): prompts, tokens, and one vector for each token. Architectures with "
            "several residual streams, or without one, are not supported."
        )
    if tuple(hidden.shape[:2]) != (n_prompts, n_tokens):
        raise RuntimeError(
            f"Got a block's output of shape {tuple(hidden.shape)}, expected ({n_prompts}, "
            f"{n_tokens}) prompts and tokens first. Models whose blocks use another order are not "
            "supported."
        )


def select_tokens(
    hidden: torch.Tensor, attention_mask: torch.Tensor, indices: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """Read some tokens of each prompt, or their mean, shape (n_prompts, n_indices, d)."""
    rows = [
        _average(hidden, attention_mask) if index is None else pick_token(hidden, index).float()
        for index in indices
    ]
    return torch.stack(rows, dim=1)


def _average(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Average over the unmasked tokens of each prompt, shape (n_prompts, d)."""
    weight = attention_mask.to(hidden.device, torch.float32)
    total = torch.einsum("nt,ntd->nd", weight, hidden.float())
    return total / weight.sum(1, keepdim=True)


def pick_token(hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Pick one token of each prompt, shape (n_prompts, d)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), index.to(hidden.device)]


_in_eval: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()
_in_eval_lock = threading.Lock()


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off; restore all training flags when the last thread is done."""
    with _in_eval_lock:
        users, training = _in_eval.get(module, (0, []))
        training = training + [child for child in list_modules(module) if child.training]
        for child in training:
            child.training = False
        _in_eval[module] = (users + 1, training)
    try:
        yield
    finally:
        with _in_eval_lock:
            users, training = _in_eval.pop(module)
            if users > 1:
                _in_eval[module] = (users - 1, training)
            else:
                for child in training:
                    child.training = True
