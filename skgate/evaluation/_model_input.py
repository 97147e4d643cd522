"""Prompts and languages as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skgate._messages import Prompt
from skgate.steering._pipeline import find_parts

_OF_A_WRAPPER = ("gate", "model", "tokenizer", "layer")  # parameters


def make_input(model: Any, prompts: Sequence[Prompt], languages: Any) -> tuple[Any, Any]:
    """Make what a model generates from.

    Parameters
    ----------
    model : object
        What generates.
    prompts : sequence of length n_prompts
        The prompts.
    languages : array-like of str of shape (n_prompts,) or None
        Their languages.

    Returns
    -------
    X : list or DataFrame of length n_prompts
        A frame if the pipeline of a wrapper reads columns.
    language : array-like of str or None
        None if they are not known, or a column of ``X``.
    """
    if all(hasattr(model, name) for name in _OF_A_WRAPPER):
        return find_parts(model).join(prompts, languages)
    return list(prompts), languages
