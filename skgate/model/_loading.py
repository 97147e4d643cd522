"""Load a language model once per process, and find its parts."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import joblib
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "subfolder", "token")
_OTHER_MODALITIES = ("vision", "visual", "audio", "speech", "image")
_NO_LIMIT = 10**9  # tokenizers without a limit report about 1e30


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
    def input_device(self) -> torch.device:
        """Device that the model expects token ids on."""
        embeddings: Any = self.backbone.get_input_embeddings()  # type: ignore[operator]  # (transformers')
        hook = getattr(embeddings, "_hf_hook", None)
        device = getattr(hook, "execution_device", None)  # accelerate's, of an offloaded model
        if device is None:
            device = next(embeddings.parameters()).device
        return torch.device(device)


_OF_MODELS_BY_ID = {"dtype": "auto", "device": "auto", "revision": None, "model_kwargs": None}

_loaded: dict[str, tuple[object, LanguageModel]] = {}
_loading = threading.Lock()


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
    for name, default in _OF_MODELS_BY_ID.items():
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

    Parameters
    ----------
    model : str or path
        The id or path.
    tokenizer : str, PreTrainedTokenizerBase or None
        Taken from the model's own id if None.
    dtype, device, revision, model_kwargs
        See :class:`skgate.ActivationTransformer`.

    Returns
    -------
    language_model : LanguageModel
        The same object in each call with equivalent arguments, until a file of a local model or
        tokenizer changes.
    """
    model = os.fspath(model)
    options = dict(model_kwargs or {})
    if isinstance(tokenizer, os.PathLike):
        tokenizer = os.fspath(tokenizer)
    live_tokenizer = tokenizer if not isinstance(tokenizer, str | None) else None
    places = [_place(model), _place(tokenizer or model) if live_tokenizer is None else ""]
    key = joblib.hash(
        (
            places,
            id(live_tokenizer) if live_tokenizer is not None else None,
            str(dtype).removeprefix("torch."),
            str(device),
            revision,
            options,
        )
    )
    modified = [_modified(place) for place in places]
    with _loading:
        if key not in _loaded or _loaded[key][0] != modified:
            if live_tokenizer is None:
                live_tokenizer = _load_tokenizer(tokenizer or model, revision, options)
            _loaded.pop(key, None)  # frees the old model before the new one is loaded
            loaded = _load_model(model, dtype, device, revision, options)
            _loaded[key] = modified, find_parts(loaded, live_tokenizer)
        return _loaded[key][1]


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
    ValueError
        If it is an encoder-decoder model, or if its blocks can't be found or told apart.
    """
    whole = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    if hasattr(whole, "get_base_model"):  # PEFT's wrapper
        if any(config.is_prompt_learning for config in whole.peft_config.values()):
            raise ValueError(
                "Got a model with a prompt-learning adapter (prefix or prompt tuning), expected a "
                "plain model or adapters such as LoRA: these act inside the model's blocks."
            )
        whole = whole.get_base_model()  # type: ignore[operator]  # (PEFT's, unknown here)
    config = whole.config
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"Got a {type(whole).__name__}, an encoder-decoder, expected a decoder-only or an "
            "encoder-only model."
        )
    text_config = config.get_text_config()
    backbone = whole.base_model
    stated = [
        getattr(text_config, "max_position_embeddings", None),
        getattr(tokenizer, "model_max_length", None),
    ]
    limits = [int(limit) for limit in stated if limit is not None and 0 < limit < _NO_LIMIT]
    stack, blocks = find_blocks(backbone, text_config.num_hidden_layers)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        backbone=backbone,
        stack=stack,
        blocks=blocks,
        hidden_size=int(text_config.hidden_size),
        max_length=min(limits, default=None),
    )


def find_blocks(backbone: nn.Module, n_layers: int) -> tuple[nn.Module, nn.ModuleList]:
    """Find the outermost list of ``n_layers`` modules of the text model, and its owner."""
    lists: list[tuple[str, nn.ModuleList]] = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == n_layers
        and not any(word in name for word in _OTHER_MODALITIES)
    ]
    if not lists:
        raise ValueError(
            f"Got a {type(backbone).__name__} without a list of num_hidden_layers={n_layers} "
            "blocks, expected one module per layer."
        )
    name, blocks = min(lists, key=lambda found: found[0].count("."))
    first: dict[nn.Module, int] = {}
    for i, block in enumerate(blocks):
        if first.setdefault(block, i) != i:
            raise ValueError(
                f"Got a {type(backbone).__name__} whose layers {first[block]} and {i} are the same "
                "block, expected a separate block for each layer, as copy.deepcopy makes. A hook "
                "can't tell the runs of one block apart."
            )
    return backbone.get_submodule(name.rpartition(".")[0]), blocks


def _load_model(
    model: str,
    dtype: str | torch.dtype,
    device: str | torch.device,
    revision: str | None,
    options: dict[str, Any],
) -> PreTrainedModel:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    hub = {name: options[name] for name in (*_HUB_OPTIONS, "trust_remote_code") if name in options}
    config = options.get("config") or transformers.AutoConfig.from_pretrained(
        model, revision=revision, **hub
    )
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    is_causal = any(name in causal for name in config.architectures or ())
    remote = getattr(config, "auto_map", None) or {}
    auto = (
        transformers.AutoModelForCausalLM
        if is_causal or "AutoModelForCausalLM" in remote
        else transformers.AutoModel
    )
    loaded: PreTrainedModel = auto.from_pretrained(model, revision=revision, dtype=dtype, **options)
    if "device_map" not in options:
        loaded = loaded.to(_resolve_device(device))  # type: ignore[arg-type]  # (stubs: str only)
    loaded.train(False)
    return loaded


def _load_tokenizer(
    tokenizer: str, revision: str | None, options: dict[str, Any]
) -> PreTrainedTokenizerBase:
    import transformers

    hub = {name: options[name] for name in (*_HUB_OPTIONS, "trust_remote_code") if name in options}
    return transformers.AutoTokenizer.from_pretrained(tokenizer, revision=revision, **hub)


def _resolve_device(device: str | torch.device) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _place(path: str) -> str:
    """Normalize the path of a folder; return an id unchanged."""
    return os.path.realpath(path) if os.path.isdir(path) else path


def _modified(path: str) -> tuple[tuple[str, int], ...]:
    """List when each file of a local checkpoint was last written; () for an id."""
    if not os.path.isdir(path):
        return ()
    with os.scandir(path) as files:
        return tuple(sorted((f.name, f.stat().st_mtime_ns) for f in files if f.is_file()))
