"""The loop that generates all replies, steered or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from skgate._messages import PromptError
from skgate.model._batching import left_padded_mask, length_batches, token_budget, widest_pair
from skgate.model._lengths import count_positions
from skgate.model._padding_limits import longest_padded
from skgate.model._residual_stream import eval_mode
from skgate.model._rope import has_dynamic_frequencies, length_boundaries, reset_positions
from skgate.model._stream_editing import steer_block
from skgate.model._vocabulary import check_token_ids
from skgate.steering._generation import (
    check_decoding,
    check_outputs,
    check_own_inputs,
    decode_replies,
    find_option,
    find_reply_length,
    generate_batch,
)
from skgate.steering._padding import check_generate, left_padding_is_exact

if TYPE_CHECKING:
    from skgate._messages import Prompt
    from skgate.activations._reader import PromptReader
    from skgate.model._prompts import Request
    from skgate.steering._router import RouteOfBatch

_BATCH_TOKENS_ON_CPU = 2048

Replies = list[str] | list[list[str]]


class EngineParams(Protocol):
    """The parameters of a SteeringWrapper that say how it generates."""

    generate_kwargs: Mapping[str, Any] | None
    batch_tokens: int | str
    verbose: bool


@dataclass(frozen=True)
class Engine:
    """A causal language model and how it generates.

    Attributes
    ----------
    reader : PromptReader
        The model, and how prompts become token ids.
    options : mapping
        Arguments of ``model.generate``.
    batch_tokens : int or "auto"
        Prompt tokens per batch, padding included.
    verbose : bool
        Whether to show a progress bar.
    """

    reader: PromptReader
    options: Mapping[str, Any]
    batch_tokens: int | str
    verbose: bool

    @classmethod
    def of(
        cls, params: EngineParams, reader: PromptReader, generate_kwargs: Mapping[str, Any]
    ) -> Engine:
        """Make the engine of a SteeringWrapper for one call.

        Parameters
        ----------
        params : SteeringWrapper
            Only its parameters ``generate_kwargs``, ``batch_tokens`` and ``verbose`` are used.
        reader : PromptReader
            The model, and how prompts become token ids.
        generate_kwargs : mapping
            The call's own arguments of ``model.generate``, which override the parameter's.

        Returns
        -------
        engine : Engine
            Ready to generate.

        Raises
        ------
        ValueError
            If an option can't be combined with steering, or asks for more than texts.
        """
        options = {**(params.generate_kwargs or {}), **generate_kwargs}
        check_own_inputs(options)
        check_outputs(reader.language_model.model, options)
        check_decoding(reader.language_model.model, options)
        return cls(reader, options, params.batch_tokens, params.verbose)

    def generate(
        self,
        prompts: Sequence[Prompt],
        layers: Sequence[int],
        direction: npt.NDArray[np.float64],
        route: RouteOfBatch,
    ) -> Replies:
        """Generate replies while a block's output is edited.

        The parameters are those of :meth:`generate_tokens`.

        Returns
        -------
        replies : list of str, or list of list of str with several return sequences
            In the order of the prompts.
        """
        found = self.generate_tokens(prompts, layers, direction, route)
        decode = partial(decode_replies, self.reader.language_model, options=self.options)
        if len(found[0]) == 1:
            return decode([sequences[0] for sequences in found])
        return [decode(sequences) for sequences in found]

    def generate_tokens(
        self,
        prompts: Sequence[Prompt],
        layers: Sequence[int],
        direction: npt.NDArray[np.float64],
        route: RouteOfBatch,
    ) -> list[list[list[int]]]:
        """Generate the token ids of replies while a block's output is edited.

        The blocks are read at the reader's positions.

        Parameters
        ----------
        prompts : sequence of str or list of dict
            Checked prompts.
        layers : sequence of int
            0-based blocks whose outputs the route gets. That of the deepest one is edited.
        direction : ndarray of shape (d,)
            The unit direction of the edits.
        route : callable
            Takes the places of a batch's prompts and makes the route of that batch, as
            :func:`skgate.model._stream_editing.steer_block` takes it.

        Returns
        -------
        replies : list of list of list of int
            The return sequences of each prompt, in the order of the prompts. A sequence that has
            ended has its end-of-sequence token.

        Raises
        ------
        PromptError
            If a prompt is too long, by itself or with its reply, or has a token without embedding.
        """
        language_model = self.reader.language_model
        try:
            requests = self.reader.encode(prompts)
        except PromptError as error:
            error.name = "prompts"  # what generate calls them
            raise
        check_token_ids(requests, language_model.embeddings, "prompts")
        self._check_lengths(requests)
        replies: list[list[list[int]]] = [[]] * len(requests)
        with (
            tqdm(
                total=len(requests), desc="replies", unit="prompt", disable=not self.verbose
            ) as progress,
            eval_mode(language_model.backbone),
        ):
            for batch in self._batches(requests, max(layers)):
                reset_positions(language_model.backbone)
                with steer_block(
                    language_model.stack,
                    language_model.blocks,
                    layers,
                    torch.from_numpy(direction),
                    route(batch),
                    offsets=_offsets([requests[i] for i in batch]),
                    mask=left_padded_mask([len(requests[i].ids) for i in batch]),
                ):
                    sequences = generate_batch(
                        language_model, [requests[i].ids for i in batch], self._options_of(batch)
                    )
                for i, found in zip(batch, sequences, strict=True):
                    replies[i] = found
                progress.update(len(batch))
        return replies

    def _check_lengths(self, requests: Sequence[Request]) -> None:
        """Raise an error for a prompt whose reply may run out of learned positions."""
        language_model = self.reader.language_model
        backbone: Any = language_model.backbone
        n_positions = count_positions(backbone.config, backbone)
        option, n_tokens = find_reply_length(self.options, language_model.model)
        if n_positions is None or n_tokens is None:
            return
        for row, request in enumerate(requests):
            n_prompt = len(request.ids)
            total = n_tokens + (n_prompt if option == "max_new_tokens" else 0)
            if total > n_positions:
                raise PromptError(
                    row,
                    f"has {n_prompt} tokens, which makes up to {total} with {option}={n_tokens}, "
                    f"expected at most {n_positions}: the model has only that many learned "
                    f"positions. Shorten the prompt, or lower {option}.",
                    "prompts",
                )

    def _batches(self, requests: Sequence[Request], layer: int) -> list[list[int]]:
        """Split prompts into batches, the longest first, padded only if that changes nothing."""
        language_model, use_cache = self.reader.language_model, self.options.get("use_cache")
        check_generate(language_model, layer, requests[0], use_cache)
        lengths = [len(request.ids) for request in requests]
        budget = token_budget(self.batch_tokens, language_model.input_device, _BATCH_TOKENS_ON_CPU)
        config = language_model.backbone.config
        sensitive = has_dynamic_frequencies(config) or longest_padded(config) is not None
        if len(set(lengths)) == 1 or sensitive:
            return length_batches(lengths, budget, padding=False)
        boundaries = length_boundaries(config)
        long, short = (requests[i] for i in widest_pair(lengths, boundaries))
        padding = len(long.ids) == len(short.ids) or left_padding_is_exact(
            language_model, layer, long, short, use_cache
        )
        return length_batches(lengths, budget, padding=padding, boundaries=boundaries)

    def _options_of(self, batch: list[int]) -> Mapping[str, Any]:
        """Make options that give a callback a prompt's place in the call, not in the batch."""
        allowed = self.options.get("prefix_allowed_tokens_fn")
        if allowed is None:
            return self.options
        model = self.reader.language_model.model
        beams, sequences = (
            find_option(name, self.options, model) or 1
            for name in ("num_beams", "num_return_sequences")
        )
        repeats = sequences if beams == 1 else 1  # without beams, a row is a return sequence
        return {
            **self.options,
            "prefix_allowed_tokens_fn": lambda row, tokens: allowed(batch[row // repeats], tokens),
        }


def _offsets(requests: Sequence[Request]) -> list[torch.Tensor | None]:
    """Count how far before each prompt's end the gate reads each token; None for the mean."""
    last = torch.tensor([len(request.ids) - 1 for request in requests])
    return [
        None if None in column else torch.tensor(column) - last
        for column in zip(*(request.indices for request in requests), strict=True)
    ]
