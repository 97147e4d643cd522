"""One batch of prompts through ``model.generate``, and which ways of decoding can be steered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from skgate.model._batching import left_padded_mask
from skgate.model._vocabulary import count_tokens, describe_unknown_token

if TYPE_CHECKING:
    from skgate.model._loading import LanguageModel

_OWN_INPUTS = ("inputs", "input_ids", "attention_mask", "inputs_embeds", "position_ids")
_TOKENS = ("inputs", "input_ids")
_DEFAULT_LENGTH = 20  # transformers' GenerationConfig().max_length
# Steering needs a pass over the whole prompt and then one token at a time. These don't do that.
_UNSUPPORTED = {
    "assistant_model": "assisted decoding",
    "prompt_lookup_num_tokens": "prompt-lookup decoding",
    "assistant_early_exit": "early-exit decoding",
    "prefill_chunk_size": "a prefill in chunks",
    "custom_generate": "a custom decoding loop",
    "negative_prompt_ids": "classifier-free guidance",
    "guidance_scale": "classifier-free guidance",
    "adapter_names": "one adapter per row",
    "use_mtp": "multi-token prediction",
    "token_healing": "token healing",
    "trust_remote_code": "a decoding loop from the hub",
}
_OFF = {"guidance_scale": 1}  # besides None and False
# They change what ``generate`` returns. (Texts have no place for them.)
_FURTHER_OUTPUTS = (
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_hidden_states",
    "output_attentions",
)


def find_option(name: str, options: Mapping[str, Any], model: Any, tokenizer: Any = None) -> Any:
    """Find the value of an option as ``model.generate`` does.

    Parameters
    ----------
    name : str
        The option, such as "num_beams".
    options : mapping
        Arguments of ``model.generate``.
    model : PreTrainedModel
        The model, for its ``generation_config``.
    tokenizer : PreTrainedTokenizerBase or None, default=None
        Searched last, for the ids of special tokens.

    Returns
    -------
    value : object
        The first value that is not None. The arguments are searched first, then a
        ``generation_config`` among them, the model's, and the tokenizer. None if there is none.
    """
    places = (options.get("generation_config"), getattr(model, "generation_config", None))
    found = [options.get(name), *(getattr(place, name, None) for place in (*places, tokenizer))]
    return next((value for value in found if value is not None), None)


def find_reply_length(options: Mapping[str, Any], model: Any) -> tuple[str, int | None]:
    """Find the option that limits the length of a reply, and its value.

    Parameters
    ----------
    options : mapping
        Arguments of ``model.generate``.
    model : PreTrainedModel
        The model, for its ``generation_config``.

    Returns
    -------
    name : {"max_new_tokens", "max_length"}
        The option that counts. "max_length" includes the prompt.
    value : int or None
        Its value; None if it is transformers' own default, which stops at the last position.
    """
    n_new = find_option("max_new_tokens", options, model)
    if n_new is not None:
        return "max_new_tokens", int(n_new)
    length = find_option("max_length", options, model)
    is_default = length is None or length == _DEFAULT_LENGTH
    return "max_length", None if is_default else int(length)


def check_decoding(model: Any, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for ways of decoding, and for inputs, that can't be steered.

    Parameters
    ----------
    model : PreTrainedModel
        The model, whose ``generation_config`` counts too.
    options : mapping
        Arguments of ``model.generate``.
    """
    for name, what in _UNSUPPORTED.items():
        value = find_option(name, options, model)
        if value is not None and value is not False and value != _OFF.get(name):
            shown = value if isinstance(value, int | float | str) else type(value).__name__
            raise ValueError(
                f"Got {name}={shown!r}, expected None: {what} is not supported while steering."
            )
    kind = find_option("cache_implementation", options, model)
    if kind == "paged":
        raise ValueError(
            "Got cache_implementation='paged', expected another cache: it means continuous "
            "batching, which packs the tokens of several prompts into one forward pass and can't "
            "be steered."
        )
    if str(kind).startswith("offloaded") and not torch.accelerator.is_available():
        raise ValueError(
            f"Got cache_implementation={kind!r} on a machine without an accelerator, expected "
            "another cache: there is nothing to offload from."
        )
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if str(attention).startswith("paged"):
        raise ValueError(
            f"Got a model with attn_implementation={attention!r}, expected one such as 'sdpa': "
            "paged attention is for continuous batching, which can't be steered."
        )
    _check_tokens(model, options)


def _check_tokens(model: Any, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for token ids without an embedding and for padding on the right."""
    n_rows = count_tokens(model.get_input_embeddings())
    for name in _TOKENS:
        tokens = options.get(name)
        if n_rows is None or not isinstance(tokens, torch.Tensor) or not tokens.numel():
            continue
        if tokens.max() >= n_rows:
            raise ValueError(f"Got {name} with {describe_unknown_token(int(tokens.max()), n_rows)}")
    mask = options.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.numel():
        padded = (mask[:, -1] == 0).nonzero()[:, 0].tolist()
        if padded:
            raise ValueError(
                f"Got an attention_mask with padding on the right in rows {padded[:5]}, expected "
                "padding on the left: generation continues after the last column. Pass "
                "padding_side='left' to the tokenizer."
            )


def check_own_inputs(options: Mapping[str, Any]) -> None:
    """Raise a ValueError if ``options`` contain model inputs: the prompts are the input."""
    for name in _OWN_INPUTS:
        if options.get(name) is not None:
            raise ValueError(f"Got {name}, expected none: the prompts are the input.")
    if options.get("past_key_values") is not None:
        raise ValueError(
            "Got past_key_values, expected none: each batch has a cache of its own. Choose its "
            "kind by cache_implementation."
        )


def check_outputs(model: Any, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for options that ask for more than texts.

    Parameters
    ----------
    model : PreTrainedModel
        The model, whose ``generation_config`` counts too.
    options : mapping
        Arguments of ``model.generate``.
    """
    for name in _FURTHER_OUTPUTS:
        # The first one decides. Without it, what a model asks for by itself is never returned.
        own = model if name == _FURTHER_OUTPUTS[0] else None
        value = find_option(name, options, own)
        if value:
            where = "" if options.get(name) else " in the generation_config"
            raise ValueError(
                f"Got {name}={value!r}{where}, expected False: a SteeringWrapper generates texts "
                "and nothing else. Use the steered view that attach() gives; its generate() "
                "returns what the model's does."
            )


def generate_batch(
    language_model: LanguageModel,
    prompts: Sequence[npt.NDArray[np.int64]],
    options: Mapping[str, Any],
) -> list[list[list[int]]]:
    """Generate from one left-padded batch.

    Parameters
    ----------
    language_model : LanguageModel
        A causal model.
    prompts : sequence of ndarray of int
        Token ids of each prompt.
    options : mapping
        Further arguments of ``model.generate``.

    Returns
    -------
    replies : list of list of list of int
        Token ids of the return sequences of each prompt, up to the one that ends them, if any.
    """
    model, tokenizer = language_model.model, language_model.tokenizer
    device = language_model.input_device
    attention_mask = left_padded_mask([len(ids) for ids in prompts])
    width = attention_mask.shape[1]
    ends = _find_ends(language_model, options)
    pad = find_option("pad_token_id", options, model, tokenizer)
    if pad is None:
        pad = min(ends, default=0)
    input_ids = torch.full((len(prompts), width), pad, dtype=torch.int64)
    for row, ids in enumerate(prompts):
        input_ids[row, width - len(ids) :] = torch.from_numpy(ids)
    output: Any = model.generate(  # type: ignore[operator]  # (a mixin's method, unknown to mypy)
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        **{"disable_compile": True, **options, "pad_token_id": pad},
    )
    replies = [_through_end(tokens, ends) for tokens in output[:, width:].tolist()]
    n_sequences = len(replies) // len(prompts)
    return [replies[i : i + n_sequences] for i in range(0, len(replies), n_sequences)]


def decode_replies(
    language_model: LanguageModel, replies: Sequence[list[int]], options: Mapping[str, Any]
) -> list[str]:
    """Turn the token ids of replies into text.

    Parameters
    ----------
    language_model : LanguageModel
        The model that wrote them.
    replies : sequence of list of int
        As :func:`generate_batch` returns them.
    options : mapping
        The arguments of ``model.generate``.

    Returns
    -------
    texts : list of str
        Without special tokens.
    """
    ends = _find_ends(language_model, options)
    texts = language_model.tokenizer.batch_decode(
        [tokens[:-1] if tokens and tokens[-1] in ends else tokens for tokens in replies],
        skip_special_tokens=True,
    )
    return list(texts)


def _find_ends(language_model: LanguageModel, options: Mapping[str, Any]) -> set[int]:
    """Find the tokens that end a sequence."""
    end = find_option("eos_token_id", options, language_model.model, language_model.tokenizer)
    return set() if end is None else {int(token) for token in np.atleast_1d(end)}


def _through_end(tokens: list[int], ends: set[int]) -> list[int]:
    """Cut a sequence after its first end-of-sequence token; only padding follows it."""
    return tokens[: next((i + 1 for i, one in enumerate(tokens) if one in ends), len(tokens))]
