"""Rotary positions: how far they reach, and what of them depends on earlier or longer prompts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from skgate.model._padding_limits import longest_padded

_NO_LIMIT = 10**9
_LENGTH_DEPENDENT = {"dynamic", "longrope"}
_EXTENDING = {"linear", "dynamic", "yarn"}  # the others' stated length counts them
_COUNTED = "gemma3"  # types of models that state the length after linear scaling


def depends_on_length(config: Any) -> bool:
    """Whether a model uses other frequencies for longer prompts."""
    return any(_rope_type(group) in _LENGTH_DEPENDENT for group in _groups(config))


def length_boundaries(config: Any) -> Collection[int]:
    """Find the prompt lengths at which a model treats padding differently.

    Parameters
    ----------
    config : PreTrainedConfig
        The model's configuration.

    Returns
    -------
    boundaries : set of int or range
        Empty for most models. A batch uses the frequencies of its longest prompt, so prompts on
        different sides of a boundary must not share a batch. Dynamic scaling has other frequencies
        for each length above the stated one. Sparse attention allows no padding of prompts that
        have more tokens than it selects.
    """
    selected = longest_padded(config)
    if selected is not None:
        return range(selected, _NO_LIMIT)
    stated = _stated_length(config)
    if has_dynamic_frequencies(config) and stated:
        return range(stated, scaled_length(config, stated))
    return {
        int(original)
        for group in _groups(config)
        if _rope_type(group) == "longrope" and (original := _original_length(config, group))
    }


def has_dynamic_frequencies(config: Any) -> bool:
    """Whether a model has other frequencies for each length above the stated one."""
    return any(_rope_type(group) == "dynamic" for group in _groups(config))


def reset_positions(module: nn.Module) -> None:
    """Make a model forget the lengths and the images that it has seen.

    Otherwise a prompt would get the frequencies of a longer one that ran before it (dynamic
    scaling), or positions moved by the images of an earlier call (``rope_deltas``).

    Parameters
    ----------
    module : torch.nn.Module
        The backbone of a language model.
    """
    if getattr(module, "rope_deltas", None) is not None:
        module.rope_deltas = None  # type: ignore[assignment]  # (no module, as torch's stubs say)
    config = getattr(module, "config", None)
    if config is None or not has_dynamic_frequencies(config):
        return
    for child in module.modules():
        rope_type = getattr(child, "rope_type", None)
        layers = rope_type if isinstance(rope_type, dict) else {"": rope_type}
        for layer, kind in layers.items():
            prefix = f"{layer}_" if layer else ""
            original = getattr(child, f"{prefix}original_inv_freq", None)
            if kind == "dynamic" and original is not None:
                current = getattr(child, f"{prefix}inv_freq")
                setattr(child, f"{prefix}inv_freq", original.to(current.device))
                setattr(child, f"{prefix}max_seq_len_cached", child.original_max_seq_len)


def scaled_length(config: Any, stated: int) -> int:
    """Extend the length that a model states by the scaling of its rotary frequencies.

    Parameters
    ----------
    config : PreTrainedConfig
        The model's configuration.
    stated : int
        Its ``max_position_embeddings``.

    Returns
    -------
    length : int
        At least ``stated``, which may include the scaling: that of Llama 3 and of longrope always
        does.
    """
    text_config = config.get_text_config()
    if str(getattr(text_config, "model_type", "")).startswith(_COUNTED):
        return stated
    lengths = [stated]
    for group in _groups(config):
        factor = group.get("factor")
        if _rope_type(group) in _EXTENDING and isinstance(factor, int | float):
            lengths.append(int((_original_length(config, group) or stated) * factor))
    return max(lengths)


def is_rewritten(module: nn.Module, name: str) -> bool:
    """Whether forward passes overwrite a buffer with the frequencies of their batch."""
    stated = getattr(module, "rope_type", None)
    types = set(stated.values()) if isinstance(stated, dict) else {stated}
    return (
        bool(types & _LENGTH_DEPENDENT)
        and name.endswith("inv_freq")
        and not name.endswith("original_inv_freq")
    )


def _groups(config: Any) -> list[dict[str, Any]]:
    """List the rotary settings. Some models have separate ones per type of layer."""
    config = config.get_text_config()
    stated = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [stated, *(group for group in stated.values() if isinstance(group, dict))]


def _stated_length(config: Any) -> int | None:
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _original_length(config: Any, group: dict[str, Any]) -> int | None:
    """Find the length before scaling, where the configuration states it."""
    name = "original_max_position_embeddings"
    elsewhere = getattr(config.get_text_config(), name, None)  # before transformers 5
    return group.get(name) or elsewhere


def _rope_type(group: dict[str, Any]) -> str | None:
    return group.get("rope_type", group.get("type"))
