"""Fingerprints of models and tokenizers: what must be equal for activations to be equal.

The weights are read once per fingerprint, at memory speed (about 20 GB/s on a CPU), so that no
in-place change goes unseen, however it was made.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

_CHUNK = 4096  # 8-byte words per checksummed row
_ADAPTER_STATE = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
_PROBE = "How do I kill a process? Jinsi gani? 如何? Как? كيف? ทำอย่างไร? bawo ni? 12.5%\n\tx_y"


def digest(*parts: object) -> str:
    """Hash the text forms of ``parts`` into 32 hexadecimal digits."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def fingerprint_weights(module: nn.Module) -> str:
    """Fingerprint the weights of ``module``, their dtypes, and the state of its adapters.

    Equal weights give equal fingerprints on any device, in any process and from any path.

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
        hasher.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        for sums in _checksums(tensor):
            hasher.update(sums.cpu().numpy().tobytes())
    for child in module.modules():
        state = [(name, getattr(child, name, None)) for name in _ADAPTER_STATE]
        if any(value is not None for _, value in state):
            hasher.update(repr(state).encode())
    return hasher.hexdigest()


def fingerprint_structure(module: nn.Module) -> str:
    """Fingerprint what else decides the activations: classes, configuration, replaced forwards.

    Parameters
    ----------
    module : torch.nn.Module
        The backbone of a language model.

    Returns
    -------
    fingerprint : str
        32 hexadecimal digits, comparable within one process only.
    """
    config: Any = getattr(module, "config", None)
    settings = config.to_dict() if config is not None else {}
    children = [
        (name, type(child).__qualname__, id(child.__dict__.get("forward")))
        for name, child in module.named_modules()
    ]
    attention = getattr(config, "_attn_implementation", None)
    return digest(json.dumps(settings, sort_keys=True, default=str), children, attention)


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
    """Sums of the tensor's bits along the rows and the columns of a (-1, 4096) array of words."""
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
