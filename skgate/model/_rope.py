"""Rotary frequencies that depend on how long the longest prompt of a batch is."""

from __future__ import annotations

from typing import Any

from torch import nn

_LENGTH_DEPENDENT = {"dynamic", "longrope"}


def depends_on_length(config: Any) -> bool:
    """Whether a model takes other frequencies for longer prompts."""
    return any(_rope_type(group) in _LENGTH_DEPENDENT for group in _groups(config))


def length_boundaries(config: Any) -> set[int]:
    """Tokens up to which a model takes its short frequencies, and beyond which its long ones.

    Parameters
    ----------
    config : PreTrainedConfig
        The model's.

    Returns
    -------
    boundaries : set of int
        Empty for most models. A batch takes the frequencies of its longest prompt, so a prompt of
        up to so many tokens must not be in one with a longer prompt.
    """
    name = "original_max_position_embeddings"
    elsewhere = getattr(config.get_text_config(), name, None)  # before transformers 5
    stated = {
        group.get(name, elsewhere) for group in _groups(config) if _rope_type(group) == "longrope"
    }
    return {int(boundary) for boundary in stated if boundary}


def is_rewritten(module: nn.Module, name: str) -> bool:
    """Whether the forward pass leaves in a buffer what the last batch took."""
    stated = getattr(module, "rope_type", None)
    types = set(stated.values()) if isinstance(stated, dict) else {stated}
    return (
        bool(types & _LENGTH_DEPENDENT)
        and name.endswith("inv_freq")
        and not name.endswith("original_inv_freq")
    )


def _groups(config: Any) -> list[dict[str, Any]]:
    """The rotary settings; in some models there are some for each type of layer."""
    config = config.get_text_config()
    stated = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [stated, *(group for group in stated.values() if isinstance(group, dict))]


def _rope_type(group: dict[str, Any]) -> str | None:
    return group.get("rope_type", group.get("type"))
