"""ActivationTransformer: turns prompts into activations of the residual stream."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, TransformerMixin

from skgate._base import (
    HasMethods,
    Interval,
    Options,
    SharedModelMixin,
    StrOptions,
    _fit_context,
    set_module,
)
from skgate._provenance import ActivationSource, remember
from skgate._validation import check_layers, check_prompts
from skgate.activations._extraction import Extraction
from skgate.activations._reader import PromptReader, open_reader
from skgate.activations.store._row_caches import open_row_cache
from skgate.activations.store._store import ActivationStore
from skgate.model._fingerprint import digest
from skgate.model._residual_stream import is_edited
from skgate.model._watch import Fingerprints, require_full_read

if TYPE_CHECKING:
    from sklearn.utils import Tags


@set_module("skgate")
class ActivationTransformer(SharedModelMixin, TransformerMixin, BaseEstimator):
    """Turn prompts into activations of a language model's residual stream.

    Each distinct prompt needs one truncated forward pass: the model runs without its
    language-model head and stops after the deepest layer that is read. Prompts are deduplicated,
    sorted by length and batched by a budget of tokens. Results are in input order and cached.

    A prompt's activation depends neither on the other prompts of its batch nor on the tokenizer's
    padding side, except for rounding (see Notes). The model sees exactly the tokens that
    ``generate`` would see after
    ``tokenizer.apply_chat_template(..., add_generation_prompt=True)``.

    The transformer is stateless: ``transform`` works without ``fit``.

    Parameters
    ----------
    model : str, path or PreTrainedModel
        Language model to read: decoder-only or encoder-only. A Hugging Face id or local path is
        loaded when first needed and once per process. A live model also needs ``tokenizer``. It
        is shared by ``clone``, never copied, and can't be pickled.
    layer : int, list of int or "all"
        Blocks whose output is read, before the final norm. They are counted from 0; negative
        numbers count from the end.
    position : str, int or list of these, default=("last", "mean")
        Token to read, or several in one forward pass. "last" is the last token of the formatted
        prompt, after the generation prompt (``t_post_inst`` in [1]_). "instruction" is the last
        token of the user's last message (``t_inst``). "mean" averages over all tokens of the
        prompt. A negative integer counts from the end of the formatted prompt.
    tokenizer : str, path, PreTrainedTokenizerBase or None, default=None
        Tokenizer of the model. If None, it is loaded from the id or path of the model.
    chat_template : bool, default=True
        Whether to format prompts with the tokenizer's chat template. Pass False for base and
        encoder models: prompts are then tokenized as they are, with special tokens.
    system_prompt : str or None, default=None
        System message added to each prompt that has none of its own.
    chat_template_kwargs : dict or None, default=None
        Further arguments of ``tokenizer.apply_chat_template``, such as ``enable_thinking``.
    batch_tokens : int or "auto", default="auto"
        Largest number of tokens to run in one batch, padding included. A longer prompt runs alone.
        Tokens of a shared beginning (see Notes) don't count, but their copied keys and values are
        limited to 2 GiB per batch. "auto" means 512 on a CPU and 16,384 on an accelerator.
    store : None, False, str, path or ActivationStore, default=None
        Where to cache activations for later calls. None caches in memory: one cache of at most
        2 GiB for the whole process, which drops the least recently used prompts. A folder or an
        :class:`ActivationStore` caches on disk, shared by all processes that use the folder; each
        batch is committed as soon as it is computed. False caches nothing.
    cache_layers : "requested", "all" or list of int, default="requested"
        Layers to cache in addition to ``layer``. With "all", a grid search over ``layer`` runs
        each distinct prompt through the model once; with a folder as ``store``, this also holds
        for several processes (``n_jobs``).
    dtype : str or torch.dtype, default="auto"
        Data type of a model given by id or path. "auto" uses that of the checkpoint.
    device : str or torch.device, default="auto"
        Device for a model given by id or path. "auto" uses an accelerator if there is one, unless
        ``model_kwargs`` has a ``device_map``.
    revision : str or None, default=None
        Revision of a model given by id.
    model_kwargs : dict or None, default=None
        Further arguments of ``from_pretrained`` for a model given by id or path.
    truncate : bool, default=False
        Whether to cut the end of an instruction that exceeds the model's context. The text that
        the template puts after the instruction is kept. If False, such a prompt raises an error.
    template_date : str, default="2026-01-01"
        Date that the chat template sees if it reads the clock, such as Llama-3.2's. A prompt's
        activation then does not change from day to day, and ``SteeringWrapper.generate`` uses the
        same date. Other templates ignore it.
    verify : {"fast", "full"}, default="fast"
        How calls notice that the model was edited since ``fit``. All weights are read in ``fit``,
        in ``SteeringWrapper.attach``, and at the first call after saving or loading. Other calls
        with "fast" look for edits for a few milliseconds. They notice at once changes of modules,
        settings and adapters, in-place operations, and writes to whole tensors. Any other edit of
        the weights is noticed within 256 calls. "full" reads all weights at every call.
    verbose : bool, default=False
        Whether to show a progress bar, the memory that the cache will need, and shortcuts that
        the model does not support (see Notes).

    See Also
    --------
    ActivationStore : Caches activations on disk.
    LatentGate : Learns from these activations which prompts are harmful.

    Notes
    -----
    Let ``h_L(x)``, of shape (n_tokens, d), be the output of block ``L`` for prompt ``x``. The
    result is ``h_L(x)[t]`` for the position ``t``, or ``h_L(x).mean(axis=0)``, in float32 [1]_.
    Several layers and positions are side by side: for each layer, each position.

    The cache key consists of the weights' fingerprint, the adapters' state, the configuration, the
    modules' own settings, the version of transformers, the type of the device, the token ids, the
    position and the layer. Each of several positions has an entry of its own, which it shares with
    the position alone. See ``verify`` for when the weights are read. The cache is bypassed if
    something may edit what the model computes: forward hooks that are not skgate's, a replaced
    ``forward``, parametrizations, or autocast.

    Two shortcuts save work. If all prompts of a call begin with the same tokens, such as a system
    prompt, these run once, and their keys and values are reused. If one token of each prompt is
    read, only that token goes through the feed-forward part of the deepest block. Not every
    architecture supports both. So each is tried first, on the longest and the shortest prompt of a
    call that is long enough to benefit: once per model, and for shared tokens also once per depth.
    If a trial changes the activations, or if something may edit the model, the shortcut is not
    used.

    In bf16 and fp16, matrix products round differently in batches of different shape. The
    activations of a prompt may then differ by about 1 % between batches.

    Hashes of about 16 million rows are kept (128 MiB). With them, a gate detects activations of
    another model, layer or position.

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
    (2, 32)
    >>> transformer.get_feature_names_out()[[0, -1]]
    array(['layer1_last_0000', 'layer3_mean_0007'], dtype=object)
    >>> transformer.activation_source().layer
    (1, 3)

    A single position, as in the paper:

    >>> transformer.set_params(position="last").transform(["boil an egg", "egg"]).shape
    (2, 16)
    >>> transformer.get_feature_names_out()[[0, -1]]
    array(['layer1_0000', 'layer3_0007'], dtype=object)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [str, os.PathLike, HasMethods(["forward", "parameters"])],
        "layer": [Integral, "array-like", StrOptions({"all"})],
        "position": [
            StrOptions({"last", "instruction", "mean"}),
            Interval(Integral, None, -1, closed="right"),
            "array-like",
        ],
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
        "template_date": [str],
        "verify": [StrOptions({"fast", "full"})],
        "verbose": ["boolean"],
    }

    def __init__(
        self,
        model: Any,
        *,
        layer: int | Sequence[int] | str,
        position: str | int | Sequence[str | int] = ("last", "mean"),
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
        template_date: str = "2026-01-01",
        verify: str = "fast",
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
        self.template_date = template_date
        self.verify = verify
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> ActivationTransformer:
        """Check the parameters and the prompts, and load the model.

        Parameters
        ----------
        X : list, Series, array or one-column DataFrame of length n_prompts
            Prompts: each a str (one user turn) or a conversation (list of
            ``{"role", "content"}`` dicts). Content is a str or a list of text parts
            (``{"type": "text", "text": ...}``). Keys whose value is None are ignored.
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        self : ActivationTransformer
            The transformer itself.
        """
        check_prompts(X)
        reader = open_reader(self)
        reader.prompt_format.check(reader.language_model.tokenizer)
        self._cached_layers(reader)
        reader.fingerprint(full=True)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Read the activations of prompts.

        Parameters
        ----------
        X : list, Series, array or one-column DataFrame of length n_prompts
            Prompts: each a str (one user turn) or a conversation (list of
            ``{"role", "content"}`` dicts). Content is a str or a list of text parts
            (``{"type": "text", "text": ...}``). Keys whose value is None are ignored.

        Returns
        -------
        activations : ndarray of shape (n_prompts, n_layers * n_positions * d), float32
            Activations side by side: the layers in the order of ``layer``, and the positions of
            each layer in the order of ``position``.

        Raises
        ------
        ValueError
            If a parameter is out of range, a prompt is empty, too long or too short for the
            position, or the tokenizer can't format it. If the chat template renders different
            prompts alike.
        RuntimeError
            If the model's blocks ignore hooks, as compiled blocks do.
        OSError
            If the store's folder can't be written to or its disk is full. Batches that were
            committed are kept.

        Warns
        -----
        UserWarning
            If the chat template reads the clock, once per process and template.
        """
        self._validate_params()
        prompts = check_prompts(X)
        reader = open_reader(self)
        requests = reader.encode(prompts)
        found = reader.fingerprint()
        extraction = self._open_extraction(reader, found)
        if extraction.row_cache.on_disk and extraction.lacks(requests):
            # What is written there must not go by weights of which a cheap look missed an edit.
            found = reader.fingerprint(full=True)
            extraction = self._open_extraction(reader, found)
        rows = extraction.run(requests)
        rows = rows.reshape(len(prompts), len(reader.places), -1)
        remember(rows, reader.source(found))
        return rows.reshape(len(prompts), -1)

    def _open_extraction(self, reader: PromptReader, found: Fingerprints) -> Extraction:
        backbone, device = reader.language_model.backbone, reader.language_model.input_device.type
        return Extraction(
            language_model=reader.language_model,
            layers=reader.layers,
            cached_layers=self._cached_layers(reader),
            row_cache=open_row_cache(
                False if is_edited(backbone) else self.store,
                namespace=digest(found.weights, found.structure.full, device),
                description={"model": reader.language_model.name, "device": device},
            ),
            batch_tokens=self.batch_tokens,
            verbose=self.verbose,
        )

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Get the names of the output columns.

        Parameters
        ----------
        input_features : Ignored
            Not used, present for API consistency.

        Returns
        -------
        names : ndarray of shape (n_layers * n_positions * d,), dtype object
            Names such as ``layer14_0007``: the layer, and the index in the residual stream. If
            ``position`` is a list, they also name the position: ``layer14_mean_0007``.
        """
        reader = open_reader(self)
        d = reader.language_model.hidden_size
        width = max(4, len(str(d - 1)))
        is_single = isinstance(self.position, str | Integral)
        starts = [
            f"layer{layer}_" if is_single else f"layer{layer}_{position}_"
            for layer, position in reader.places
        ]
        names = [f"{start}{i:0{width}d}" for start in starts for i in range(d)]
        return np.array(names, dtype=object)

    def activation_source(self) -> ActivationSource:
        """Describe where the activations come from, for gates fitted on them.

        This loads the model and reads its weights once.

        Returns
        -------
        source : ActivationSource
            Model, tokenizer, prompt format, layers, positions and module settings.
        """
        reader = open_reader(self)
        return reader.source(reader.fingerprint(full=True))

    def _cached_layers(self, reader: PromptReader) -> list[int]:
        """Resolve ``cache_layers``; the layers that are returned are always included."""
        if self.cache_layers == "requested" or self.store is False:
            return sorted(reader.layers)
        n_layers = len(reader.language_model.blocks)
        return sorted({*reader.layers, *check_layers(self.cache_layers, n_layers, "cache_layers")})

    def __getstate__(self) -> dict[str, Any]:
        require_full_read()
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        require_full_read()
        super().__setstate__(state)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        return tags
