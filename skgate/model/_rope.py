"""Rotary frequencies that depend on the length of the longest prompt in a batch."""

from __future__ import annotations

from typing import Any

from torch import nn

_LENGTH_DEPENDENT = {"dynamic", "longrope"}


def depends_on_length(config: Any) -> bool:
    """Whether a model uses other frequencies for longer prompts."""
    return any(_rope_type(group) in _LENGTH_DEPENDENT for group in _groups(config))


def length_boundaries(config: Any) -> set[int]:
    """Find the prompt lengths above which a model switches to its long frequencies.

    Parameters
    ----------
    config : PreTrainedConfig
        The model's configuration.

    Returns
    -------
    boundaries : set of int
        Empty for most models. A batch uses the frequencies of its longest prompt, so prompts on
        different sides of a boundary must not share a batch.
    """
    name = "original_max_position_embeddings"
    elsewhere = getattr(config.get_text_config(), name, None)  # before transformers 5
    stated = {
        group.get(name, elsewhere) for group in _groups(config) if _rope_type(group) == "longrope"
    }
    return {int(boundary) for boundary in stated if boundary}


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


def _rope_type(group: dict[str, Any]) -> str | None:
    return group.get("rope_type", group.get("type"))
