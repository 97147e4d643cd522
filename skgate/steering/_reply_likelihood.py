"""How likely a given reply to a prompt is while the model is steered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from skgate.activations._forward import compute_prefix, reason_against_prefix
from skgate.model._residual_stream import eval_mode
from skgate.model._rope import reset_positions
from skgate.model._stream_editing import shift_block
from skgate.model._trials import differ, is_exact, record_trial, trial_result

if TYPE_CHECKING:
    from skgate.activations._forward import Prefix
    from skgate.model._loading import LanguageModel

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_TRIAL = "reply likelihood"


class ReplyLikelihood:
    """Likelihoods of replies to one prompt, by what is added to the residual stream.

    Adding starts at the final prompt token. So the keys and values of the tokens before it are
    computed once, for all replies, layers and amounts, if the model supports it.

    Parameters
    ----------
    language_model : LanguageModel
        A causal model.
    prompt : ndarray of int of shape (n_tokens,)
        The prompt's token ids.

    Attributes
    ----------
    n_tokens : int
        Number of tokens that the model has run.
    """

    def __init__(self, language_model: LanguageModel, prompt: Ids) -> None:
        self._language_model = language_model
        self._prompt = prompt
        self.n_tokens = 0

    def mean_log_likelihood(self, reply: Sequence[int]) -> float:
        """Compute the mean log-likelihood of a reply's tokens without steering."""
        no_direction = np.zeros(self._language_model.hidden_size)
        return float(self.mean_log_likelihoods(reply, 0, no_direction, [0.0])[0])

    def mean_log_likelihoods(
        self, reply: Sequence[int], layer: int, direction: Floats, amounts: Sequence[float]
    ) -> Floats:
        """Compute the mean log-likelihood of a reply's tokens at each amount.

        Parameters
        ----------
        reply : sequence of int of length n_tokens
            The reply's token ids.
        layer : int
            The block whose output is moved.
        direction : ndarray of shape (d,)
            The unit direction to move it along.
        amounts : sequence of float
            Amounts to add along the direction, in the activations' unit.

        Returns
        -------
        means : ndarray of shape (n_amounts,)
            In nats per token. Minus infinity where the model overflows.
        """
        shifts = torch.tensor(amounts)[:, None] * torch.from_numpy(direction)
        logits = self._logits(reply, layer, shifts, self._prefix)
        chosen = torch.as_tensor(reply, device=logits.device).expand(len(amounts), -1)
        found = logits.log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
        means = found.mean(1).cpu().double().numpy()
        return np.nan_to_num(means, nan=-np.inf, neginf=-np.inf)

    def _logits(
        self, reply: Sequence[int], layer: int, shifts: torch.Tensor, prefix: Prefix | None
    ) -> torch.Tensor:
        """Compute the logits of each of the reply's tokens, (n_rows, n_tokens, n_vocabulary)."""
        model: Any = self._language_model.model
        skip = 0 if prefix is None else prefix.length
        ids = np.concatenate([self._prompt[skip:], np.asarray(reply[:-1], dtype=np.int64)])
        first = len(self._prompt) - 1 - skip
        rows = torch.from_numpy(ids).expand(len(shifts), -1)
        cache = {} if prefix is None else {"past_key_values": prefix.cache(len(shifts))}
        self.n_tokens += rows.numel()
        reset_positions(self._language_model.backbone)
        with (
            torch.no_grad(),
            eval_mode(self._language_model.backbone),
            shift_block(self._language_model.blocks[layer], shifts, first),
        ):
            output = model(input_ids=rows.to(self._language_model.input_device), **cache)
        return output.logits[:, first:].float()

    @cached_property
    def _prefix(self) -> Prefix | None:
        """Run the tokens before the final one, unless the model can't reuse them."""
        language_model = self._language_model
        backbone, ids = language_model.backbone, self._prompt[:-1]
        failure = reason_against_prefix(language_model) or trial_result(backbone, _TRIAL)
        if failure or not len(ids):
            return None
        self.n_tokens += len(ids)
        try:
            with torch.no_grad():
                prefix = compute_prefix(language_model, ids, [len(language_model.blocks) - 1])
            if failure is None:
                failure = self._compare(prefix)
        except Exception as error:  # depends on the architecture; plain passes will do
            failure = f"{type(error).__name__}: {error}"
        record_trial(backbone, _TRIAL, failure=failure)
        return None if failure else prefix

    def _compare(self, prefix: Prefix) -> str:
        """Return why the prefix can't be reused, "" if it can."""
        reply, no_shift = self._prompt[:2].tolist(), torch.zeros(1, 1)
        reused, plain = (
            self._logits(reply, 0, no_shift, one)[0].cpu().numpy() for one in (prefix, None)
        )
        exact = is_exact(self._language_model.backbone)
        return "it changes the logits" if differ(reused, plain, exact) else ""
