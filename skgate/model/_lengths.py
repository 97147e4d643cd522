"""How many tokens a model accepts."""

from __future__ import annotations

from typing import Any

from torch import nn

from skgate.model._blocks import named_text_modules
from skgate.model._rope import scaled_length

_NO_LIMIT = 10**9
_TABLES = (
    "embed_positions",
    "pos_emb",
    "position_embedding",
    "position_embeddings",
    "positions_embed",
    "wpe",
)


def max_prompt_length(config: Any, backbone: nn.Module) -> int | None:
    """Find the most tokens that a model accepts.

    A tokenizer's ``model_max_length`` does not count: the model may accept more.

    Parameters
    ----------
    config : PreTrainedConfig
        The model's configuration.
    backbone : torch.nn.Module
        The model without its language-model head.

    Returns
    -------
    max_length : int or None
        The learned positions, or the stated length, extended by rotary scaling. None if the model
        states no limit.
    """
    learned = count_positions(config, backbone)
    if learned is not None:
        return learned
    stated = _stated_length(config)
    return None if stated is None else scaled_length(config, stated)


def count_positions(config: Any, backbone: nn.Module) -> int | None:
    """Count the positions of a model that looks them up in a table, as GPT-2 does.

    Parameters
    ----------
    config : PreTrainedConfig
        The model's configuration.
    backbone : torch.nn.Module
        The model without its language-model head.

    Returns
    -------
    n_positions : int or None
        Prompt and reply together can't have more tokens. None if positions are computed.
    """
    stated = _stated_length(config)
    if stated is None:
        return None
    for name, module in named_text_modules(backbone):
        last = name.rpartition(".")[2]
        if last in _TABLES and isinstance(module, nn.Embedding):
            # Some tables have a few more rows (OPT's two), which come before the first token.
            n_rows = min(stated, module.num_embeddings)
            # RoBERTa's positions start after that of the padding token.
            padding = module.padding_idx if last == "position_embeddings" else None
            return n_rows if padding is None else n_rows - padding - 1
        table = dict(module.named_buffers(recurse=False)).get("embed_positions")
        if table is not None and table.ndim == 2 and len(table) == stated:  # GPT-J's
            return stated
    return None


def _stated_length(config: Any) -> int | None:
    stated = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(stated) if stated is not None and 0 < stated < _NO_LIMIT else None
