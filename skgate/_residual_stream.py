"""The residual stream of a running model: the only hooks in skgate.

Every hook acts only on forward passes of the thread that set it, and is gone when its context
ends, however it ends.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

_HARMLESS_HOOK_MODULES = (__name__, "transformers.utils.output_capturing")


class _Stop(Exception):  # noqa: N818  (not an error: everything wanted has been read)
    """Ends a forward pass after the deepest block that is wanted."""


@torch.no_grad()
def read_blocks(
    backbone: nn.Module,
    blocks: nn.ModuleList,
    layers: Sequence[int],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    index: torch.Tensor | None,
) -> dict[int, torch.Tensor]:
    """Run one batch as deep as the deepest of ``layers`` and read one vector per prompt and layer.

    Parameters
    ----------
    backbone : torch.nn.Module
        The model without its head.
    blocks : torch.nn.ModuleList
        The backbone's blocks.
    layers : sequence of int
        0-based blocks whose outputs are read (before the final norm).
    input_ids, attention_mask : Tensor of shape (n_prompts, n_tokens)
        Right-padded prompts.
    index : Tensor of shape (n_prompts,) or None
        The token to read in every prompt; None for the mean over the unmasked tokens.

    Returns
    -------
    rows : dict of int to Tensor of shape (n_prompts, d)
        float32, on the CPU.

    Raises
    ------
    RuntimeError
        If a block was never seen to run, as in a compiled model.
    """
    deepest = max(layers)
    rows: dict[int, torch.Tensor] = {}
    owner = threading.get_ident()

    def make_hook(layer: int) -> Any:
        def read(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() != owner:
                return
            hidden = output[0] if isinstance(output, tuple) else output
            rows[layer] = _select(hidden, attention_mask, index)
            if layer == deepest:
                raise _Stop

        return read

    handles = [blocks[layer].register_forward_hook(make_hook(layer)) for layer in layers]
    try:
        with _eval_mode(backbone):
            backbone(input_ids=input_ids, attention_mask=attention_mask, **_plain_options(backbone))
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    missing = sorted(set(layers) - set(rows))
    if missing:
        raise RuntimeError(
            f"nothing was read at layer {missing} of {type(backbone).__name__}: the hooks never "
            "fired. Compiled blocks ignore hooks; pass the model as it was before torch.compile."
        )
    return rows


def has_foreign_hooks(module: nn.Module) -> bool:
    """Whether somebody else's forward hooks may edit what ``module`` computes."""
    registries: list[Any] = [
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
    ]
    for child in module.modules():
        registries += [child._forward_hooks, child._forward_pre_hooks]
    return any(
        getattr(hook, "__module__", None) not in _HARMLESS_HOOK_MODULES
        for hooks in registries
        for hook in hooks.values()
    )


def _select(
    hidden: torch.Tensor, attention_mask: torch.Tensor, index: torch.Tensor | None
) -> torch.Tensor:
    if index is None:
        weight = attention_mask.to(hidden.device, torch.float32)
        total = torch.einsum("nt,ntd->nd", weight, hidden.float())
        return (total / weight.sum(1, keepdim=True)).cpu()
    picked = hidden[torch.arange(len(hidden), device=hidden.device), index.to(hidden.device)]
    return picked.float().cpu()


def _plain_options(backbone: nn.Module) -> dict[str, bool]:
    """Options that switch off what reading needs not, as far as the backbone takes them."""
    wanted = {"use_cache": False, "output_hidden_states": False, "output_attentions": False}
    parameters = inspect.signature(backbone.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return wanted
    return {name: value for name, value in wanted.items() if name in parameters}


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off and leave every training flag as it was."""
    training = [child for child in module.modules() if child.training]
    for child in training:
        child.training = False
    try:
        yield
    finally:
        for child in training:
            child.training = True
