"""What all prompts of a call begin with, run through the model once.

Chat templates give every prompt the same first tokens. In a causal model nothing that follows
changes their keys and values, so these are computed once and every prompt brings its other
tokens only. Not every architecture can continue from given keys and values.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skgate.model._residual_stream import read_blocks
from skgate.model._rope import depends_on_length

if TYPE_CHECKING:
    import numpy.typing as npt
    from transformers import DynamicCache

    from skgate.activations._transformer import Request
    from skgate.model._loading import LanguageModel

_MIN_TOKENS = 4
_MAX_BYTES = 2 << 30  # of a batch's keys and values
# A pass of its own costs about as much as this many tokens more in a large batch.
_COST_OF_A_PASS = {"cpu": 128}
_COST_OF_A_PASS_ACCELERATOR = 1024


@dataclass(frozen=True)
class Prefix:
    """The first tokens of every prompt of a call, as the model left them.

    Attributes
    ----------
    length : int
        The number of tokens.
    keys_values : list of (Tensor, Tensor)
        Of every block that ran, of shape (1, n_heads, length, head_size); never edited.
    means : dict of int to Tensor of shape (1, d)
        Means over the tokens of the outputs of the wanted blocks.
    """

    length: int
    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    means: dict[int, torch.Tensor]

    @property
    def room(self) -> int:
        """How many tokens' keys and values may be in memory at a time."""
        n_bytes = sum(part.nbytes for pair in self.keys_values for part in pair)
        return _MAX_BYTES * self.length // n_bytes

    def cache(self, n_prompts: int) -> DynamicCache:
        """Copy the keys and values into a cache for a batch."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for i, (keys, values) in enumerate(self.keys_values):
            cache.update(  # which copies them
                keys.expand(n_prompts, *keys.shape[1:]),
                values.expand(n_prompts, *values.shape[1:]),
                i,
            )
        return cache


def shared_length(requests: Sequence[Request]) -> int:
    """Count the first tokens that all requests share and that are read in none.

    Parameters
    ----------
    requests : sequence of Request
        Token ids, and the token to read or None for the mean over all.

    Returns
    -------
    length : int
        Less than the length of every request.
    """
    first = min((request.ids for request in requests), key=lambda ids: ids.tobytes())
    last = max((request.ids for request in requests), key=lambda ids: ids.tobytes())
    limit = min(
        len(request.ids) - 1 if request.index is None else request.index for request in requests
    )
    differ = np.flatnonzero(first[:limit] != last[:limit])
    return int(differ[0]) if len(differ) else limit


def is_worthwhile(length: int, n_prompts: int, device: torch.device) -> bool:
    """Whether running a prefix once saves more than the pass that it needs."""
    cost = _COST_OF_A_PASS.get(device.type, _COST_OF_A_PASS_ACCELERATOR)
    return length >= _MIN_TOKENS and length * (n_prompts - 1) >= cost


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
        None,
        past_key_values=cache,
    )
    cached: list[Any] = cache.layers
    keys_values = [(layer.keys, layer.values) for layer in cached]
    if cache.get_seq_length() != len(ids) or any(keys is None for keys, _ in keys_values):
        raise RuntimeError("it keeps no keys and values of every block")
    return Prefix(len(ids), keys_values, means)


def reason_against(language_model: LanguageModel) -> str:
    """Tell why prefixes can't be reused with a model, "" if nothing speaks against trying."""
    backbone: Any = language_model.backbone
    parameters = inspect.signature(backbone.forward).parameters
    if "past_key_values" not in parameters and not any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    ):
        return "it takes no past_key_values"
    parts = (backbone.config.get_text_config(), *language_model.blocks.modules())
    if any(part.__dict__.get("is_causal") is False for part in parts):
        return "its attention sees what follows"
    if depends_on_length(backbone.config):
        return "its rotary frequencies depend on the prompt's length"
    return ""
