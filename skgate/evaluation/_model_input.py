"""Prompts and languages as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skgate._messages import Prompt
from skgate.steering._pipeline import find_parts

_OF_A_WRAPPER = ("gate", "model", "tokenizer", "layer")  # parameters


def make_input(model: Any, prompts: Sequence[Prompt], languages: Any) -> tuple[Any, Any]:
    """Make what a model generates from: as :meth:`SteeringParts.join` for a wrapper."""
    if all(hasattr(model, name) for name in _OF_A_WRAPPER):
        return find_parts(model).join(prompts, languages)
    return list(prompts), languages
