"""Whether the token ids that a steered view is given are formatted as the gate's prompts are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skgate._base import find_stack_level
from skgate.steering._generation import find_option

if TYPE_CHECKING:
    from skgate.activations._reader import PromptReader

_INPUTS = ("inputs_embeds", "inputs", "input_ids")
_WANTED = "expected input_ids as a tensor of shape (n_prompts, n_tokens)"
_SHOWN = 5


def find_inputs(given: Mapping[str, Any]) -> tuple[str, torch.Tensor] | None:
    """Find the prompts among the arguments of ``generate`` or ``forward``.

    Parameters
    ----------
    given : mapping
        The arguments by name.

    Returns
    -------
    found : tuple of str and Tensor of shape (n_prompts, n_tokens, ...), or None
        The argument's name and value; None if there is none.

    Raises
    ------
    TypeError
        If the prompts are no tensor.
    ValueError
        If the tensor does not have the shape of a batch of prompts.
    """
    name = next((name for name in _INPUTS if given.get(name) is not None), None)
    if name is None:
        return None
    value = given[name]
    if isinstance(value, Mapping):
        raise TypeError(
            f"Got a {type(value).__name__} as {name}, {_WANTED}. Unpack it: generate(**inputs)."
        )
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"Got a {type(value).__name__} as {name}, {_WANTED}.")
    if value.dim() != (3 if name == "inputs_embeds" else 2):
        raise ValueError(f"Got {name} of shape {tuple(value.shape)}, {_WANTED}.")
    return name, value


class InputCheck:
    """Compares the input of a view with what the gate's prompts look like.

    Parameters
    ----------
    reader : PromptReader
        The model, its tokenizer, and how the gate's prompts are formatted.
    on_mismatch : {"raise", "warn"}
        What to do about a prompt that does not end as the gate's prompts do.
    """

    def __init__(self, reader: PromptReader, on_mismatch: str) -> None:
        self._model = reader.language_model.model
        self._tokenizer = reader.language_model.tokenizer
        self._on_mismatch = on_mismatch
        self._format = reader.prompt_format
        self._probes = reader.prompt_format.probe(self._tokenizer)

    def check(self, given: Mapping[str, Any], n_past: int) -> None:
        """Check the input of one call.

        Parameters
        ----------
        given : mapping
            The arguments of ``generate`` or ``forward`` by name.
        n_past : int
            How many tokens before the input are known to the model. With such tokens, an input of
            one token is a generated one, and is not checked.

        Raises
        ------
        ValueError
            If a row begins or ends with padding and no mask says so; or if a prompt does not end
            as the gate's do and ``on_mismatch="raise"``.

        Warns
        -----
        UserWarning
            If a prompt does not end as the gate's do and ``on_mismatch="warn"``.
        """
        found = find_inputs(given)
        name, inputs = found or ("no input_ids", None)
        if inputs is None or name == "inputs_embeds":
            if self._probes.suffix:
                self._report(f"Got {name}, whose last tokens can't be compared with the template's")
            return
        if n_past and inputs.shape[1] == 1:
            return
        rows = inputs.cpu().numpy()
        mask = _find_mask(given, rows.shape)
        if mask is None:
            self._check_padding(rows, self._find_pads(given))
            mask = np.ones(rows.shape, dtype=np.bool_)
        prompts = [row[kept] for row, kept in zip(rows, mask, strict=True)]
        different = [row for row, ids in enumerate(prompts) if not self._fits(ids, n_past)]
        if different:
            self._report(
                f"Got {name} that don't end as the gate's prompts do, in "
                f"{_name_rows(different, len(rows))}"
            )

    def _fits(self, ids: Any, n_past: int) -> bool:
        suffix = self._probes.suffix
        seen = suffix[-len(ids) :] if n_past else suffix  # the cache may hold its beginning
        return not suffix or (len(ids) > 0 and tuple(ids[-len(seen) :].tolist()) == seen)

    def _report(self, problem: str) -> None:
        arguments = [
            f"{name}={value!r}" if len(repr(value)) <= 40 else f"{name}=..."
            for name, value in self._format.chat_template_kwargs.items()
        ]
        call = ", ".join(["messages", "add_generation_prompt=True", *arguments])
        end = self._tokenizer.decode(list(self._probes.suffix))
        message = (
            f"{problem}, expected those of tokenizer.apply_chat_template({call}), which end in "
            f"{end!r}: the gate reads another token than it was fitted on."
        )
        if self._on_mismatch == "raise":
            raise ValueError(f"{message} To go on, use attach(on_template_mismatch='warn').")
        warnings.warn(message, UserWarning, stacklevel=find_stack_level())

    def _find_pads(self, given: Mapping[str, Any]) -> set[int]:
        """Find the tokens that may be padding: ``generate`` pads with eos if there is no other."""
        named = [
            find_option("pad_token_id", given, self._model),
            getattr(self._tokenizer, "pad_token_id", None),
        ]
        if named == [None, None]:
            named = [find_option("eos_token_id", given, self._model, self._tokenizer)]
        return {int(pad) for one in named if one is not None for pad in np.atleast_1d(one)}

    def _check_padding(self, rows: Any, pads: set[int]) -> None:
        """Raise a ValueError for runs of padding longer than the format itself makes."""
        for place, step in (("begin with", 1), ("end in", -1)):
            usual = max((_count_first(ids[::step], pads) for ids in self._probes.ids), default=0)
            padded = [
                row
                for row, ids in enumerate(rows)
                if _count_first(ids[::step].tolist(), pads) > usual
            ]
            if padded:
                raise ValueError(
                    f"Got input_ids that {place} padding (token {sorted(pads)}) in "
                    f"{_name_rows(padded, len(rows))}, and no attention_mask of shape "
                    "(n_prompts, n_tokens), expected one that is 0 at padding. Without it, padding "
                    "counts as part of the prompt."
                )


def _find_mask(given: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """Find which of the input's tokens count; None if no mask of two dimensions says so."""
    mask = given.get("attention_mask")
    if not isinstance(mask, torch.Tensor) or mask.dim() != 2:
        return None
    kept = mask.cpu().numpy()[:, -shape[1] :] != 0  # it covers the tokens in the cache too
    if kept.shape != shape:
        raise ValueError(
            f"Got an attention_mask of shape {tuple(mask.shape)} for input_ids of shape {shape}, "
            "expected one value per token."
        )
    return kept


def _count_first(ids: Sequence[int], pads: set[int]) -> int:
    """Count how many padding tokens come first."""
    return sum(1 for _ in takewhile(pads.__contains__, ids))


def _name_rows(rows: Sequence[int], n_rows: int) -> str:
    """Name rows, such as "rows 1, 3 of 8"."""
    shown = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
    return f"row{'s' if len(rows) > 1 else ''} {shown} of {n_rows}"
