"""Turn prompts into exactly the token ids that ``generate`` would see."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skgate._messages import PromptError, find_half_surrogate
from skgate.model._fingerprint import digest
from skgate.model._templates import PROBES, ChatTemplate, stable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from skgate._messages import Message, Prompt

# How messages may end: a last character may share a token with what the template puts after it.
_LAST_CHARACTERS = string.printable + "\u00e9\u043a\u0648\u0905\u3002\u7dd1"


@dataclass(frozen=True)
class Request:
    """One prompt as the model sees it: its token ids, and the tokens to read.

    Attributes
    ----------
    ids : ndarray of shape (n_tokens,)
        The token ids.
    indices : tuple of int or None
        Index of each token to read; None for the mean over all tokens.
    """

    ids: npt.NDArray[np.int64]
    indices: tuple[int | None, ...]

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """Hash of ids and index, for each index: 16 bytes, the same in every process."""
        text = self.ids.astype("<i8").tobytes()
        return tuple(
            hashlib.blake2b(text + f" {index}".encode(), digest_size=16).digest()
            for index in self.indices
        )


@dataclass(frozen=True)
class PromptProbes:
    """Short prompts in a format, as token ids.

    Attributes
    ----------
    suffix : tuple of int
        What the chat template puts after the last user message, whatever the message: the token ids
        that all formatted prompts end with, generation prompt included. Empty without a template.
    ids : tuple of tuple of int
        The token ids of each short prompt.
    """

    suffix: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PromptFormat:
    """How prompts become text.

    Attributes
    ----------
    chat_template : bool
        Whether prompts go through the tokenizer's chat template.
    system_prompt : str or None
        System message of prompts that have none of their own.
    chat_template_kwargs : mapping
        Further arguments of ``tokenizer.apply_chat_template``.
    truncate : bool
        Whether instructions that exceed the model's context are cut at their end.
    template_date : str
        The date shown to templates that read the clock.
    """

    chat_template: bool = True
    system_prompt: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    truncate: bool = False
    template_date: str = "2026-01-01"

    def probe(self, tokenizer: PreTrainedTokenizerBase) -> PromptProbes:
        """Format some short prompts: single messages, with a system message, and several turns."""
        renderer, texts = _Renderer(tokenizer, self), []
        for prompt in _list_probes(conversations=self.chat_template):
            try:
                texts.append(renderer.render(prompt, 0))
            except PromptError:  # the template is not for such conversations
                continue
        suffix = _common_end(texts) if self.chat_template and texts else ""
        varied = [f"{PROBES[0]}{last}{suffix}" for last in _LAST_CHARACTERS] if suffix else []
        tokenized = _tokenize(tokenizer, [*texts, *varied, suffix], self)["input_ids"]
        *ids, alone = map(tuple, tokenized)
        # Words that the tokenizer does not know are one token, which all prompts then share.
        shared = _common_end(ids)[-len(alone) :] if suffix and alone else ()
        return PromptProbes(suffix=shared, ids=tuple(ids[: len(texts)]))

    def template(self, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
        """Make the template that conversations are rendered with."""
        return ChatTemplate(tokenizer, self.chat_template_kwargs, self.template_date)

    def date(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return the date that prompts depend on; "" if no template reads the clock."""
        return self.template(tokenizer).date if self.chat_template else ""

    def fingerprint(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Hash everything that decides the text around a prompt, except the date."""
        if not self.chat_template:
            return digest("plain")
        template = self.chat_template_kwargs.get("chat_template", tokenizer.chat_template)
        arguments = stable(sorted(self.chat_template_kwargs.items()))
        return digest(template, self.system_prompt, arguments)

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise a ValueError if ``tokenizer`` can't format prompts this way."""
        if not self.chat_template:
            for name in ("system_prompt", "chat_template_kwargs"):
                if getattr(self, name):
                    raise ValueError(
                        f"Got {name}={getattr(self, name)!r} with chat_template=False, expected "
                        "None: without a template it has no effect."
                    )
            return
        for name in ("add_generation_prompt", "tokenize", "return_dict", "conversation"):
            if name in self.chat_template_kwargs:
                raise ValueError(
                    f"Got {name!r} in chat_template_kwargs, expected other arguments: skgate sets "
                    "this one itself."
                )
        if not (tokenizer.chat_template or self.chat_template_kwargs.get("chat_template")):
            raise ValueError(
                "Got chat_template=True, but the tokenizer has no chat template. Pass "
                "chat_template=False to use prompts as they are (base and encoder models), or pass "
                "a template: chat_template_kwargs={'chat_template': ...}."
            )
        place = find_half_surrogate(self.system_prompt or "")
        if place is not None:
            raise ValueError(
                f"Got a system_prompt with half a surrogate pair at character {place}, expected "
                "whole characters."
            )
        template = self.template(tokenizer)
        if template.loses("user"):
            raise ValueError(
                "Got a chat_template that renders two different prompts alike, so that the model "
                "would not see them. Expected one that writes the text of the messages, given as a "
                "str or as a list of {'type': 'text', 'text': ...}. Pass another one: "
                "chat_template_kwargs={'chat_template': ...}."
            )
        if self.system_prompt is not None and template.loses("system"):
            raise ValueError(
                "Got a system_prompt, but the chat template does not write system messages. Pass "
                "system_prompt=None, or a template that writes them: "
                "chat_template_kwargs={'chat_template': ...}."
            )


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    prompt_format: PromptFormat,
    *,
    positions: Sequence[str | int],
    max_length: int | None,
) -> list[Request]:
    """Format and tokenize prompts, and find the tokens to read in each.

    The chat template is rendered once, with ``add_generation_prompt=True``. Its text is tokenized
    without adding special tokens a second time, as ``tokenizer.apply_chat_template`` does.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    prompts : sequence of str or list of dict
        Checked prompts.
    prompt_format : PromptFormat
        How prompts become text.
    positions : sequence of {"last", "instruction", "mean"} or negative int
        The tokens to read; "instruction" needs a fast tokenizer.
    max_length : int or None
        The most tokens that the model accepts; None if it states no limit.

    Returns
    -------
    requests : list of Request
        One per prompt, in the same order.

    Raises
    ------
    PromptError
        If a prompt is too long or too short, or can't be formatted. It names the row.
    ValueError
        If the tokenizer doesn't support the format or a position.
    """
    prompt_format.check(tokenizer)
    renderer = _Renderer(tokenizer, prompt_format)
    texts = [renderer.render(prompt, row) for row, prompt in enumerate(prompts)]
    ids = _tokenize(tokenizer, texts, prompt_format)["input_ids"]
    requests = []
    for row, (prompt, text, tokens) in enumerate(zip(prompts, texts, ids, strict=True)):
        excess = len(tokens) - max_length if max_length is not None else 0
        if excess > 0 and not prompt_format.truncate:
            raise PromptError(
                row,
                f"has {len(tokens)} tokens, expected at most {max_length}, which the model "
                "accepts. Shorten the prompt, or pass truncate=True to cut the instruction.",
            )
        end = -1
        if excess > 0 or "instruction" in positions:
            start, end = renderer.find_instruction(prompt, text, row)
            if excess > 0:
                tokens = _cut(tokens, start, end, excess, row)
                end -= excess
        if not tokens:
            raise PromptError(row, "has no tokens; expected a prompt that the tokenizer knows.")
        indices = tuple(
            end if position == "instruction" else _find_position(position, len(tokens), row)
            for position in positions
        )
        requests.append(Request(np.asarray(tokens, dtype=np.int64), indices))
    return requests


def _cut(tokens: list[int], start: int, end: int, excess: int, row: int) -> list[int]:
    """Cut ``excess`` tokens off the end of the instruction, tokens ``start`` to ``end``."""
    if end - excess < start:
        raise PromptError(
            row,
            f"has {len(tokens)} tokens, expected at most {len(tokens) - excess}, which the model "
            "accepts. The text around the instruction alone leaves no room for it.",
        )
    return tokens[: end + 1 - excess] + tokens[end + 1 :]


def _find_position(position: str | int, n_tokens: int, row: int) -> int | None:
    if position == "mean":
        return None
    index = n_tokens + (-1 if position == "last" else int(position))
    if index < 0:
        raise PromptError(
            row,
            f"has {n_tokens} tokens, expected at least {-int(position)} for position={position}.",
        )
    return index


def _tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    prompt_format: PromptFormat,
    **kwargs: Any,
) -> Any:
    return tokenizer(
        texts,
        add_special_tokens=not prompt_format.chat_template,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
        **kwargs,
    )


class _Renderer:
    """Renders prompts through a chat template and finds the instruction in the text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> None:
        self.tokenizer = tokenizer
        self.format = prompt_format
        self.template = prompt_format.template(tokenizer)
        if prompt_format.chat_template:
            self.template.tell_date()
        self._plain_surroundings: tuple[str, str] | None = None

    def render(self, prompt: Prompt, row: int) -> str:
        if not self.format.chat_template:
            if not isinstance(prompt, str):
                raise PromptError(
                    row, "is a conversation, expected a str. Conversations need chat_template=True."
                )
            return prompt
        return self._apply(self._conversation(prompt), row)

    def find_instruction(self, prompt: Prompt, text: str, row: int) -> tuple[int, int]:
        """Find the tokens that hold the first and the last character of the instruction."""
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"Got tokenizer={type(self.tokenizer).__name__}, expected a fast tokenizer. "
                "position='instruction' and truncate=True need the text behind each token, which "
                "only fast tokenizers keep."
            )
        prefix, suffix = self._surroundings(prompt, row)
        body = text[: len(text) - len(suffix)].rstrip()
        offsets = _tokenize(self.tokenizer, [text], self.format, return_offsets_mapping=True)[
            "offset_mapping"
        ][0]
        inside = [
            i
            for i, (start, end) in enumerate(offsets)
            if start < end and start < len(body) and end > len(prefix)
        ]
        if not inside:
            raise PromptError(
                row, "has an instruction without tokens, expected text that the tokenizer knows."
            )
        return inside[0], inside[-1]

    def _conversation(self, prompt: Prompt) -> list[Message]:
        messages: list[Message] = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        )
        if self.format.system_prompt is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.format.system_prompt})
        return messages

    def _apply(self, messages: list[Message], row: int) -> str:
        try:
            return self.template.render(messages)
        except Exception as error:
            raise PromptError(
                row, f"was rejected by the tokenizer's chat template: {error}"
            ) from error

    def _surroundings(self, prompt: Prompt, row: int) -> tuple[str, str]:
        """Find what the template puts before and after the last user message."""
        if not self.format.chat_template:
            return "", ""
        if isinstance(prompt, str):
            if self._plain_surroundings is None:
                message: Message = {"role": "user", "content": prompt}
                self._plain_surroundings = self._surroundings([message], row)
            return self._plain_surroundings
        messages = self._conversation(prompt)
        last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
        if last is None:
            raise PromptError(
                row,
                "has no message of the role 'user', expected one: position='instruction' and "
                "truncate=True look for it.",
            )
        one, two = (
            self._apply(
                [*messages[:last], {**messages[last], "content": c}, *messages[last + 1 :]],
                row,
            )
            for c in PROBES
        )
        if one == two:
            raise PromptError(
                row,
                "has a last message of the user that the chat template does not write, expected "
                "one that it does: position='instruction' and truncate=True look for it.",
            )
        prefix, suffix = _common_length(one, two), _common_length(one[::-1], two[::-1])
        return one[:prefix], one[len(one) - suffix :]


def _common_length(one: str, two: str) -> int:
    """Count the first characters that two different texts share."""
    return next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)


def _list_probes(*, conversations: bool) -> list[Prompt]:
    """List short prompts: single messages, and perhaps ones after a system message or turns."""
    prompts: list[Prompt] = list(PROBES)
    if conversations:
        system, user, assistant = (
            {"role": role, "content": PROBES[0]} for role in ("system", "user", "assistant")
        )
        for content in PROBES:
            last = {"role": "user", "content": content}
            prompts += [[system, last], [user, assistant, last]]
    return prompts


def _common_end(sequences: Sequence[Any]) -> Any:
    """Find the longest end that all of several texts, or tuples of token ids, share."""
    columns = zip(*(sequence[::-1] for sequence in sequences), strict=False)
    n_shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return sequences[0][len(sequences[0]) - n_shared :]
