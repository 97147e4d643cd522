"""Hooks that read the residual stream of a running model.

Each hook only acts on forward passes of the thread that set it. It is removed when its context
ends, even by an error.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skgate.model._residual_stream import (
    check_shape,
    eval_mode,
    hidden_of,
    innermost,
    pick_token,
    select_tokens,
)

if TYPE_CHECKING:
    from transformers import Cache


class _Stop(Exception):  # noqa: N818  (not an error: everything wanted has been read)
    """Ends a forward pass after the deepest block that is read."""


@torch.no_grad()
def read_blocks(
    backbone: nn.Module,
    blocks: nn.ModuleList,
    layers: Sequence[int],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    indices: Sequence[torch.Tensor | None],
    *,
    past_key_values: Cache | None = None,
    feed_forward: nn.Module | None = None,
) -> dict[int, torch.Tensor]:
    """Run one batch up to the deepest of ``layers``; read some tokens of each prompt and layer.

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
    indices : sequence of Tensor of shape (n_prompts,) or None
        The tokens to read in each prompt; None for the mean over the unmasked tokens.
    past_key_values : Cache or None, default=None
        Keys and values of tokens before each prompt. Those of the prompts are added to it.
    feed_forward : torch.nn.Module or None, default=None
        The feed-forward part of the deepest block, if a single token is read. If given, it only
        gets that token of each prompt: (n_prompts, 1, d) instead of (n_prompts, n_tokens, d). The
        residual connection broadcasts its output to all tokens, and is correct at the one that is
        read.

    Returns
    -------
    rows : dict of int to Tensor of shape (n_prompts, n_indices, d)
        float32, on the CPU.

    Raises
    ------
    RuntimeError
        If the hook of a block never fires, as in a compiled model.
    """
    deepest = max(layers)
    rows: dict[int, torch.Tensor] = {}
    owner = threading.get_ident()

    def make_hook(layer: int) -> Any:
        def read(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() != owner:
                return
            hidden = hidden_of(output)
            check_shape(hidden, attention_mask.shape)
            rows[layer] = select_tokens(
                hidden, attention_mask, indices
            )  # a copy, which frees the rest
            if layer == deepest:
                raise _Stop

        return read

    def narrow(module: nn.Module, args: Any) -> Any:
        if threading.get_ident() != owner or not args:
            return None
        (index,), (hidden, *others) = indices, args
        if index is None or hidden.shape[:2] != attention_mask.shape:
            return None  # (all prompts' tokens may be in one dimension)
        return pick_token(hidden, index)[:, None], *others

    handles = [blocks[layer].register_forward_hook(make_hook(layer)) for layer in layers]
    if feed_forward is not None:
        handles.append(feed_forward.register_forward_pre_hook(narrow))
    try:
        with eval_mode(backbone), innermost(rows):
            backbone(input_ids=input_ids, **_options(backbone, attention_mask, past_key_values))
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    missing = sorted(set(layers) - set(rows))
    if missing:
        raise RuntimeError(
            f"Got no activations at layer {missing} of {type(backbone).__name__}: the hooks never "
            "fired. Compiled blocks ignore hooks; pass the model as it was before torch.compile."
        )
    return {layer: row.cpu() for layer, row in rows.items()}


def _options(
    backbone: nn.Module, attention_mask: torch.Tensor, past_key_values: Cache | None
) -> dict[str, Any]:
    """Choose the arguments of a forward pass, as far as the backbone accepts them.

    They continue from given keys and values, and switch off outputs that are not needed.
    """
    wanted: dict[str, Any] = {
        "attention_mask": attention_mask,
        "use_cache": past_key_values is not None,
        "output_hidden_states": False,
        "output_attentions": False,
    }
    if past_key_values is not None:
        n_prompts, n_tokens = attention_mask.shape
        n_past = past_key_values.get_seq_length()
        positions = torch.arange(n_past, n_past + n_tokens, device=attention_mask.device)
        wanted |= {
            "attention_mask": torch.cat(
                [attention_mask.new_ones(n_prompts, n_past), attention_mask], dim=1
            ),
            "past_key_values": past_key_values,
            "position_ids": positions.expand(n_prompts, n_tokens),
        }
    parameters = inspect.signature(backbone.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return wanted
    return {name: value for name, value in wanted.items() if name in parameters}
