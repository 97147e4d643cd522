"""From prompts to the very token ids that generation will see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skgate.model._fingerprint import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from skgate._validation import Message, Prompt


class EncodedPrompt(NamedTuple):
    """Token ids of a formatted prompt and where the user's instruction ends in them."""

    ids: npt.NDArray[np.int64]  # (n_tokens,)
    instruction_end: int | None  # index of the instruction's last token; None if not asked for


@dataclass(frozen=True)
class PromptFormat:
    """How prompts become text.

    Attributes
    ----------
    chat_template : bool
        Whether prompts go through the tokenizer's chat template.
    system_prompt : str or None
        Put before prompts that have no system message of their own.
    chat_template_kwargs : mapping
        Further arguments of ``tokenizer.apply_chat_template``.
    truncate : bool
        Whether instructions that exceed the model's context are cut at their end.
    """

    chat_template: bool = True
    system_prompt: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    truncate: bool = False

    def fingerprint(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Hash everything that decides the text around a prompt."""
        if not self.chat_template:
            return digest("plain")
        template = self.chat_template_kwargs.get("chat_template", tokenizer.chat_template)
        arguments = _stable(sorted(self.chat_template_kwargs.items()))
        return digest(template, self.system_prompt, arguments)

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise a ValueError if ``tokenizer`` can't format prompts this way."""
        if not self.chat_template:
            for name in ("system_prompt", "chat_template_kwargs"):
                if getattr(self, name):
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} has no effect with chat_template=False; "
                        "expected None, or chat_template=True."
                    )
            return
        for name in ("add_generation_prompt", "tokenize", "return_dict", "conversation"):
            if name in self.chat_template_kwargs:
                raise ValueError(
                    f"chat_template_kwargs has {name!r}, which is set already; expected further "
                    "arguments of the template."
                )
        if not (tokenizer.chat_template or self.chat_template_kwargs.get("chat_template")):
            raise ValueError(
                "chat_template=True, but the tokenizer has no chat template. Pass "
                "chat_template=False to use prompts as they are (base and encoder models), or a "
                "template as chat_template_kwargs={'chat_template': ...}."
            )


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    prompt_format: PromptFormat,
    *,
    max_length: int | None,
    find_instruction: bool = False,
) -> list[EncodedPrompt]:
    """Format and tokenize prompts.

    The chat template is rendered once, with ``add_generation_prompt=True``, and its text is
    tokenized without adding special tokens a second time, as
    ``tokenizer.apply_chat_template`` itself does it.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    prompts : sequence of str or list of dict
        Checked prompts.
    prompt_format : PromptFormat
        How prompts become text.
    max_length : int or None
        Tokens the model accepts.
    find_instruction : bool, default=False
        Whether to find the last token of every instruction; needs a fast tokenizer.

    Returns
    -------
    encoded : list of EncodedPrompt
        One per prompt.

    Raises
    ------
    ValueError
        If a prompt is longer than ``max_length`` and may not be cut, or can't be formatted.
    """
    prompt_format.check(tokenizer)
    renderer = _Renderer(tokenizer, prompt_format)
    texts = [renderer.render(prompt, f"X[{i}]") for i, prompt in enumerate(prompts)]
    ids = _tokenize(tokenizer, texts, prompt_format)["input_ids"]
    encoded = []
    for i, prompt in enumerate(prompts):
        tokens, end = ids[i], None
        too_long = max_length is not None and len(tokens) > max_length
        if too_long and not prompt_format.truncate:
            raise ValueError(
                f"X[{i}] has {len(tokens)} tokens, more than the {max_length} that the model "
                "accepts; expected a shorter prompt, or truncate=True to cut the instruction."
            )
        if too_long or find_instruction:
            start, end = renderer.find_instruction(prompt, texts[i], f"X[{i}]")
        if too_long and max_length is not None and end is not None:
            excess = len(tokens) - max_length
            if end - excess < start:
                raise ValueError(
                    f"X[{i}] has {len(tokens)} tokens, of which the text around the instruction "
                    f"alone leaves no room in the {max_length} that the model accepts."
                )
            tokens = tokens[: end + 1 - excess] + tokens[end + 1 :]
            end -= excess
        if not tokens:
            raise ValueError(f"X[{i}] has no tokens; expected a prompt that the tokenizer knows.")
        encoded.append(EncodedPrompt(np.asarray(tokens, dtype=np.int64), end))
    return encoded


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
        self._plain_surroundings: tuple[str, str] | None = None

    def render(self, prompt: Prompt, name: str) -> str:
        if not self.format.chat_template:
            if not isinstance(prompt, str):
                raise ValueError(
                    f"{name} is a conversation, which needs chat_template=True; expected a str."
                )
            return prompt
        return self._apply(self._conversation(prompt), name)

    def find_instruction(self, prompt: Prompt, text: str, name: str) -> tuple[int, int]:
        """Indices of the tokens that hold the first and the last character of the instruction."""
        if not self.tokenizer.is_fast:
            raise ValueError(
                "position='instruction' and truncate=True need a fast tokenizer, which knows the "
                f"text behind each token; got {type(self.tokenizer).__name__}."
            )
        prefix, suffix = self._surroundings(prompt)
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
            raise ValueError(
                f"{name} has an instruction of which the tokenizer makes no tokens; expected one "
                "that it knows."
            )
        return inside[0], inside[-1]

    def _conversation(self, prompt: Prompt) -> list[Message]:
        messages: list[Message] = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        )
        if self.format.system_prompt is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.format.system_prompt})
        return messages

    def _apply(self, messages: list[Message], name: str) -> str:
        try:
            return self.tokenizer.apply_chat_template(  # type: ignore[return-value]  # (a str, not tokenized)
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=True,
                **self.format.chat_template_kwargs,
            )
        except Exception as error:
            raise ValueError(
                f"{name} was refused by the tokenizer's chat template: {error}"
            ) from error

    def _surroundings(self, prompt: Prompt) -> tuple[str, str]:
        """What the template puts before and after the last user message."""
        if not self.format.chat_template:
            return "", ""
        if isinstance(prompt, str):
            if self._plain_surroundings is None:
                self._plain_surroundings = self._surroundings([{"role": "user", "content": prompt}])
            return self._plain_surroundings
        messages = self._conversation(prompt)
        last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
        if last is None:
            raise ValueError(
                "position='instruction' needs a message of the role 'user' in every conversation."
            )
        one, two = (
            self._apply(
                [*messages[:last], {**messages[last], "content": c}, *messages[last + 1 :]],
                "the conversation",
            )
            for c in "ab"
        )
        prefix, suffix = _common_length(one, two), _common_length(one[::-1], two[::-1])
        return one[:prefix], one[len(one) - suffix :]


def _stable(value: Any) -> Any:
    """Put in place of functions what the template sees of them, the same in any process."""
    if isinstance(value, dict):
        return {key: _stable(part) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(_stable, value))
    if not callable(value):
        return value
    from transformers.utils.chat_template_utils import get_json_schema

    try:
        return get_json_schema(value)
    except Exception:  # whatever it is about the function: the template gets it as it is
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _common_length(one: str, two: str) -> int:
    """How many first characters two texts share; they differ somewhere."""
    return next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
