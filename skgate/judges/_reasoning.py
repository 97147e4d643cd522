"""What a model says after its reasoning."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from skgate._base import find_stack_level

# What opens and closes reasoning, as models write it. The chat template may have opened it, so the
# reply may hold the end alone.
_TAGS = [
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3, ...
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
]
# gpt-oss: channels, with their special tokens or decoded without them.
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")
_END_OF_MESSAGE = re.compile(r"<\|(?:return|end|call)\|>")
_PLAIN_CHANNELS = re.compile(r"^\s*analysis(?:(?=[A-Z'\"])|(?=.*assistantfinal))", re.DOTALL)
_PLAIN_FINAL = re.compile(r"assistantfinal")


def cut_reasoning(replies: Sequence[str]) -> list[str]:
    """Leave out the reasoning that replies begin with.

    Parameters
    ----------
    replies : sequence of str
        The replies.

    Returns
    -------
    answers : list of str
        What follows the reasoning; "" for a reply that ends inside it.

    Warns
    -----
    UserWarning
        If replies end inside their reasoning.
    """
    answers = [_answer(reply) for reply in replies]
    n_unfinished = sum(answer is None for answer in answers)
    if n_unfinished:
        warnings.warn(
            f"{n_unfinished} of {len(replies)} replies end inside the model's reasoning, so there "
            "is nothing to judge in them. Expected whole replies: raise max_new_tokens, or turn "
            "reasoning off.",
            UserWarning,
            stacklevel=find_stack_level(),
        )
    return [answer or "" for answer in answers]


def _answer(reply: str) -> str | None:
    """Return what follows the reasoning; None if the reply ends inside it."""
    if _CHANNEL.search(reply) or _PLAIN_CHANNELS.search(reply):
        return _final_channel(reply)
    for start, end in _TAGS:
        before, closed, after = reply.rpartition(end)
        if closed:
            return after
        if before == "" and after.lstrip().startswith(start):
            return None
    return reply


def _final_channel(reply: str) -> str | None:
    channels = list(_CHANNEL.finditer(reply))
    if not channels:
        parts = _PLAIN_FINAL.split(reply, maxsplit=1)
        return parts[1] if len(parts) > 1 else None
    final = [match for match in channels if match[1] == "final"]
    if not final:
        return None
    return _END_OF_MESSAGE.split(reply[final[-1].end() :], maxsplit=1)[0]
