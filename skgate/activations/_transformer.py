"""ActivationTransformer: prompts in, residual-stream activations out."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from tqdm.auto import tqdm

from skgate._base import HasMethods, Interval, Options, SharedModelMixin, StrOptions, _fit_context
from skgate._provenance import ActivationSource, remember
from skgate._validation import Prompt, check_layers, check_prompts
from skgate.activations._forward import PLAIN, read_batch
from skgate.activations._shortcuts import find_shortcuts
from skgate.activations.store._row_caches import Keeper, KeepInMemory, KeepInStore, KeepNothing
from skgate.activations.store._store import ActivationStore
from skgate.model._batching import length_batches
from skgate.model._fingerprint import (
    digest,
    fingerprint_structure,
    fingerprint_tokenizer,
    fingerprint_weights,
)
from skgate.model._loading import LanguageModel, find_parts, load_language_model
from skgate.model._prompts import EncodedPrompt, PromptFormat, encode_prompts
from skgate.model._residual_stream import is_edited
from skgate.model._rope import length_boundaries

if TYPE_CHECKING:
    from sklearn.utils import Tags

_BATCH_TOKENS = {"cpu": 512}
_BATCH_TOKENS_ACCELERATOR = 16_384
_LOOKED_UP_AT_ONCE = 1024
_SECONDS_BETWEEN_LOOKS = 0.02
_POSITIONS = {"last", "instruction", "mean"}
_OF_MODELS_BY_ID = {"dtype": "auto", "device": "auto", "revision": None, "model_kwargs": None}


@dataclass(frozen=True)
class Request:
    """A distinct forward pass: token ids, and the token to read (None for the mean)."""

    ids: npt.NDArray[np.int64]
    index: int | None

    @cached_property
    def key(self) -> bytes:
        """Name the request in 16 bytes, the same in any process."""
        text = self.ids.astype("<i8").tobytes() + f" {self.index}".encode()
        return hashlib.blake2b(text, digest_size=16).digest()


class ActivationTransformer(SharedModelMixin, TransformerMixin, BaseEstimator):
    """Turn prompts into activations of a language model's residual stream.

    One truncated forward pass per distinct prompt: the model without its language-model head,
    stopped after the deepest layer asked for. What all prompts begin with, as a system prompt, is
    run once, where the model allows it (see Notes). Prompts are deduplicated, sorted by length
    and batched by a budget of tokens; the result is in input order and a prompt's activation
    depends neither on its batch neighbours nor on the tokenizer's padding side (up to rounding; in
    bf16 and fp16 about 1 %, see Notes). The model sees token for token what ``generate`` would see
    after ``tokenizer.apply_chat_template(..., add_generation_prompt=True)``.

    The transformer learns nothing: ``transform`` works without ``fit``.

    Parameters
    ----------
    model : str, path or PreTrainedModel
        Hugging Face id or local path, loaded when first needed and once per process, or a live
        model (then ``tokenizer`` too). Decoder-only and encoder-only models. A live model is
        shared by ``clone`` and never copied, and can't be pickled.
    layer : int, list of int or "all"
        The blocks whose output is read, before the final norm; 0-based, negative from the end.
    position : {"last", "instruction", "mean"} or negative int, default="last"
        The token that is read: the last token of the whole formatted prompt, generation prompt
        included (``t_post_inst`` in [1]_); the last token of the user's own (last) instruction
        (``t_inst``); the mean over all of the prompt's tokens; or a token counted from the end.
    tokenizer : str, PreTrainedTokenizerBase or None, default=None
        Taken from the model's id if None.
    chat_template : bool, default=True
        Whether prompts go through the tokenizer's chat template. False for base and encoder
        models: then prompts are tokenized as they are, special tokens added.
    system_prompt : str or None, default=None
        Put before every prompt that has no system message of its own.
    chat_template_kwargs : dict or None, default=None
        Further arguments of ``tokenizer.apply_chat_template``, such as ``enable_thinking``.
    batch_tokens : int or "auto", default="auto"
        Tokens per batch that run through the model: padding included, and the beginning that is
        reused (see Notes) not, whose keys and values are copied for every prompt; those of a batch
        take at most 2 GiB. A longer prompt runs alone. "auto" means 512 on a CPU and 16,384 on an
        accelerator.
    store : None, False, str, path or ActivationStore, default=None
        Where activations are kept for later calls. None: in memory, in one cache of at most 2 GiB
        for the whole process, the least recently used dropped first. A folder, or an
        :class:`ActivationStore`: on disk, instead of in memory, for every process that uses the
        folder. Each batch is committed when it has been computed. False keeps none.
    cache_layers : "requested", "all" or list of int, default="requested"
        The layers that a forward pass keeps for later. With "all", a grid search over ``layer``
        sends each distinct prompt through the model once; with a folder as ``store`` also when
        ``n_jobs`` processes share the work.
    dtype : str or torch.dtype, default="auto"
        In which a model given by id is loaded; "auto" takes the checkpoint's own.
    device : str or torch.device, default="auto"
        Where a model given by id is put; "auto" takes an accelerator if there is one. Not used
        with a ``device_map`` in ``model_kwargs``.
    revision : str or None, default=None
        Revision of a model given by id.
    model_kwargs : dict or None, default=None
        Further arguments of ``from_pretrained`` for a model given by id.
    truncate : bool, default=False
        Whether an instruction that exceeds the model's context is cut at its end, the text that
        the template puts after it kept. An error otherwise.
    verbose : bool, default=False
        Whether to show a progress bar, what the memory cache is about to need, and where a model
        can't take a shortcut (see Notes).

    See Also
    --------
    ActivationStore : Keeps activations on disk.
    LatentGate : Learns from these activations which prompts are harmful.

    Notes
    -----
    With ``h_L(x)`` of shape (n_tokens, d) the output of block ``L`` for prompt ``x``, the result
    is ``h_L(x)[t]`` for the position ``t``, or ``h_L(x).mean(axis=0)``, in float32 [1]_.

    Cache and store are keyed by the weights' fingerprint (taken anew at each call, one read of
    the weights), the adapters' state, configuration, the modules' own settings, transformers'
    version, the device's type, token ids, position and layer. They are bypassed where something
    may edit what the model computes: forward hooks that are not skgate's, a replaced ``forward``,
    parametrizations, autocast.

    The keys and values of the tokens that all prompts of a call begin with are computed once and
    reused for every batch, where that saves work. In the deepest block that is kept, only the token
    that is read goes on after attention. Whether an architecture then gives the same activations is
    tried once per model (and for the keys and values once per depth), on the longest and the
    shortest prompt of a call that is long enough to gain from it; where it doesn't, or where
    something may edit the model, every prompt runs whole.

    In bf16 and fp16, matrix products round differently in batches of different shape: the same
    prompt may differ by about 1 % between batches.

    References
    ----------
    .. [1] Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not
       Representation Failures", arXiv:2606.01196, 2026.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = Tokenizer(models.WordLevel({"?": 0, "boil": 1, "an": 2, "egg": 3}, unk_token="?"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    >>> config = LlamaConfig(vocab_size=4, hidden_size=8, intermediate_size=8,
    ...                      num_hidden_layers=4, num_attention_heads=2)
    >>> from skgate import ActivationTransformer
    >>> transformer = ActivationTransformer(LlamaModel(config), tokenizer=tokenizer, layer=[1, -1],
    ...                                     chat_template=False)
    >>> transformer.transform(["boil an egg", "egg"]).shape
    (2, 16)
    >>> transformer.get_feature_names_out()[[0, -1]]
    array(['layer1_0000', 'layer3_0007'], dtype=object)
    >>> transformer.activation_source().layer
    (1, 3)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [str, os.PathLike, HasMethods(["forward", "parameters"])],
        "layer": [Integral, "array-like", StrOptions({"all"})],
        "position": [StrOptions(_POSITIONS), Interval(Integral, None, -1, closed="right")],
        "tokenizer": [None, str, os.PathLike, HasMethods(["apply_chat_template"])],
        "chat_template": ["boolean"],
        "system_prompt": [None, str],
        "chat_template_kwargs": [None, dict],
        "batch_tokens": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "store": [None, Options(bool, {False}), str, os.PathLike, ActivationStore],
        "cache_layers": [StrOptions({"requested", "all"}), "array-like"],
        "dtype": [str, torch.dtype],
        "device": [str, torch.device],
        "revision": [None, str],
        "model_kwargs": [None, dict],
        "truncate": ["boolean"],
        "verbose": ["boolean"],
    }

    def __init__(
        self,
        model: Any,
        *,
        layer: int | Sequence[int] | str,
        position: str | int = "last",
        tokenizer: Any = None,
        chat_template: bool = True,
        system_prompt: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        batch_tokens: int | str = "auto",
        store: bool | str | os.PathLike[str] | ActivationStore | None = None,
        cache_layers: str | Sequence[int] = "requested",
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        revision: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        truncate: bool = False,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.layer = layer
        self.position = position
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.system_prompt = system_prompt
        self.chat_template_kwargs = chat_template_kwargs
        self.batch_tokens = batch_tokens
        self.store = store
        self.cache_layers = cache_layers
        self.dtype = dtype
        self.device = device
        self.revision = revision
        self.model_kwargs = model_kwargs
        self.truncate = truncate
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> ActivationTransformer:
        """Check the parameters and the prompts, and load the model; nothing is learned.

        Parameters
        ----------
        X : list, Series, array or one-column DataFrame of length n_prompts
            Prompts: each a str (one user turn) or a conversation (list of
            ``{"role", "content"}``).
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        self : ActivationTransformer
            The transformer itself.
        """
        check_prompts(X)
        language_model = self._language_model()
        self._prompt_format().check(language_model.tokenizer)
        self._kept_layers(language_model)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Read the activations of prompts.

        Parameters
        ----------
        X : list, Series, array or one-column DataFrame of length n_prompts
            Prompts: each a str (one user turn) or a conversation (list of
            ``{"role", "content"}``).

        Returns
        -------
        activations : ndarray of shape (n_prompts, n_layers * d), float32
            The layers side by side, in the order of ``layer``.

        Raises
        ------
        ValueError
            If a parameter is out of range, a prompt is empty, too long or too short for the
            position, or the tokenizer can't format it.
        RuntimeError
            If the model's blocks ignore hooks, as compiled ones do.
        OSError
            If the store's folder can't be written to or has no room left. What was committed
            is kept.
        """
        self._validate_params()
        prompts = check_prompts(X)
        language_model = self._language_model()
        requests = self._encode(prompts, language_model)
        distinct = {request.key: request for request in requests}
        place = {key: i for i, key in enumerate(distinct)}
        source = self._source(language_model)
        rows = self._read(language_model, list(distinct.values()), source.weights)
        activations = rows[[place[request.key] for request in requests]]
        remember(activations, source)
        return activations.reshape(len(prompts), -1)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Name the columns of the output.

        Parameters
        ----------
        input_features : Ignored
            Not used, present for API consistency.

        Returns
        -------
        names : ndarray of shape (n_layers * d,), dtype object
            Names such as ``layer14_0007``: the layer, and the place in the residual stream.
        """
        language_model = self._language_model()
        width = max(4, len(str(language_model.hidden_size - 1)))
        return np.array(
            [
                f"layer{layer}_{i:0{width}d}"
                for layer in self._layers(language_model)
                for i in range(language_model.hidden_size)
            ],
            dtype=object,
        )

    def activation_source(self) -> ActivationSource:
        """Describe where the activations come from, for gates fitted on them.

        Returns
        -------
        source : ActivationSource
            Model, tokenizer, prompt format, layers and position.
        """
        return self._source(self._language_model())

    def _source(self, language_model: LanguageModel) -> ActivationSource:
        return ActivationSource(
            model=language_model.name,
            weights=fingerprint_weights(language_model.backbone),
            tokenizer=fingerprint_tokenizer(language_model.tokenizer),
            template=self._prompt_format().fingerprint(language_model.tokenizer),
            layer=self._layers(language_model),
            position="last" if self.position == -1 else self.position,
        )

    def _language_model(self) -> LanguageModel:
        if isinstance(self.model, str | os.PathLike):
            return load_language_model(
                self.model,
                tokenizer=self.tokenizer,
                **{name: getattr(self, name) for name in _OF_MODELS_BY_ID},
            )
        for name, default in _OF_MODELS_BY_ID.items():
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} has no effect on a live model; expected "
                    f"{default!r}, or model given as an id or path."
                )
        if self.tokenizer is None or isinstance(self.tokenizer, str | os.PathLike):
            raise ValueError(
                f"tokenizer={self.tokenizer!r}, but model is a live {type(self.model).__name__}; "
                "expected its live tokenizer too."
            )
        return find_parts(self.model, self.tokenizer)

    def _prompt_format(self) -> PromptFormat:
        return PromptFormat(
            chat_template=self.chat_template,
            system_prompt=self.system_prompt,
            chat_template_kwargs=self.chat_template_kwargs or {},
            truncate=self.truncate,
        )

    def _layers(self, language_model: LanguageModel) -> tuple[int, ...]:
        return check_layers(self.layer, len(language_model.blocks))

    def _kept_layers(self, language_model: LanguageModel) -> list[int]:
        requested = self._layers(language_model)
        if self.cache_layers == "requested" or self.store is False:
            return sorted(requested)
        kept = check_layers(self.cache_layers, len(language_model.blocks), "cache_layers")
        return sorted({*requested, *kept})

    def _encode(self, prompts: list[Prompt], language_model: LanguageModel) -> list[Request]:
        """Tokens of checked prompts, and the token to read in each."""
        encoded = encode_prompts(
            language_model.tokenizer,
            prompts,
            self._prompt_format(),
            max_length=language_model.max_length,
            find_instruction=self.position == "instruction",
        )
        return [Request(item.ids, self._token_index(item, i)) for i, item in enumerate(encoded)]

    def _token_index(self, prompt: EncodedPrompt, i: int) -> int | None:
        if self.position == "mean":
            return None
        if self.position == "instruction":
            return prompt.instruction_end
        index = len(prompt.ids) + (-1 if self.position == "last" else int(self.position))
        if index < 0:
            raise ValueError(
                f"position={self.position} lies before the start of X[{i}], which has "
                f"{len(prompt.ids)} tokens; expected a position within every prompt."
            )
        return index

    def _read(
        self, language_model: LanguageModel, requests: list[Request], weights: str
    ) -> npt.NDArray[np.float32]:
        """Activations of distinct requests, shape (n_requests, n_layers, d), cached or computed."""
        layers = self._layers(language_model)
        kept = self._kept_layers(language_model)
        keeper = self._keeper(language_model, weights)
        device = language_model.input_device
        keys = [request.key for request in requests]
        out = np.empty((len(requests), len(layers), language_model.hidden_size), np.float32)

        def fetch(wanted: Sequence[int]) -> list[int]:
            """Fill in what is kept already; return the others."""
            missing = []
            for start in range(0, len(wanted), _LOOKED_UP_AT_ONCE):
                some = wanted[start : start + _LOOKED_UP_AT_ONCE]
                for i, row in zip(
                    some, keeper.lookup([keys[i] for i in some], layers), strict=True
                ):
                    if row is None:
                        missing.append(i)
                    else:
                        out[i] = row
            return missing

        missing = fetch(range(len(requests)))
        if missing:
            expected = keeper.expect(len(requests) * len(kept), language_model.hidden_size)
            if expected:
                self._report(expected)
        shortcuts = PLAIN
        if missing and not is_edited(language_model.backbone):
            shortcuts = find_shortcuts(
                language_model, [requests[i] for i in missing], kept, self._report
            )
        shared, room = 0, sys.maxsize
        if shortcuts.prefix is not None:
            shared, room = shortcuts.prefix.length, shortcuts.prefix.room
        boundaries = length_boundaries(language_model.backbone.config)
        with tqdm(
            total=len(missing), desc="activations", unit="prompt", disable=not self.verbose
        ) as progress:
            while missing:
                others = []  # what other threads or processes are computing
                lengths = [len(requests[i].ids) - shared for i in missing]
                for batch in length_batches(
                    lengths,
                    self._batch_budget(device),
                    boundaries=boundaries,
                    reused=shared,
                    room=room,
                ):
                    wanted = [missing[j] for j in batch]
                    with keeper.claim([keys[i] for i in wanted]) as claimed:
                        others += [wanted[j] for j, ours in enumerate(claimed) if not ours]
                        free = [wanted[j] for j, ours in enumerate(claimed) if ours]
                        due = fetch(free)  # the others came in since the last look
                        if due:
                            rows = read_batch(
                                language_model, [requests[i] for i in due], kept, shortcuts
                            )
                            out[due] = np.stack([rows[layer] for layer in layers], axis=1)
                            keeper.insert([keys[i] for i in due], rows)
                    progress.update(len(free))
                missing = fetch(others)
                progress.update(len(others) - len(missing))
                if missing and len(missing) == len(others):
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
        return out

    def _keeper(self, language_model: LanguageModel, weights: str) -> Keeper:
        """Where rows are kept; nowhere while somebody else edits what the model computes."""
        backbone = language_model.backbone
        if self.store is False or is_edited(backbone):
            return KeepNothing()
        device = language_model.input_device.type
        namespace = digest(weights, fingerprint_structure(backbone), device)
        if self.store is None:
            return KeepInMemory(namespace)
        store = self.store if isinstance(self.store, ActivationStore) else None
        return KeepInStore(
            store or ActivationStore(self.store),  # type: ignore[arg-type]  # (a path: checked)
            namespace,
            {"model": language_model.name, "device": device},
        )

    def _report(self, message: str) -> None:
        if self.verbose:
            tqdm.write(f"activations: {message}", file=sys.stderr)

    def _batch_budget(self, device: torch.device) -> int:
        if isinstance(self.batch_tokens, str):
            return _BATCH_TOKENS.get(device.type, _BATCH_TOKENS_ACCELERATOR)
        return self.batch_tokens

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        return tags
