"""The check of the replies that a judge gets."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any


def check_replies(replies: Any) -> list[str]:
    """Turn a list, Series or array of texts into a list of str; empty texts are allowed.

    Parameters
    ----------
    replies : array-like of str of shape (n_replies,)
        The replies.

    Returns
    -------
    items : list of str of length n_replies
        The replies.

    Raises
    ------
    TypeError
        If ``replies`` is not a collection, or an item is not a str.
    ValueError
        If ``replies`` is a single string, or not one-dimensional.
    """
    expected = "expected a list, Series or array of str, one per reply"
    if isinstance(replies, str | bytes):
        raise ValueError(f"Got replies as a single text, {expected}. Wrap it in a list: [reply].")
    if (
        isinstance(replies, Mapping | Set)
        or not hasattr(replies, "__len__")
        or not hasattr(replies, "__iter__")
    ):
        raise TypeError(f"Got replies of type {type(replies).__name__}, {expected}.")
    shape = getattr(replies, "shape", None)
    if shape is not None and len(shape) != 1:
        raise ValueError(f"Got replies of shape {tuple(shape)}, {expected}.")
    items = list(replies)
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise TypeError(
                f"Got replies[{i}]={item!r} of type {type(item).__name__}, expected a str "
                "(an empty one if the model said nothing)."
            )
    return items
