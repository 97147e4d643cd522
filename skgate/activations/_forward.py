"""Forward passes over batches of prompts, and the shortcuts that they can take.

Two shortcuts save work. If one token of each prompt is read, the feed-forward part of the deepest
block only needs that token. The tokens that all prompts begin with, such as a chat template's, only
need to run once: in a causal model nothing that follows changes their keys and values. Not every
architecture supports both, so each shortcut is tried before it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from skgate.model._batching import widest_pair
from skgate.model._padding_limits import longest_padded
from skgate.model._rope import depends_on_length, length_boundaries, reset_positions
from skgate.model._stream_reading import read_blocks
from skgate.model._trials import differ, is_exact, record_trial, trial_result

if TYPE_CHECKING:
    import numpy.typing as npt
    from transformers import DynamicCache

    from skgate.model._loading import LanguageModel
    from skgate.model._prompts import Request

    Rows = dict[int, npt.NDArray[np.float32]]  # (n_requests, n_positions, d) per layer

_MIN_PREFIX = 4  # tokens
_MAX_BYTES = 2 << 30  # of a batch's keys and values
# A separate pass costs about as much as this many further tokens in a large batch.
_PASS_COST_ON_CPU = 128
_PASS_COST_ON_ACCELERATOR = 1024
_FEED_FORWARD = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
# A trial runs four prompts. Narrowing saves about this share of a block's work.
_PROMPTS_PER_TRIAL = 4
_SHARE_SAVED = 0.7


@dataclass(frozen=True)
class Prefix:
    """The first tokens of every prompt of a call, after they ran through the model.

    Attributes
    ----------
    length : int
        The number of tokens.
    keys_values : list of (Tensor, Tensor)
        Keys and values of each block that ran, of shape (1, n_heads, length, head_size). They are
        never edited.
    means : dict of int to Tensor of shape (1, 1, d)
        For each layer that is read, the mean of the block's output over the tokens.
    """

    length: int
    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    means: dict[int, torch.Tensor]

    @property
    def room(self) -> int:
        """How many tokens' keys and values fit into the memory allowed for a batch."""
        n_bytes = sum(part.nbytes for pair in self.keys_values for part in pair)
        return _MAX_BYTES * self.length // n_bytes

    def cache(self, n_prompts: int) -> DynamicCache:
        """Copy the keys and values into a cache for a batch."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for i, (keys, values) in enumerate(self.keys_values):
            cache.update(  # copies them
                keys.expand(n_prompts, *keys.shape[1:]),
                values.expand(n_prompts, *values.shape[1:]),
                i,
            )
        return cache


class Shortcuts(NamedTuple):
    """What a forward pass leaves out.

    Attributes
    ----------
    prefix : Prefix or None
        The first tokens of all prompts, which have run already.
    feed_forward : torch.nn.Module or None
        The part of the deepest block that only runs on the one token that is read.
    """

    prefix: Prefix | None = None
    feed_forward: nn.Module | None = None


PLAIN = Shortcuts()


def read_batch(
    language_model: LanguageModel,
    requests: Sequence[Request],
    layers: Sequence[int],
    shortcuts: Shortcuts = PLAIN,
) -> Rows:
    """Run one right-padded batch and read the activations of each prompt and layer.

    Parameters
    ----------
    language_model : LanguageModel
        The model.
    requests : sequence of Request
        The prompts of the batch.
    layers : sequence of int
        The blocks to read.
    shortcuts : Shortcuts, optional
        What to leave out; by default nothing.

    Returns
    -------
    rows : dict of int to ndarray of shape (n_requests, n_positions, d), float32
        The activations at each layer.
    """
    prefix, feed_forward = shortcuts
    skip = prefix.length if prefix is not None else 0
    lengths = np.array([len(request.ids) - skip for request in requests])
    # The padding is masked and comes after every token, so any id will do.
    input_ids = np.zeros((len(requests), lengths.max()), np.int64)
    mask = np.arange(lengths.max()) < lengths[:, None]
    input_ids[mask] = np.concatenate([request.ids[skip:] for request in requests])
    indices = [
        None if None in column else torch.tensor(column) - skip
        for column in zip(*(request.indices for request in requests), strict=True)
    ]
    device = language_model.input_device
    reset_positions(language_model.backbone)
    rows = read_blocks(
        language_model.backbone,
        language_model.blocks,
        layers,
        torch.from_numpy(input_ids).to(device),
        torch.from_numpy(mask.astype(np.int64)).to(device),
        indices,
        past_key_values=prefix.cache(len(requests)) if prefix is not None else None,
        feed_forward=feed_forward,
    )
    width = next(iter(rows.values())).shape[-1]
    if width != language_model.hidden_size:
        raise RuntimeError(
            f"Got vectors of size {width} from the blocks of {language_model.name}, expected its "
            f"hidden_size={language_model.hidden_size}. Architectures with several residual "
            "streams are not supported."
        )
    if prefix is not None and None in requests[0].indices:
        mean = requests[0].indices.index(None)
        share = torch.from_numpy(skip / (skip + lengths))[:, None].float()
        for layer, row in rows.items():
            row[:, mean] = share * prefix.means[layer][:, 0] + (1 - share) * row[:, mean]
    return {layer: row.numpy() for layer, row in rows.items()}


def compute_prefix(
    language_model: LanguageModel, ids: npt.NDArray[np.int64], layers: Sequence[int]
) -> Prefix:
    """Run the shared tokens ``ids`` through the model, as deep as the deepest of ``layers``."""
    from transformers import DynamicCache

    cache = DynamicCache()
    input_ids = torch.from_numpy(ids)[None].to(language_model.input_device)
    means = read_blocks(
        language_model.backbone,
        language_model.blocks,
        layers,
        input_ids,
        torch.ones_like(input_ids),
        [None],
        past_key_values=cache,
    )
    cached: list[Any] = cache.layers
    keys_values = [(layer.keys, layer.values) for layer in cached]
    if cache.get_seq_length() != len(ids) or any(keys is None for keys, _ in keys_values):
        raise RuntimeError("some blocks have no keys and values")
    return Prefix(len(ids), keys_values, means)


def find_shortcuts(
    language_model: LanguageModel,
    requests: Sequence[Request],
    layers: Sequence[int],
    report: Callable[[str], None] = lambda message: None,
) -> Shortcuts:
    """Find the shortcuts that save work for ``requests`` without changing their activations.

    Narrowing the feed-forward part is tried once per model, reusing a prefix once per model and
    depth. The longest and the shortest request are compared with plain passes.

    Parameters
    ----------
    language_model : LanguageModel
        The model.
    requests : sequence of Request
        The prompts to run.
    layers : sequence of int
        The blocks to read.
    report : callable, optional
        Called with a message for each shortcut that the model does not support.

    Returns
    -------
    shortcuts : Shortcuts
        For :func:`read_batch` with any of the requests.
    """
    if not requests:
        return PLAIN
    trial = _Trial(language_model, requests, layers)
    kind = type(language_model.backbone).__name__
    shortcuts = PLAIN
    deepest = language_model.blocks[max(layers)]
    feed_forward = find_feed_forward(deepest)
    indices = requests[0].indices
    if feed_forward is not None and len(indices) == 1 and None not in indices:
        names = "narrow", type(deepest).__qualname__, type(feed_forward).__qualname__
        saved = _SHARE_SAVED * len(requests) / (max(layers) + 1)
        was_tried = trial_result(language_model.backbone, *names) is not None
        if was_tried or saved >= _PROMPTS_PER_TRIAL:
            narrowed = Shortcuts(feed_forward=feed_forward)
            failure = trial.run(narrowed, *names)
            if failure:
                report(
                    f"the feed-forward part of block {max(layers)} of {kind} runs on all tokens: "
                    f"{failure}"
                )
            else:
                shortcuts = narrowed
    length = shared_length(requests)
    if is_worthwhile(length, len(requests), language_model.input_device):
        prefixed = _add_prefix(shortcuts, trial, requests[0].ids[:length])
        if isinstance(prefixed, Shortcuts):
            return prefixed
        report(
            f"the {length} tokens that all prompts begin with are not reused with {kind}: "
            f"{prefixed}"
        )
    return shortcuts


def _add_prefix(shortcuts: Shortcuts, trial: _Trial, ids: npt.NDArray[np.int64]) -> Shortcuts | str:
    """Add a prefix to shortcuts, or return why the model doesn't support it."""
    language_model, layers = trial.language_model, trial.layers
    # A token may be changed by what follows it, but only from the next block on.
    names = "prefix", str(max(layers))
    failure = reason_against_prefix(language_model)
    failure = failure or trial_result(language_model.backbone, *names) or ""
    if failure:
        return failure
    try:
        prefix = compute_prefix(language_model, ids, layers)
    except Exception as error:  # depends on the architecture; plain passes will do
        return trial.fail(error, *names)
    prefixed = shortcuts._replace(prefix=prefix)
    return trial.run(prefixed, *names) or prefixed


def find_feed_forward(block: nn.Module) -> nn.Module | None:
    """Find the part of a block that follows attention and treats every token separately."""
    parts = [getattr(block, name, None) for name in _FEED_FORWARD]
    return next((part for part in parts if isinstance(part, nn.Module)), None)


def shared_length(requests: Sequence[Request]) -> int:
    """Count the first tokens that all requests share, up to the first one that is read.

    Parameters
    ----------
    requests : sequence of Request
        The prompts.

    Returns
    -------
    length : int
        Less than the length of every request.
    """
    first = min((request.ids for request in requests), key=lambda ids: ids.tobytes())
    last = max((request.ids for request in requests), key=lambda ids: ids.tobytes())
    limit = min(
        len(request.ids) - 1 if index is None else index
        for request in requests
        for index in request.indices
    )
    differ = np.flatnonzero(first[:limit] != last[:limit])
    return int(differ[0]) if len(differ) else limit


def is_worthwhile(length: int, n_prompts: int, device: torch.device) -> bool:
    """Whether running a prefix once saves more work than the extra pass costs."""
    cost = _PASS_COST_ON_CPU if device.type == "cpu" else _PASS_COST_ON_ACCELERATOR
    return length >= _MIN_PREFIX and length * (n_prompts - 1) >= cost


def reason_against_prefix(language_model: LanguageModel) -> str:
    """Return why prefixes can't be reused with a model, "" if it is worth a trial."""
    backbone: Any = language_model.backbone
    parameters = inspect.signature(backbone.forward).parameters
    if "past_key_values" not in parameters and not any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    ):
        return "it takes no past_key_values"
    parts = (backbone.config.get_text_config(), *language_model.blocks.modules())
    if any(part.__dict__.get("is_causal") is False for part in parts):
        return "its attention sees what follows"
    if longest_padded(backbone.config) is not None:
        return "its attention depends on how many tokens run at once"
    if depends_on_length(backbone.config):
        return "its rotary frequencies depend on the prompt's length"
    return ""


class _Trial:
    """Tries shortcuts on the longest and the shortest request that may share a batch."""

    def __init__(
        self, language_model: LanguageModel, requests: Sequence[Request], layers: Sequence[int]
    ) -> None:
        self.language_model = language_model
        self.layers = layers
        boundaries = length_boundaries(language_model.backbone.config)
        pair = widest_pair([len(request.ids) for request in requests], boundaries)
        self.pair = [requests[i] for i in pair]

    def run(self, shortcuts: Shortcuts, *names: str) -> str:
        """Return why shortcuts fail, "" if they don't. Models are only tried once."""
        backbone = self.language_model.backbone
        known = trial_result(backbone, *names)
        if known is not None:
            return known
        try:
            failure = self._compare(shortcuts)
        except Exception as error:  # depends on the architecture; plain passes will do
            return self.fail(error, *names)
        # Without padding the trial says nothing about padding.
        if failure or len(self.pair[0].ids) > len(self.pair[1].ids):
            record_trial(backbone, *names, failure=failure)
        return failure

    def fail(self, error: Exception, *names: str) -> str:
        """Record an error as the result."""
        failure = f"{type(error).__name__}: {error}"
        record_trial(self.language_model.backbone, *names, failure=failure)
        return failure

    @cached_property
    def _alone(self) -> list[Rows]:
        return [read_batch(self.language_model, [request], self.layers) for request in self.pair]

    def _compare(self, shortcuts: Shortcuts) -> str:
        actual = read_batch(self.language_model, self.pair, self.layers, shortcuts)
        exact = is_exact(self.language_model.backbone)
        if any(
            differ(actual[layer][j], rows[layer][0], exact)
            for j, rows in enumerate(self._alone)
            for layer in self.layers
        ):
            return "it changes the activations"
        return ""
