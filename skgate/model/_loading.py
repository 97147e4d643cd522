"""Load a language model once per process, and find its parts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import joblib
import torch
from torch import nn

from skgate.model._blocks import find_blocks
from skgate.model._checkpoints import find_adapter, load_model, load_tokenizer
from skgate.model._lengths import max_prompt_length
from skgate.model._places import locate
from skgate.model._registry import Registry, models

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MAX_TOKENIZERS = 4  # of each loaded model

_DTYPES = "'auto', a torch.dtype or its name, such as 'float16' or 'bfloat16'"
# Arguments of from_pretrained that are parameters of their own.
_OWN_PARAMETERS = {
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "device": "device",
    "revision": "revision",
    "pretrained_model_name_or_path": "model",
}

# What only a model given as an id or path is loaded with; a live one asks for these defaults.
LOADING_DEFAULTS = {"dtype": "auto", "device": "auto", "revision": None, "model_kwargs": None}


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal or encoder model, its tokenizer and its parts.

    Attributes
    ----------
    model : PreTrainedModel
        The whole model.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    backbone : torch.nn.Module
        The model without its language-model head.
    stack : torch.nn.Module
        The module that runs the blocks; in most models the backbone itself.
    blocks : torch.nn.ModuleList
        The decoder or encoder blocks, whose outputs are the residual stream.
    hidden_size : int
        Width of the residual stream.
    max_length : int or None
        The most tokens that the model accepts; None if it states no limit.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    backbone: nn.Module
    stack: nn.Module
    blocks: nn.ModuleList
    hidden_size: int
    max_length: int | None

    @property
    def name(self) -> str:
        """Name for messages: the id or path the model was loaded from, or its class."""
        return getattr(self.model, "name_or_path", "") or type(self.model).__name__

    @property
    def embeddings(self) -> Any:
        """The module that embeds token ids."""
        owner: Any = self.stack if hasattr(self.stack, "get_input_embeddings") else self.backbone
        return owner.get_input_embeddings()

    @property
    def input_device(self) -> torch.device:
        """Device that the model expects token ids on."""
        embeddings = self.embeddings
        hook = getattr(embeddings, "_hf_hook", None)
        device = getattr(hook, "execution_device", None)  # accelerate's, of an offloaded model
        if device is None:
            device = next(embeddings.parameters()).device
        return torch.device(device)


def open_language_model(model: Any, *, tokenizer: Any = None, **options: Any) -> LanguageModel:
    """Load a model by id or path, or find the parts of a live one.

    Parameters
    ----------
    model : str, path or PreTrainedModel
        The model.
    tokenizer : str, path, PreTrainedTokenizerBase or None
        Its tokenizer; taken from the model's id if None. A live model needs a live one.
    **options
        ``dtype``, ``device``, ``revision`` and ``model_kwargs``, as in
        :class:`skgate.ActivationTransformer`; for a live model, their defaults.

    Returns
    -------
    language_model : LanguageModel
        The model and its parts.

    Raises
    ------
    ValueError
        If a live model is given with an option or without a live tokenizer.
    """
    if isinstance(model, str | os.PathLike):
        return load_language_model(model, tokenizer=tokenizer, **options)
    for name, default in LOADING_DEFAULTS.items():
        value = options.get(name, default)
        if value != default:
            raise ValueError(
                f"Got {name}={value!r} with a live model, expected {default!r}. It only has an "
                "effect on a model given as an id or path."
            )
    if tokenizer is None or isinstance(tokenizer, str | os.PathLike):
        raise ValueError(
            f"Got tokenizer={tokenizer!r} with a live {type(model).__name__}, expected a live "
            "tokenizer."
        )
    return find_parts(model, tokenizer)


def load_language_model(
    model: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> LanguageModel:
    """Load a model and its tokenizer by Hugging Face id or local path, once per process.

    The model is kept in the registry of :mod:`skgate.model._registry`, with the tokenizers that
    were loaded for it. Tokenizers share it, as its activations only depend on token ids.

    Parameters
    ----------
    model : str or path
        The id or path.
    tokenizer : str, path, PreTrainedTokenizerBase or None
        Taken from the model's own id if None.
    dtype, device, revision, model_kwargs
        See :class:`skgate.ActivationTransformer`.

    Returns
    -------
    language_model : LanguageModel
        The model and its parts. It is the same object in each call with equal arguments, even if
        they are written differently, until a file of a local model or tokenizer changes or the
        model is released. With a live tokenizer, the model is the same.

    Raises
    ------
    OSError
        If there is no checkpoint at this place.
    ValueError
        If ``dtype`` is none, or ``model_kwargs`` conflict with another parameter.
    """
    options = dict(model_kwargs or {})
    dtype = _check_options(dtype, device, options)
    subfolder = options.get("subfolder")
    place = locate(model)
    stamp, base = [place.modified(subfolder)], None
    if place.is_folder and "gguf_file" not in options:
        adapter = find_adapter(place, revision, options)
        if adapter is not None:
            base = adapter.base.path
            stamp.append(adapter.base.modified())
    key = joblib.hash(
        (place.path, base, str(dtype).removeprefix("torch."), str(device), revision, options)
    )

    def load() -> _Loaded:
        return _Loaded(load_model(place, dtype, device, revision, options))

    if not isinstance(tokenizer, str | os.PathLike | None):
        return find_parts(models.get(key, stamp, load).model, tokenizer)
    words = place if tokenizer is None else locate(tokenizer, "tokenizer")
    own = dict(options)
    if words.path != place.path:
        for name in ("gguf_file", "subfolder"):  # these are inside the model's folder
            own.pop(name, None)
    find = partial(load_tokenizer, words, revision, own)
    changed = words.modified(own.get("subfolder"))

    def load_both() -> _Loaded:
        found = find()  # first: if it is missing, no model was loaded in vain
        loaded = load()
        loaded.open(words.path, changed, lambda: found)
        return loaded

    return models.get(key, stamp, load_both).open(words.path, changed, find)


class _Loaded:
    """A model in the registry, and the tokenizers that were loaded for it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._by_tokenizer: Registry[LanguageModel] = Registry(_MAX_TOKENIZERS)

    def open(
        self, path: str, stamp: object, load: Callable[[], PreTrainedTokenizerBase]
    ) -> LanguageModel:
        """Find the parts of the model, with the tokenizer at a place."""
        return self._by_tokenizer.get(path, stamp, lambda: find_parts(self.model, load()))


def _check_options(
    dtype: str | torch.dtype, device: str | torch.device, model_kwargs: Mapping[str, Any]
) -> str | torch.dtype:
    """Find the dtype that a name means; raise a ValueError for arguments that contradict others."""
    named = dtype
    if isinstance(dtype, str) and dtype != "auto":
        named = getattr(torch, dtype.removeprefix("torch."), dtype)
    if named != "auto" and not (isinstance(named, torch.dtype) and named.is_floating_point):
        raise ValueError(f"Got dtype={dtype!r}, expected {_DTYPES}.")
    for name, parameter in _OWN_PARAMETERS.items():
        if name in model_kwargs:
            raise ValueError(
                f"Got {name!r} in model_kwargs, expected it as the parameter {parameter}."
            )
    if "device_map" in model_kwargs and device != "auto":
        raise ValueError(
            f"Got device={str(device)!r} and 'device_map' in model_kwargs, expected only one of "
            "them."
        )
    return named


def _check_live(model: Any) -> None:
    """Raise a TypeError for what is no model of transformers."""
    from transformers import PreTrainedModel

    if isinstance(model, PreTrainedModel):
        return
    inner = next((name for name in ("module", "model") if hasattr(model, name)), None)
    advice = f" Pass its .{inner}, if that is one." if inner else ""
    raise TypeError(
        f"Got a {type(model).__name__} as model, expected a PreTrainedModel of transformers, "
        f"by itself or inside the wrapper of PEFT or torch.compile.{advice}"
    )


def find_parts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """Find the backbone and the blocks of a live model.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model or an encoder; wrappers of PEFT and ``torch.compile`` are removed.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.

    Returns
    -------
    language_model : LanguageModel
        The model and its parts.

    Raises
    ------
    TypeError
        If it is no model of transformers, or a steered view of one.
    ValueError
        If it is an encoder-decoder model, or if its blocks can't be found or told apart.
    """
    whole = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    if getattr(whole, "is_steered_view", False):
        raise TypeError(
            f"Got a steered view of a {type(whole).__name__} as model, expected the model itself."
        )
    if hasattr(whole, "get_base_model"):  # PEFT's wrapper
        if any(config.is_prompt_learning for config in whole.peft_config.values()):
            raise ValueError(
                "Got a model with a prompt-learning adapter (prefix or prompt tuning), expected a "
                "plain model or adapters such as LoRA: these act inside the model's blocks."
            )
        whole = whole.get_base_model()  # type: ignore[operator]  # (PEFT's, unknown here)
    _check_live(whole)
    config = whole.config
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"Got a {type(whole).__name__}, an encoder-decoder, expected a decoder-only or an "
            "encoder-only model."
        )
    text_config = config.get_text_config()
    backbone = whole.base_model
    n_layers = getattr(text_config, "num_hidden_layers", None)
    if n_layers is None:
        raise ValueError(
            f"Got a {type(whole).__name__}, whose configuration has no num_hidden_layers, expected "
            "a model that is a stack of blocks."
        )
    stack, blocks = find_blocks(backbone, n_layers)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        backbone=backbone,
        stack=stack,
        blocks=blocks,
        hidden_size=int(text_config.hidden_size),
        max_length=max_prompt_length(config, backbone),
    )
