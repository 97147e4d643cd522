"""Fingerprints of models and tokenizers: equal fingerprints mean equal activations.

The weights are read once per fingerprint, at memory speed (about 20 GB/s on a CPU). The bits are
summed along rows and columns, which detects every kind of in-place change. Calls that can do with
less use :mod:`skgate.model._watch`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from skgate.model._rope import is_rewritten

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedTokenizerBase

# 8-byte words per checksummed row. The number is odd because sums are modulo 2**64: there, the
# highest bits (the signs) of an even number of words cancel, and matrices repeat after even numbers
# of words.
_CHUNK = 4095
_ROW_BYTES = 8 * _CHUNK
_ROWS_AT_ONCE = 32  # on a CPU: what is summed along rows is still in the cache for the columns
# Attributes that change no activation, or that the first forward pass sets.
_NO_SETTINGS = {
    "training",
    "name_or_path",
    "vocab_size",  # (not kept up to date when embeddings are resized, whose weights say it)
    "gradient_checkpointing",
    "layers_are_rescaled",  # RWKV's
    "compute_type_is_set",  # bitsandbytes'
}
_NO_SETTINGS |= set(dir(nn.Module))  # the names of methods that may be replaced
# Entries of a configuration that change no activation.
_INERT = {
    "architectures",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cls_token_id",
    "decoder_start_token_id",
    "dtype",  # (the weights' own is part of their fingerprint)
    "eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "mask_token_id",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",  # (compared separately)
    "use_cache",
    "_name_or_path",
}
_ADAPTER_STATE = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
# Settings of a slow tokenizer that change no token id.
_NO_TOKENIZER_SETTINGS = {
    "clean_up_tokenization_spaces",
    "is_local",
    "local_files_only",
    "model_max_length",
    "use_fast",
}
_MODEL_SETTINGS = (  # of a fast tokenizer's BPE, WordPiece, WordLevel or Unigram model
    "dropout",
    "unk_token",
    "unk_id",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "max_input_chars_per_word",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
)
_SAMPLED_TOKENS = 64
_MAX_STATES = 8
_SHORT_PROBE = "How do I boil an egg? 如何? Как? 12.5%\n\tx_y"
_PROBE = "How do I kill a process? Jinsi gani? 如何? Как? كيف? ทำอย่างไร? bawo ni? 12.5%\n\tx_y"


@dataclass
class _KnownTokenizer:
    """A tokenizer's backend, its size, and its fingerprints by what _sample found.

    There are several, as calls may alternate between states.
    """

    backend: Any
    n_tokens: int = 0
    fingerprints: dict[str, str] = field(default_factory=dict)


_of_tokenizers: WeakKeyDictionary[Any, _KnownTokenizer] = WeakKeyDictionary()


def digest(*parts: object) -> str:
    """Hash the text forms of ``parts`` into 32 hexadecimal digits."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def fingerprint_weights(module: nn.Module) -> str:
    """Fingerprint the weights of ``module``, their dtypes, and the state of its adapters.

    Equal weights give equal fingerprints on every device, in every process and for every path. If
    weights are sharded over several processes, each process fingerprints its own shard.

    Parameters
    ----------
    module : torch.nn.Module
        The backbone of a language model.

    Returns
    -------
    fingerprint : str
        32 hexadecimal digits.
    """
    return read_weights(module)[0]


def read_weights(module: nn.Module) -> tuple[str, list[RowSums]]:
    """Fingerprint the weights of ``module``, and keep a checksum of each row of them.

    Parameters
    ----------
    module : torch.nn.Module
        The backbone of a language model.

    Returns
    -------
    fingerprint : str
        As :func:`fingerprint_weights` returns it.
    sums : list of RowSums
        The checksums of each tensor.
    """
    hasher = hashlib.blake2b(digest_size=16)
    sums = [found for tensor in _tensors(module) for found in _update(hasher, tensor)]
    for child in module.modules():
        state = adapter_state(child)
        if state:
            hasher.update(repr(state).encode())
    return hasher.hexdigest(), sums


class RowSums(NamedTuple):
    """A tensor, and the checksum of each row of ``_ROW_BYTES`` bytes of it."""

    tensor: torch.Tensor
    sums: torch.Tensor

    def agree(self, first: int, last: int) -> bool:
        """Whether the rows from ``first`` up to ``last`` still have their checksums."""
        octets = _to_octets(self.tensor)[first * _ROW_BYTES : last * _ROW_BYTES]
        return torch.equal(_to_words(octets).sum(1), self.sums[first:last])


def adapter_state(module: nn.Module) -> list[tuple[str, Any]]:
    """List what decides which adapters of a module act, and how much; [] if it has none."""
    state = [(name, getattr(module, name, None)) for name in _ADAPTER_STATE]
    return [(name, value) for name, value in state if not (value is None or callable(value))]


class Structure(NamedTuple):
    """Fingerprints of everything besides the weights.

    Attributes
    ----------
    full : str
        32 hexadecimal digits: classes, configuration, settings and buffers, bit for bit.
    settings : str
        The version of transformers, "/", and 32 hexadecimal digits: the same, except what never
        changes activations (such as dropout, special tokens and ``use_cache``) and rounding errors
        in buffers, which depend on the device.
    """

    full: str
    settings: str


def fingerprint_structure(module: nn.Module) -> Structure:
    """Fingerprint everything besides the weights that decides the activations.

    Settings are the modules' public attributes: numbers, texts, lists of them, and functions by
    their names.

    Parameters
    ----------
    module : torch.nn.Module
        The backbone of a language model.

    Returns
    -------
    structure : Structure
        The same in every process and for every path. Only comparable within one version of
        transformers.
    """
    from transformers import __version__

    config: Any = getattr(module, "config", None)
    values = config.to_dict() if config is not None else {}
    values.pop("_name_or_path", None)
    modules = dict(module.named_modules())
    children = [
        (name, type(child).__qualname__, child.extra_repr(), _settings(child))
        for name, child in modules.items()
    ]
    exact, rounded = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for buffer in _unsaved_buffers(modules.values()):
        _update(exact, buffer)
        _update(rounded, _round(buffer))
    others = _describe_other_configs(modules.values(), config) if config is not None else []
    attention = getattr(config, "_attn_implementation", None)
    lasting = [
        (name, kind, text, [(key, value) for key, value in settings if "drop" not in key])
        for name, kind, text, settings in children
        if "Dropout" not in kind
    ]
    settings = digest(
        _to_json(_without_inert(values)), lasting, attention, rounded.hexdigest(), *others
    )
    return Structure(
        full=digest(_to_json(values), children, attention, exact.hexdigest(), *others),
        settings=f"{__version__}/{settings}",
    )


def _unsaved_buffers(modules: Iterable[nn.Module]) -> Iterator[torch.Tensor]:
    """Buffers that are not saved with the weights, such as rotary frequencies."""
    for child in modules:
        for name in sorted(child._non_persistent_buffers_set):  # noqa: SLF001  (torch: no public way)
            buffer = getattr(child, name, None)
            if buffer is not None and not buffer.is_meta and not is_rewritten(child, name):
                yield buffer.detach()


def _round(buffer: torch.Tensor) -> torch.Tensor:
    """Round floating-point numbers to about 5 %, so that rounding errors make no difference."""
    if not buffer.is_floating_point():
        return buffer
    wide = buffer.double()
    # The shift keeps powers of 2 away from the steps.
    steps = (wide.abs().log2() * 16 + 0.37).floor().clamp(-20_000, 20_000).nan_to_num(30_000)
    return (steps * wide.sign()).to(torch.int16) + (wide == 0)


def _describe_other_configs(modules: Iterable[nn.Module], config: Any) -> list[str]:
    """Describe configurations of a model's parts that differ from the model's own.

    A part reads the model's configuration, or a configuration inside it, unless somebody replaced
    or copied it. Attention implementations are set per configuration.
    """
    own = [config, *(part for part in config.__dict__.values() if hasattr(part, "to_dict"))]
    parts = (child.__dict__.get("config") for child in modules)
    found = {id(part): part for part in parts if hasattr(part, "to_dict")}
    others = [found[key] for key in found.keys() - set(map(id, own))]
    strange: set[str] = set()
    if others:
        strange = {_describe(part) for part in others} - {_describe(part) for part in own}
    attention = {str(getattr(part, "_attn_implementation", None)) for part in own}
    usual = str(getattr(config, "_attn_implementation", None))
    return [*sorted(strange), *sorted(attention - {usual, "None"})]


def _describe(config: Any) -> str:
    values = config.to_dict()
    values.pop("_name_or_path", None)
    return f"{_to_json(values)} {getattr(config, '_attn_implementation', None)}"


def _without_inert(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what never changes an activation, in nested configurations too."""
    return {
        name: _without_inert(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if not (name in _INERT or "drop" in str(name))
    }


def _to_json(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint everything in a tokenizer that decides the token ids of a text.

    A fast tokenizer is fingerprinted by its whole backend: vocabulary, merges, added tokens,
    normalizer, pre-tokenizer and post-processor. A slow one is by vocabulary, merges and settings.
    Padding and truncation don't count, as calls change them; nor does the chat template, which is
    part of the prompt format.

    The fingerprint of an object is cached. It is computed again if one of the parts changes that
    can be compared quickly. These are its backend, its number of tokens, special tokens, all parts
    of the backend but the vocabulary, a sample of the vocabulary, and the ids of a sample text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The tokenizer.

    Returns
    -------
    fingerprint : str
        32 hexadecimal digits, the same for equal tokenizers.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "to_str"):
        backend = None
    known = _of_tokenizers.get(tokenizer)
    if known is None or known.backend is not backend:
        known = _of_tokenizers[tokenizer] = _KnownTokenizer(backend)
    known.n_tokens = _count_tokens(tokenizer, backend, known.n_tokens)
    state = _sample(tokenizer, backend, known.n_tokens)
    fingerprint = known.fingerprints.get(state)
    if fingerprint is None:
        if len(known.fingerprints) >= _MAX_STATES:
            known.fingerprints.clear()
        fingerprint = known.fingerprints[state] = digest(
            (backend and _describe_backend(backend)) or _describe_slow(tokenizer),
            _special_tokens(tokenizer),
            bool(getattr(tokenizer, "split_special_tokens", False)),
        )
    return fingerprint


def _count_tokens(tokenizer: Any, backend: Any, expected: int) -> int:
    """Count a tokenizer's tokens; its own count, slow with thousands of added ones, if needed."""
    if backend is not None and expected:
        has_last, has_next = (backend.id_to_token(i) is not None for i in (expected - 1, expected))
        if has_last and not has_next:
            return expected
    return len(tokenizer)


def _sample(tokenizer: Any, backend: Any, n_tokens: int) -> str:
    """Describe what of a tokenizer can be compared in a few milliseconds at most."""
    described = [
        n_tokens,
        _special_tokens(tokenizer),
        getattr(tokenizer, "split_special_tokens", None),
    ]
    if backend is None:
        return repr([*described, _added_tokens(tokenizer), tokenizer(_PROBE).input_ids])
    model = backend.model
    described += [getattr(model, name, None) for name in _MODEL_SETTINGS]
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        part = getattr(backend, name)
        described.append(_part_state(part))
    step = max(1, n_tokens // _SAMPLED_TOKENS)
    described.append([backend.id_to_token(i) for i in range(0, n_tokens, step)])
    return repr([*described, backend.encode(_SHORT_PROBE).ids])


def _part_state(part: Any) -> object:
    try:
        return None if part is None else part.__getstate__()
    except Exception:  # tokenizers' plain Exception: parts that are written in Python have none
        return repr(part)


def _describe_backend(backend: Any) -> str | None:
    """Describe a fast tokenizer's backend, except padding and truncation, which come first.

    None if the backend has parts that are written in Python, which have no description.
    """
    try:
        text = backend.to_str()
    except Exception:  # tokenizers raises a plain Exception
        return None
    _, name, rest = text.partition('"added_tokens":')  # (quotes inside values are escaped)
    return rest if name else text


def _describe_slow(tokenizer: Any) -> list[Any]:
    """Describe a tokenizer that is written in Python."""
    try:
        vocabulary = sorted(tokenizer.get_vocab().items(), key=itemgetter(1, 0))
    except NotImplementedError:
        vocabulary = []
    pieces: Any = getattr(tokenizer, "sp_model", None)  # SentencePiece's
    merges = getattr(tokenizer, "bpe_ranks", None) or {}
    settings = {
        name: value
        for name, value in getattr(tokenizer, "init_kwargs", {}).items()
        if isinstance(value, bool | int) and name not in _NO_TOKENIZER_SETTINGS
    }
    return [
        type(tokenizer).__qualname__,
        vocabulary,
        sorted(merges.items(), key=itemgetter(1)),
        pieces.serialized_model_proto() if hasattr(pieces, "serialized_model_proto") else None,
        sorted(settings.items()),
        _added_tokens(tokenizer),
        tokenizer(_PROBE).input_ids,
    ]


def _added_tokens(tokenizer: Any) -> list[tuple[int, str]]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return sorted((i, repr(token)) for i, token in added.items())


def _special_tokens(tokenizer: Any) -> list[tuple[str, str]]:
    """List the special tokens by their roles, except padding, which no activation depends on."""
    return sorted(
        (name, str(token))
        for name, token in getattr(tokenizer, "special_tokens_map", {}).items()
        if name != "pad_token"
    )


def _settings(module: nn.Module) -> list[tuple[str, Any]]:
    """List a module's own public plain attributes, such as ``top_k`` and ``sliding_window``.

    None counts as absent: attributes that a forward pass sets are None before it.
    """
    settings = []
    for name, value in module.__dict__.items():
        if is_setting(name):
            plain = _plain(value)
            if plain is not None:
                settings.append((name, plain))
    return sorted(settings, key=itemgetter(0))


def is_setting(name: str) -> bool:
    """Whether an attribute of this name may decide activations."""
    own = not (name.startswith("_") or name in _NO_SETTINGS)
    return own and not name.endswith("max_seq_len_cached")


def _plain(value: Any) -> Any:
    """Return numbers, texts and lists of them, the names of functions, and None for the rest."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        parts = ["None" if part is None else _plain(part) for part in value]
        return None if None in parts else parts
    if isinstance(value, partial):
        return _plain([value.func, *value.args, *chain(*sorted(value.keywords.items()))])
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if isinstance(name, str) else None


def _update(hasher: hashlib.blake2b, tensor: torch.Tensor) -> list[RowSums]:
    hasher.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    inner = inner_tensors(tensor)
    if inner is not None:
        return [found for part in inner for found in _update(hasher, part)]
    columns, rows = _checksums(_to_octets(tensor))
    for sums in (columns, rows):
        hasher.update(sums.cpu().numpy().tobytes())
    return [RowSums(tensor, rows)]


def inner_tensors(tensor: Any) -> list[torch.Tensor] | None:
    """Return the tensors inside a sharded, quantized or other special tensor; else None."""
    if hasattr(tensor, "to_local"):  # a DTensor: this process's shard
        return [tensor.to_local()]
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [getattr(tensor, name) for name in names]
    return None


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and persistent buffers, including those that accelerate offloads."""
    for child in module.modules():
        buffers = {
            name: tensor
            for name, tensor in child._buffers.items()  # noqa: SLF001  (torch: no public way)
            if name not in child._non_persistent_buffers_set  # noqa: SLF001
        }
        for name, tensor in (*child._parameters.items(), *buffers.items()):  # noqa: SLF001
            if tensor is None:
                continue
            if tensor.is_meta:
                offloaded = getattr(getattr(child, "_hf_hook", None), "weights_map", None)
                if offloaded is None:
                    raise ValueError(
                        f"Got a model whose parameter {name!r} is on the meta device only, "
                        "expected one with loaded weights."
                    )
                tensor = torch.as_tensor(offloaded[name])
            yield tensor.detach()


def _to_octets(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor as bytes; a copy if it is not contiguous or not aligned."""
    octets = tensor.contiguous().reshape(-1).view(torch.uint8)
    return octets.clone() if octets.storage_offset() % 8 else octets


def _to_words(octets: torch.Tensor) -> torch.Tensor:
    """Arrange bytes in rows of 8-byte words; zeros fill the last row."""
    spare = -octets.numel() % _ROW_BYTES
    if spare:
        octets = torch.cat([octets, octets.new_zeros(spare)])
    return octets.view(torch.int64).view(-1, _CHUNK)


def _checksums(octets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of bits along the columns and the rows of an array of words."""
    main = octets.numel() - octets.numel() % _ROW_BYTES
    if 0 < main < octets.numel():  # the last row apart, so that only it is copied
        head, tail = _checksums(octets[:main]), _checksums(octets[main:])
        return torch.cat([head[0], tail[0]]), torch.cat([head[1], tail[1]])
    words = _to_words(octets)
    columns, rows = words.new_zeros(_CHUNK), words.new_empty(len(words))
    step = _ROWS_AT_ONCE if words.device.type == "cpu" else max(1, len(words))
    for start in range(0, len(words), step):
        block = words[start : start + step]
        columns += block.sum(0)
        rows[start : start + step] = block.sum(1)
    return columns, rows
