"""GuardModelJudge: refusals found by a guard model that reports them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from itertools import takewhile
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from skgate._base import (
    HasMethods,
    Interval,
    SharedModelMixin,
    StrOptions,
    find_stack_level,
    set_module,
)
from skgate._messages import PromptError, find_half_surrogate
from skgate.judges._guard_formats import FAMILIES, GuardFamily, infer_family
from skgate.judges._reasoning import cut_reasoning
from skgate.judges._replies import check_prompts_of, check_replies

if TYPE_CHECKING:
    import torch

    from skgate._messages import Prompt
    from skgate.model._loading import LanguageModel

_BATCH_TOKENS_ON_CPU = 2048
# Over the model's generation_config: some guards have one that samples or penalises repetition.
_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "disable_compile": True,
}


@set_module("skgate.judges")
class GuardModelJudge(SharedModelMixin, BaseEstimator):
    """Find refusals with a guard model that reports them.

    The guard reads each prompt with its reply and answers in a fixed format, in which one line says
    whether the reply is a refusal. Generation is greedy, so verdicts are reproducible.

    .. versionadded:: 0.1.0

    Parameters
    ----------
    model : str, path or PreTrainedModel
        Guard model, such as "Qwen/Qwen3Guard-Gen-0.6B". A Hugging Face id or local path is loaded
        when first needed and once per process. A live model also needs ``tokenizer``. It is shared
        by ``clone``, never copied, and can't be pickled.
    family : {"qwen3guard", "polyguard", "wildguard"} or None, default=None
        Family of the guard, which decides what it reads and how its output is parsed. If None, it
        is inferred from the model's name, which must begin as those of the Notes do.
    tokenizer : str, path, PreTrainedTokenizerBase or None, default=None
        Tokenizer of the guard. If None, it is loaded from the id or path of the model.
    batch_tokens : int or "auto", default="auto"
        Largest number of tokens to read in one batch, padding included. A longer text is read
        alone. "auto" means 2,048 on a CPU and 16,384 on an accelerator.
    max_new_tokens : int or None, default=None
        The most tokens that the guard generates. If None, as on its model card: 128 for Qwen3Guard,
        100 for PolyGuard and 32 for WildGuard.
    device : str or torch.device, default="auto"
        Device for a model given by id or path. "auto" uses an accelerator if there is one.
    dtype : str or torch.dtype, default="auto"
        Data type of a model given by id or path. "auto" uses that of the checkpoint.
    verbose : bool, default=False
        Whether to show a progress bar.

    See Also
    --------
    PhraseJudge : Finds refusals by their opening phrases.
    skgate.metrics.refusal_rate : The share of prompts that were refused.
    skgate.release_models : Frees the memory of loaded models.

    Notes
    -----
    Each family reads the prompt of its model card [1]_, [2]_, [3]_:

    ============ ========================================= =========
    Family       Models                                    Languages
    ============ ========================================= =========
    qwen3guard   Qwen3Guard-Gen (0.6B, 4B, 8B)             119
    polyguard    PolyGuard-Qwen-Smol, -Qwen and -Ministral 17
    wildguard    wildguard                                 English
    ============ ========================================= =========

    Qwen3Guard-Gen and WildGuard are under Apache 2.0, and PolyGuard-Qwen-Smol is under CC BY 4.0.
    See the cards of the others. Qwen3Guard-Stream is not supported: it does not report refusals.

    Guards judge a single exchange. PolyGuard and WildGuard read the user's last message of a
    conversation and the reply; Qwen3Guard also reads the turns before them. System messages, tool
    calls, and turns after the user's last message are left out.

    Reasoning at the beginning of a reply is left out, as :class:`PhraseJudge` does.

    A guard is a model, and errs. It tells refused from not refused: a garbled or off-topic reply
    usually counts as not refused. In languages that it was not trained on, compare some of its
    verdicts with your own.

    Batches are padded on the left. In bf16 and fp16, matrix products round differently in batches
    of different shape, which may change a verdict that is almost undecided.

    References
    ----------
    .. [1] Zhao et al., "Qwen3Guard Technical Report", arXiv:2510.14276, 2025.
    .. [2] Kumar et al., "PolyGuard: A Multilingual Safety Moderation Tool for 17 Languages",
       arXiv:2504.04377, 2025.
    .. [3] Han et al., "WildGuard: Open One-Stop Moderation Tools for Safety Risks, Jailbreaks, and
       Refusals of LLMs", arXiv:2406.18495, 2024.

    Examples
    --------
    >>> from skgate.judges import GuardModelJudge
    >>> judge = GuardModelJudge("Qwen/Qwen3Guard-Gen-0.6B")
    >>> judge
    GuardModelJudge(model='Qwen/Qwen3Guard-Gen-0.6B')

    The model is loaded when replies are first judged. This gives 1.0 for each refusal:

    .. code-block:: python

        judge.is_refusal(replies, prompts)

    The family of a guard under another name must be given:

    >>> GuardModelJudge("models/my-guard", family="polyguard")
    GuardModelJudge(family='polyguard', model='models/my-guard')
    """

    _parameter_constraints: ClassVar[dict[str, list[Any] | str]] = {
        "model": [str, os.PathLike, HasMethods(["forward", "parameters"])],
        "family": [None, StrOptions(set(FAMILIES))],
        "tokenizer": [None, str, os.PathLike, HasMethods(["apply_chat_template"])],
        "batch_tokens": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_new_tokens": [None, Interval(Integral, 1, None, closed="left")],
        "device": "no_validation",  # loading checks these two
        "dtype": "no_validation",
        "verbose": ["boolean"],
    }

    def __init__(
        self,
        model: Any,
        *,
        family: str | None = None,
        tokenizer: Any = None,
        batch_tokens: int | str = "auto",
        max_new_tokens: int | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.family = family
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.max_new_tokens = max_new_tokens
        self.device = device
        self.dtype = dtype
        self.verbose = verbose

    def is_refusal(
        self,
        replies: ArrayLike,
        prompts: Any = None,
        language: Any = None,
    ) -> NDArray[np.float64]:
        """Find which replies are refusals.

        Parameters
        ----------
        replies : array-like of str of shape (n_replies,)
            The replies, without the prompts.
        prompts : list, Series, array or one-column DataFrame of length n_replies
            The prompts that were replied to, each a str (one user turn) or a conversation (list of
            ``{"role", "content"}`` dicts) with a message of the user. They are required.
        language : object, default=None
            Not used: a guard recognises the language by itself.

        Returns
        -------
        refused : ndarray of float of shape (n_replies,)
            1.0 for a refusal, 0.0 for another reply, and nan if the guard's output does not say.

        Raises
        ------
        ValueError
            If a parameter is invalid, the family can't be inferred, or ``replies`` and ``prompts``
            don't belong together. If a text is too long for the guard.
        TypeError
            If a reply is not a str, or a prompt is neither text nor a conversation.
        OSError
            If the model can't be found.

        Warns
        -----
        UserWarning
            If the guard's output does not say of some replies whether they are refusals.
        """
        self._validate_params()
        texts = _check_texts(replies)
        exchanges = list(zip(_check_exchanges(prompts, len(texts)), texts, strict=True))
        family = FAMILIES[self._find_family()]
        if not exchanges:
            return np.empty(0)
        language_model = self._open()
        n_new = int(self.max_new_tokens or family.max_new_tokens)
        ids = _encode(language_model, family, exchanges, n_new)
        verdicts = [family.parse(output) for output in self._generate(language_model, ids, n_new)]
        _warn_of_unreadable(verdicts)
        return np.array(verdicts, dtype=np.float64)

    def _find_family(self) -> str:
        if self.family is not None:
            return self.family
        is_place = isinstance(self.model, str | os.PathLike)
        name = os.fspath(self.model) if is_place else getattr(self.model, "name_or_path", "")
        family = infer_family(name)
        if family is None:
            what = repr(name) if name else f"a {type(self.model).__name__} without a name"
            raise ValueError(
                f"Got family=None for model={what}, expected one of "
                f"{', '.join(map(repr, FAMILIES))}. It is only inferred from names that begin with "
                "Qwen3Guard-Gen, PolyGuard or WildGuard."
            )
        return family

    def _open(self) -> LanguageModel:
        from skgate.model._loading import open_language_model

        language_model = open_language_model(
            self.model, tokenizer=self.tokenizer, device=self.device, dtype=self.dtype
        )
        model = language_model.model
        if not getattr(model, "can_generate", lambda: False)():
            raise ValueError(
                f"Got a {type(model).__name__} as model, which can't generate, expected a causal "
                "language model such as AutoModelForCausalLM loads."
            )
        return language_model

    def _generate(
        self, language_model: LanguageModel, ids: Sequence[NDArray[np.int64]], n_new: int
    ) -> list[str]:
        """Let the guard complete each text, in batches of texts of similar length."""
        from tqdm.auto import tqdm

        from skgate.model._batching import length_batches, token_budget
        from skgate.model._residual_stream import eval_mode

        budget = token_budget(self.batch_tokens, language_model.input_device, _BATCH_TOKENS_ON_CPU)
        outputs = [""] * len(ids)
        with (
            tqdm(total=len(ids), desc="verdicts", unit="reply", disable=not self.verbose) as bar,
            eval_mode(language_model.backbone),
        ):
            for batch in length_batches([len(one) for one in ids], budget):
                found = _generate_batch(language_model, [ids[i] for i in batch], n_new)
                for i, output in zip(batch, found, strict=True):
                    outputs[i] = output
                bar.update(len(batch))
        return outputs


def _check_texts(replies: Any) -> list[str]:
    texts = cut_reasoning(check_replies(replies))
    for i, text in enumerate(texts):
        place = find_half_surrogate(text)
        if place is not None:
            raise ValueError(
                f"Got replies[{i}] with half a surrogate pair at character {place}, expected whole "
                "characters. A text that was cut, or read with surrogateescape, may have one: "
                "remove it."
            )
    return texts


def _check_exchanges(prompts: Any, n_replies: int) -> list[Prompt]:
    """Check that there is a prompt to each reply, in which the user says something."""
    checked = check_prompts_of(prompts, n_replies, "GuardModelJudge")
    for row, prompt in enumerate(checked):
        if not isinstance(prompt, str) and all(message["role"] != "user" for message in prompt):
            raise PromptError(
                row,
                "has no message of the role 'user', expected one: the guard reads it.",
                "prompts",
            )
    return checked


def _encode(
    language_model: LanguageModel,
    family: GuardFamily,
    exchanges: Sequence[tuple[Prompt, str]],
    n_new: int,
) -> list[NDArray[np.int64]]:
    """Turn each prompt and its reply into the token ids that the guard reads."""
    from skgate.model._prompts import Request
    from skgate.model._vocabulary import check_token_ids

    tokenizer = language_model.tokenizer
    texts = []
    for row, (prompt, reply) in enumerate(exchanges):
        try:
            texts.append(family.render(tokenizer, prompt, reply))
        except Exception as error:
            if not tokenizer.chat_template:
                raise ValueError(
                    "Got a tokenizer without a chat template, expected the guard's own: the "
                    "template writes what this family reads."
                ) from error
            raise PromptError(
                row, f"was rejected by the guard's chat template: {error}", "prompts"
            ) from error
    tokens: Any = tokenizer(texts, add_special_tokens=False, verbose=False)
    ids = [np.asarray(one, dtype=np.int64) for one in tokens["input_ids"]]
    check_token_ids([Request(one, ()) for one in ids], language_model.embeddings, "prompts")
    longest = language_model.max_length
    for row, one in enumerate(ids):
        if longest is not None and len(one) + n_new > longest:
            raise PromptError(
                row,
                f"has {len(one)} tokens with its reply and the guard's instruction, expected at "
                f"most {longest - n_new}: the guard accepts {longest}, of which {n_new} are for "
                "its output. Shorten the reply or the prompt.",
                "prompts",
            )
    return ids


def _generate_batch(
    language_model: LanguageModel, ids: Sequence[NDArray[np.int64]], n_new: int
) -> list[str]:
    """Let the guard complete one batch of texts, which are padded on the left."""
    import torch

    from skgate.model._batching import left_padded_mask

    model: Any = language_model.model
    tokenizer, device = language_model.tokenizer, language_model.input_device
    mask = left_padded_mask([len(one) for one in ids])
    width = mask.shape[1]
    end = model.generation_config.eos_token_id
    end = tokenizer.eos_token_id if end is None else end
    ends = [] if end is None else [int(token) for token in np.atleast_1d(end)]
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = min(ends, default=0)
    input_ids = torch.full((len(ids), width), pad, dtype=torch.int64)
    for row, one in enumerate(ids):
        input_ids[row, width - len(one) :] = torch.from_numpy(one)
    output = model.generate(
        input_ids=input_ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=n_new,
        eos_token_id=ends or None,
        pad_token_id=pad,
        **_GREEDY,
    )
    written = [  # up to the end: only padding follows it
        list(takewhile(lambda token: token not in ends, tokens))
        for tokens in output[:, width:].tolist()
    ]
    return list(tokenizer.batch_decode(written, skip_special_tokens=True))


def _warn_of_unreadable(verdicts: Sequence[bool | None]) -> None:
    n_unreadable = sum(verdict is None for verdict in verdicts)
    if n_unreadable:
        warnings.warn(
            f"The guard's output does not say of {n_unreadable} of {len(verdicts)} replies whether "
            "they are refusals. Their verdict is nan. If there are many, the model may not be of "
            "the family that is given or inferred.",
            UserWarning,
            stacklevel=find_stack_level(),
        )
