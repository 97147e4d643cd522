"""Load what is in a checkpoint: the class that generates text, adapters, GGUF files, tokenizers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from skgate.model._places import (
    Place,
    describe_missing,
    find_file,
    hub_options,
    locate,
    one_line,
    use_cached_folder,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CONFIG = "config.json"
_ADAPTER_CONFIG = "adapter_config.json"
# One of them is in every folder with a tokenizer.
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")
# Models that generate text, the more special first: a config class may have one of each.
_GENERATIVE = (
    "AutoModelForImageTextToText",
    "AutoModelForCausalLM",
    "AutoModelForMultimodalLM",  # audio; since transformers 5
)


@dataclass(frozen=True)
class Adapter:
    """What ``adapter_config.json`` says of the model that an adapter was trained for.

    Attributes
    ----------
    base : Place
        The base model.
    revision : str or None
        Its revision, if it is on a hub.
    """

    base: Place
    revision: str | None


def find_adapter(place: Place, revision: str | None, hub: Mapping[str, Any]) -> Adapter | None:
    """Find the base model of an adapter that PEFT saved.

    Parameters
    ----------
    place : Place
        A checkpoint.
    revision : str or None
        The revision of a model on a hub.
    hub : mapping
        What :func:`skgate.model._places.hub_options` returns.

    Returns
    -------
    adapter : Adapter or None
        None if the checkpoint is a whole model.

    Raises
    ------
    FileNotFoundError
        If the base model is a folder that doesn't exist.
    """
    if find_file(place, _CONFIG, revision, hub):
        return None  # a whole model, perhaps with an adapter that transformers adds by itself
    file = find_file(place, _ADAPTER_CONFIG, revision, hub)
    if file is None:
        return None
    try:
        stated = dict(json.loads(Path(file).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Got model={place.path!r}, an adapter whose {_ADAPTER_CONFIG} is no JSON object: "
            f"{error}"
        ) from error
    base = stated.get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"Got model={place.path!r}, an adapter whose {_ADAPTER_CONFIG} names no base model, "
            "expected base_model_name_or_path there."
        )
    beside = os.path.join(place.path, base)
    if place.is_folder and not os.path.isdir(base) and os.path.isdir(beside):
        base = beside
    try:
        return Adapter(locate(base), stated.get("revision"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Got model={place.path!r}, an adapter whose base model {base!r} doesn't exist, "
            f"expected a folder or an id as base_model_name_or_path in its {_ADAPTER_CONFIG}."
        ) from error


def load_model(
    place: Place,
    dtype: str | torch.dtype,
    device: str | torch.device,
    revision: str | None,
    options: Mapping[str, Any],
) -> PreTrainedModel:
    """Load a model with the class that generates text, if its checkpoint has one.

    Parameters
    ----------
    place : Place
        The checkpoint: of a whole model, or an adapter.
    dtype, device, revision
        See :class:`skgate.ActivationTransformer`.
    options : mapping
        ``model_kwargs``.

    Returns
    -------
    model : PreTrainedModel or PeftModel
        In evaluation mode, on its device.

    Raises
    ------
    OSError
        If there is no checkpoint in this place, or if it can't be downloaded.
    ImportError
        If the checkpoint needs a package that is not installed.
    """
    _check_gguf(options)
    hub, model_id = hub_options(place, options), place.path
    file = options.get("gguf_file")
    place = use_cached_folder(place, (file or _CONFIG, _ADAPTER_CONFIG), revision, hub)
    adapter = None if file is not None else find_adapter(place, revision, hub)
    if adapter is not None:
        peft = _import_peft(place)
        model = load_model(adapter.base, dtype, device, adapter.revision, _of_base(options))
        _add_tokens(model, place, revision, options, hub)
        model = peft.PeftModel.from_pretrained(model, place.path, revision=revision, **hub)
    else:
        name = file or _CONFIG
        if "config" not in options and not find_file(place, name, revision, hub):
            names = name if file else f"{_CONFIG} or {_ADAPTER_CONFIG}"
            raise FileNotFoundError(describe_missing(place, names, hub))
        if find_file(place, _ADAPTER_CONFIG, revision, hub):
            _import_peft(place)  # without it, transformers ignores the adapter silently
        model = _load_whole(place, dtype, revision, options, hub)
        if "device_map" not in options:
            model = model.to(_resolve_device(device))  # type: ignore[arg-type]  # (stubs: str only)
    model.name_or_path = model_id  # not the cache's folder, nor an adapter's base
    model.train(False)
    return model


def load_tokenizer(
    place: Place, revision: str | None, options: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    """Load a tokenizer: the checkpoint's own or, if an adapter has none, its base model's.

    Parameters
    ----------
    place : Place
        A tokenizer, or a checkpoint with one.
    revision : str or None
        Its revision, if it is on a hub.
    options : mapping
        ``model_kwargs``, of which those that concern files count.

    Returns
    -------
    tokenizer : PreTrainedTokenizerBase
        The tokenizer.

    Raises
    ------
    OSError
        If there is no tokenizer in this place, or if it can't be downloaded.
    ImportError
        If the tokenizer needs a package that is not installed.
    """
    import transformers

    _check_gguf(options)
    hub = hub_options(place, options)
    own = _reading_options(options)
    file = own.get("gguf_file")
    names = (_CONFIG, *_TOKENIZER_FILES) if file is None else (file,)
    place = use_cached_folder(place, (*names, _ADAPTER_CONFIG), revision, hub)
    if not any(find_file(place, name, revision, hub) for name in names):
        adapter = None if file is not None else find_adapter(place, revision, hub)
        if adapter is None:
            looked_for = file or f"{_CONFIG}, {_ADAPTER_CONFIG} or a tokenizer"
            raise FileNotFoundError(describe_missing(place, looked_for, hub))
        return load_tokenizer(adapter.base, adapter.revision, _of_base(options))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            place.path, revision=revision, **hub, **own
        )
        if not _has_vocabulary(tokenizer):
            raise OSError("it has no vocabulary")
    except (OSError, ValueError) as error:
        raise OSError(
            f"Got {place.what}={place.path!r}, from which no tokenizer can be loaded, expected one "
            f"there or as the parameter tokenizer: {one_line(error)}"
        ) from error
    return tokenizer


def _has_vocabulary(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell a tokenizer from the one of special tokens that transformers makes without files."""
    special = {"▁", *tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return len(tokenizer) > len(special) or not special.issuperset(tokenizer.get_vocab())


def _of_base(options: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the subfolder, which is one of the adapter's."""
    return {name: value for name, value in options.items() if name != "subfolder"}


def _add_tokens(
    model: PreTrainedModel,
    place: Place,
    revision: str | None,
    options: Mapping[str, Any],
    hub: Mapping[str, Any],
) -> None:
    """Enlarge a base model's embeddings for the tokens that an adapter was trained with."""
    if not any(find_file(place, name, revision, hub) for name in _TOKENIZER_FILES):
        return
    n_tokens = len(load_tokenizer(place, revision, options))
    embeddings: Any = model.get_input_embeddings()
    if n_tokens > embeddings.num_embeddings:
        with torch.random.fork_rng(devices=[]):  # rows that the adapter has not saved are random
            torch.manual_seed(0)
            model.resize_token_embeddings(n_tokens)


def _load_whole(
    place: Place,
    dtype: str | torch.dtype,
    revision: str | None,
    options: Mapping[str, Any],
    hub: Mapping[str, Any],
) -> PreTrainedModel:
    import transformers

    config = options.get("config")
    if config is None:
        config = transformers.AutoConfig.from_pretrained(
            place.path, revision=revision, **hub, **_reading_options(options)
        )
    auto = getattr(transformers, choose_auto_class(config))
    return auto.from_pretrained(place.path, revision=revision, dtype=dtype, **{**options, **hub})


def _reading_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the options that concern configurations and tokenizers too."""
    return {name: options[name] for name in ("trust_remote_code", "gguf_file") if name in options}


def choose_auto_class(config: Any) -> str:
    """Choose the class of transformers that loads a checkpoint so that it can generate text.

    The checkpoint's own code comes first, then the class that it was saved with. If the
    configuration names no class, its type decides.

    Parameters
    ----------
    config : PreTrainedConfig
        The checkpoint's configuration.

    Returns
    -------
    name : str
        Such as "AutoModelForCausalLM"; "AutoModel" for encoders and headless models.
    """
    import transformers

    remote = getattr(config, "auto_map", None) or {}
    generative = [name for name in _GENERATIVE if hasattr(transformers, name)]
    for name in generative:
        if name in remote:
            return name
    if config.architectures:
        for name in generative:
            if not set(config.architectures).isdisjoint(_class_names(name)):
                return name
        return "AutoModel"
    if _has_model(config, "AutoModelForMaskedLM") and not getattr(config, "is_decoder", False):
        return "AutoModel"  # an encoder: most have a causal class too, but no weights for it
    return next((name for name in generative if _has_model(config, name)), "AutoModel")


def _class_names(auto: str) -> set[str]:
    """Names of the classes that an automatic class of transformers chooses from."""
    import transformers

    names: set[str] = set()
    for value in getattr(transformers, auto)._model_mapping._model_mapping.values():  # noqa: SLF001  (as below)
        names.update([value] if isinstance(value, str) else value)
    return names


def _has_model(config: Any, auto: str) -> bool:
    import transformers

    return type(config) in getattr(transformers, auto)._model_mapping  # noqa: SLF001  (transformers: no public way)


def _check_gguf(options: Mapping[str, Any]) -> None:
    file = options.get("gguf_file")
    if file is not None and find_spec("gguf") is None:
        raise ImportError(
            f"Got gguf_file={file!r}, which needs the package gguf: "
            "pip install '.[gguf]' in the checkout of skgate."
        )


def _import_peft(place: Place) -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            f"Got model={place.path!r}, an adapter, which needs the package peft: pip install peft"
        ) from error
    return peft


def _resolve_device(device: str | torch.device) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
