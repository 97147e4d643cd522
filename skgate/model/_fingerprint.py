"""Fingerprints of models and tokenizers: what must be equal for activations to be equal.

The weights are read once per fingerprint, at memory speed (about 20 GB/s on a CPU): sums of their
bits along rows and columns, so that in-place changes are seen, however they were made.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skgate.model._rope import is_rewritten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

# 8-byte words per checksummed row. Odd: sums are modulo 2**64, where the highest bits, signs, of an
# even number of words cancel, and matrices repeat after even numbers of them.
_CHUNK = 4095
# Attributes that decide nothing, or that the first forward pass sets.
_NO_SETTINGS = {
    "training",
    "name_or_path",
    "gradient_checkpointing",
    "layers_are_rescaled",  # RWKV's
    "compute_type_is_set",  # bitsandbytes'
}
_ADAPTER_STATE = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
_PROBE = "How do I kill a process? Jinsi gani? 如何? Как? كيف? ทำอย่างไร? bawo ni? 12.5%\n\tx_y"


def digest(*parts: object) -> str:
    """Hash the text forms of ``parts`` into 32 hexadecimal digits."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def fingerprint_weights(module: nn.Module) -> str:
    """Fingerprint the weights of ``module``, their dtypes, and the state of its adapters.

    Equal weights give equal fingerprints on any device, in any process and from any path; of
    weights that are sharded over several processes, each sees its own share.

    Parameters
    ----------
    module : torch.nn.Module
        The backbone of a language model.

    Returns
    -------
    fingerprint : str
        32 hexadecimal digits.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for tensor in _tensors(module):
        _update(hasher, tensor)
    for child in module.modules():
        state = [(name, getattr(child, name, None)) for name in _ADAPTER_STATE]
        state = [(name, value) for name, value in state if not (value is None or callable(value))]
        if state:
            hasher.update(repr(state).encode())
    return hasher.hexdigest()


def fingerprint_structure(module: nn.Module) -> str:
    """Fingerprint what else decides the activations: classes, configuration, settings, buffers.

    Settings are the modules' public attributes: numbers, texts, lists of them, and functions by
    their names.

    Parameters
    ----------
    module : torch.nn.Module
        The backbone of a language model.

    Returns
    -------
    fingerprint : str
        32 hexadecimal digits: the same in any process and from any path, for one version of
        transformers.
    """
    config: Any = getattr(module, "config", None)
    settings = config.to_dict() if config is not None else {}
    settings.pop("_name_or_path", None)
    children = [
        (name, type(child).__qualname__, child.extra_repr(), _settings(child))
        for name, child in module.named_modules()
    ]
    hasher = hashlib.blake2b(digest_size=16)
    for child in module.modules():  # not saved with the weights, as rotary frequencies
        for name in sorted(child._non_persistent_buffers_set):
            buffer = child._buffers.get(name)
            if buffer is not None and not buffer.is_meta and not is_rewritten(child, name):
                _update(hasher, buffer.detach())
    attention = getattr(config, "_attn_implementation", None)
    described = json.dumps(settings, sort_keys=True, default=str)
    return digest(described, children, attention, hasher.hexdigest())


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint a tokenizer by its vocabulary size, special tokens and what it makes of a text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The tokenizer.

    Returns
    -------
    fingerprint : str
        32 hexadecimal digits.
    """
    return digest(len(tokenizer), sorted(tokenizer.all_special_tokens), tokenizer(_PROBE).input_ids)


def _settings(module: nn.Module) -> list[tuple[str, Any]]:
    """Public plain attributes of a module's own, such as ``top_k`` and ``sliding_window``.

    None is as good as absent: what a forward pass sets up for itself was None before.
    """
    settings = []
    for name, value in module.__dict__.items():
        own = not (name.startswith("_") or name in _NO_SETTINGS or hasattr(nn.Module, name))
        if own and not name.endswith("max_seq_len_cached"):
            plain = _plain(value)
            if plain is not None:
                settings.append((name, plain))
    return sorted(settings, key=itemgetter(0))


def _plain(value: Any) -> Any:
    """Numbers, texts, lists of them, and functions by their names; None for anything else."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        parts = ["None" if part is None else _plain(part) for part in value]
        return None if None in parts else parts
    if isinstance(value, partial):
        return _plain([value.func, *value.args, *chain(*sorted(value.keywords.items()))])
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if isinstance(name, str) else None


def _update(hasher: hashlib.blake2b, tensor: torch.Tensor) -> None:
    hasher.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    inner = _inner_tensors(tensor)
    if inner is not None:
        for part in inner:
            _update(hasher, part)
        return
    for sums in _checksums(tensor):
        hasher.update(sums.cpu().numpy().tobytes())


def _inner_tensors(tensor: Any) -> list[torch.Tensor] | None:
    """What holds the numbers of a sharded, quantized or other special tensor; else None."""
    if hasattr(tensor, "to_local"):  # a DTensor: this process's share
        return [tensor.to_local()]
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [getattr(tensor, name) for name in names]
    return None


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and persistent buffers, also those that accelerate keeps off the module."""
    for child in module.modules():
        buffers = {
            name: tensor
            for name, tensor in child._buffers.items()
            if name not in child._non_persistent_buffers_set
        }
        for name, tensor in (*child._parameters.items(), *buffers.items()):
            if tensor is None:
                continue
            if tensor.is_meta:
                offloaded = getattr(getattr(child, "_hf_hook", None), "weights_map", None)
                if offloaded is None:
                    raise ValueError(
                        f"model has the parameter {name!r} on the meta device and nowhere else: "
                        "its weights were never loaded."
                    )
                tensor = torch.as_tensor(offloaded[name])
            yield tensor.detach()


def _checksums(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the tensor's bits along the rows and the columns of an array of words."""
    octets = tensor.contiguous().reshape(-1).view(torch.uint8)
    if octets.storage_offset() % 8:
        octets = octets.clone()
    spare = -octets.numel() % (8 * _CHUNK)
    if spare and octets.numel() > 8 * _CHUNK:
        main = octets.numel() - octets.numel() % (8 * _CHUNK)
        head, tail = _checksums(octets[:main]), _checksums(octets[main:])
        return torch.cat([head[0], tail[0]]), torch.cat([head[1], tail[1]])
    if spare:
        octets = torch.cat([octets, octets.new_zeros(spare)])
    words = octets.view(torch.int64).view(-1, _CHUNK)
    return words.sum(0), words.sum(1)
