"""The check of what a judge is given."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any


def check_replies(replies: Any) -> list[str]:
    """Turn a list, Series or array of texts into a list of str; empty texts are fine.

    Raises
    ------
    TypeError
        If `replies` is no collection, or an item is not a str.
    ValueError
        If `replies` is a bare string, or not one-dimensional.
    """
    expected = "expected a list, Series or array of str, one per reply"
    if isinstance(replies, str | bytes):
        raise ValueError(
            f"Got replies as a single text but {expected}. Wrap it in a list: [reply]."
        )
    if (
        isinstance(replies, Mapping | Set)
        or not hasattr(replies, "__len__")
        or not hasattr(replies, "__iter__")
    ):
        raise TypeError(f"Got replies of type {type(replies).__name__} but {expected}.")
    shape = getattr(replies, "shape", None)
    if shape is not None and len(shape) != 1:
        raise ValueError(f"Got replies of shape {tuple(shape)} but {expected}.")
    items = list(replies)
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise TypeError(
                f"Got replies[{i}]={item!r} of type {type(item).__name__} but expected a str "
                "(an empty one where the model said nothing)."
            )
    return items
