"""The checks of the replies that a judge gets, and of their prompts."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from skgate._validation import check_prompts

if TYPE_CHECKING:
    from skgate._messages import Prompt


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


def check_prompts_of(prompts: Any, n_replies: int, judge: str) -> list[Prompt]:
    """Check that each reply has a prompt.

    Parameters
    ----------
    prompts : list, Series or array of length n_replies
        The prompts: texts or conversations.
    n_replies : int
        The number of replies.
    judge : str
        The judge's name in error messages.

    Returns
    -------
    items : list of str or list of dict
        The prompts.

    Raises
    ------
    ValueError
        If there are no prompts, not as many as replies, or one is not valid.
    """
    expected = "expected one prompt per reply"
    if prompts is None:
        raise ValueError(f"Got prompts=None, {expected}: {judge} reads both.")
    is_empty = not isinstance(prompts, str) and hasattr(prompts, "__len__") and len(prompts) == 0
    items = [] if is_empty else check_prompts(prompts, "prompts")
    if len(items) != n_replies:
        raise ValueError(f"Got {len(items)} prompts and {n_replies} replies, {expected}.")
    return items
