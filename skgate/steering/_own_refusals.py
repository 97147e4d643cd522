"""A model's own refusals, and how likely they are while it is steered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from skgate._messages import PromptError
from skgate.steering._engine import Engine
from skgate.steering._reply_likelihood import ReplyLikelihood
from skgate.steering._router import always

if TYPE_CHECKING:
    from skgate._messages import Prompt
    from skgate.activations._reader import PromptReader
    from skgate.steering._engine import EngineParams

_N_PROMPTS = 16  # of each class, to find the refusals
_N_MEASURED = 8  # of each class, to measure them on
_N_LANGUAGES = 4
_REPLY = 24  # tokens
_OPENING = 3  # tokens
_GREEDY = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
# What the wrapper's generate_kwargs may say about a cache and special tokens. The rest, such as a
# streamer or a least length, is meant for the user's own replies.
_KEPT = ("use_cache", "cache_implementation", "eos_token_id", "pad_token_id")

Reply = tuple[int, ...]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OwnRefusal:
    """A refusal in a model's own words, and the prompts of its language to measure it on.

    Attributes
    ----------
    language : str or None
        The language; None if it is not known.
    reply : tuple of int
        The refusal's token ids.
    harmful, harmless : list of ReplyLikelihood
        Prompts that it was not the reply to, unless there are no others.
    """

    language: str | None
    reply: Reply
    harmful: list[ReplyLikelihood]
    harmless: list[ReplyLikelihood]

    def measure(self, layer: int, direction: Floats, amounts: Sequence[float]) -> Floats:
        """Compute the refusal's mean log-likelihood, in nats per token.

        Parameters
        ----------
        layer : int
            The block whose output is moved.
        direction : ndarray of shape (d,)
            The unit direction to move it along.
        amounts : sequence of float
            Amounts to add, in the activations' unit.

        Returns
        -------
        log_likelihoods : ndarray of shape (n_prompts, n_amounts)
            One row per prompt, harmful ones first. Minus infinity where the model overflows.
        """
        return np.array(
            [
                prompt.mean_log_likelihoods(self.reply, layer, direction, amounts)
                for prompt in (*self.harmful, *self.harmless)
            ]
        )


@dataclass(frozen=True)
class OwnRefusals:
    """What :func:`find_own_refusals` found.

    Attributes
    ----------
    found : list of OwnRefusal
        One for each language in which there is one.
    n_prompts : int
        Number of prompts that the model replied to.
    n_tokens_to_find : int
        Number of tokens that the model ran to find them.
    """

    found: list[OwnRefusal]
    n_prompts: int
    n_tokens_to_find: int

    @property
    def n_tokens(self) -> int:
        """Number of tokens that the model has run so far, to find and to measure them."""
        measured = [p for one in self.found for p in (*one.harmful, *one.harmless)]
        return self.n_tokens_to_find + sum(prompt.n_tokens for prompt in measured)


def find_own_refusals(
    params: EngineParams,
    reader: PromptReader,
    prompts: Sequence[Prompt],
    harmful: npt.NDArray[np.bool_],
    languages: npt.NDArray[np.object_] | None,
) -> OwnRefusals:
    """Find one refusal in each language among the unsteered model's replies to harmful prompts.

    Its opening is common among the replies to harmful prompts and rare among those to harmless
    ones. If several are equally so, it is the reply that the model is likeliest to give to the
    other harmful prompts.

    Parameters
    ----------
    params : SteeringWrapper
        Says how to generate.
    reader : PromptReader
        The model, and how prompts become token ids.
    prompts : sequence of str or list of dict
        Source prompts, checked.
    harmful : ndarray of bool of shape (n_prompts,)
        Which of them are harmful.
    languages : ndarray of str of shape (n_prompts,) or None
        Their languages. The four most frequent ones are used.

    Returns
    -------
    refusals : OwnRefusals
        The refusals, each with prompts to measure it on.
    """
    groups = _draw(len(prompts), harmful, languages)
    replies: dict[int, Reply] = {}
    scorers: dict[int, ReplyLikelihood] = {}
    n_tokens = 0
    for kind, length in ((0, _REPLY), (1, _OPENING)):
        rows = [i for group in groups.values() for i in group[kind]]
        some = [prompts[i] for i in rows]
        try:
            found = _generate(params, reader, some, length)
        except PromptError as error:
            error.row, error.name = rows[error.row], "X"
            raise
        for i, request, reply in zip(rows, reader.encode(some), found, strict=True):
            replies[i], scorers[i] = reply, ReplyLikelihood(reader.language_model, request.ids)
            n_tokens += len(request.ids) + len(reply)
    n_each = max(1, _N_MEASURED // len(groups))
    refusals = []
    for language, (of_harmful, of_harmless) in groups.items():
        refusal = _pick(
            [replies[i] for i in of_harmful],
            [replies[i] for i in of_harmless],
            [scorers[i] for i in of_harmful],
        )
        if refusal:
            others = [i for i in of_harmful if replies[i] != refusal] or of_harmful
            n = min(n_each, len(others), len(of_harmless))
            pair = [[scorers.pop(i) for i in rows[:n]] for rows in (others, of_harmless)]
            refusals.append(OwnRefusal(language, refusal, *pair))
    n_tokens += sum(one.n_tokens for one in scorers.values())  # (measured no further)
    return OwnRefusals(refusals, len(replies), n_tokens)


def _draw(
    n_prompts: int, harmful: npt.NDArray[np.bool_], languages: npt.NDArray[np.object_] | None
) -> dict[str | None, tuple[list[int], list[int]]]:
    """Draw rows of the most frequent languages, evenly spaced: harmful and harmless ones."""
    names = np.full(n_prompts, None, dtype=object) if languages is None else languages
    both = [one for one in dict.fromkeys(names) if len(set(harmful[names == one])) == 2]
    if not both:
        raise ValueError(
            "Got strength='auto' and no language with prompts of both classes in X and y, expected "
            "harmful and harmless source prompts. Or pass the strength as a number."
        )
    counts = Counter(names.tolist())
    chosen = sorted(both, key=lambda one: -counts[one])[:_N_LANGUAGES]  # (stable)
    n_each = _N_PROMPTS // len(chosen)
    groups = {}
    for one in chosen:
        rows = [np.flatnonzero((names == one) & (harmful == label)) for label in (True, False)]
        spaced = [np.linspace(0, len(r) - 1, min(n_each, len(r))).astype(int) for r in rows]
        groups[one] = (rows[0][spaced[0]].tolist(), rows[1][spaced[1]].tolist())
    return groups


def _generate(
    params: EngineParams, reader: PromptReader, prompts: Sequence[Prompt], length: int
) -> list[Reply]:
    """Generate the unsteered replies, as token ids with the end of sequence."""
    given = params.generate_kwargs or {}
    options = {**_GREEDY, "max_new_tokens": length, **{n: given[n] for n in _KEPT if n in given}}
    engine = Engine(reader, options, params.batch_tokens, params.verbose)
    no_direction = np.zeros(reader.language_model.hidden_size)
    found = engine.generate_tokens(prompts, [0], no_direction, always())
    return [tuple(sequences[0]) for sequences in found]


def _pick(
    of_harmful: list[Reply], of_harmless: list[Reply], prompts: list[ReplyLikelihood]
) -> Reply | None:
    """Pick a refusal among the replies to harmful prompts; None if no opening is peculiar."""
    elsewhere = Counter(reply[:_OPENING] for reply in of_harmless)
    excess = {
        opening: n * len(of_harmless) - elsewhere[opening] * len(of_harmful)  # (as whole numbers)
        for opening, n in Counter(reply[:_OPENING] for reply in of_harmful).items()
    }
    best = max(excess.values())
    if best <= 0:
        return None
    candidates = [one for one in dict.fromkeys(of_harmful) if excess[one[:_OPENING]] == best]
    if len(candidates) == 1:
        return candidates[0]
    likelihoods = [
        np.mean(
            [
                prompt.mean_log_likelihood(candidate)
                for prompt, reply in zip(prompts, of_harmful, strict=True)
                if reply != candidate
            ]
        )
        for candidate in candidates
    ]
    return candidates[int(np.argmax(likelihoods))]
