"""Forward passes over batches of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from skgate.model._residual_stream import read_blocks

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

    from skgate.activations._prefix import Prefix
    from skgate.activations._transformer import Request
    from skgate.model._loading import LanguageModel

    Rows = dict[int, npt.NDArray[np.float32]]  # (n_requests, d) per layer


class Shortcuts(NamedTuple):
    """What a model may leave out: exact where it was found to be.

    Attributes
    ----------
    prefix : Prefix or None
        What all prompts begin with, run already.
    feed_forward : torch.nn.Module or None
        The part of the deepest wanted block that is run on the tokens that are read alone.
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
    """Run one right-padded batch; rows of shape (n, d)."""
    prefix, feed_forward = shortcuts
    skip = prefix.length if prefix is not None else 0
    lengths = np.array([len(request.ids) - skip for request in requests])
    # The padding is masked and comes after every token, so any id will do.
    input_ids = np.zeros((len(requests), lengths.max()), np.int64)
    mask = np.arange(lengths.max()) < lengths[:, None]
    input_ids[mask] = np.concatenate([request.ids[skip:] for request in requests])
    index = None
    if requests[0].index is not None:
        index = torch.tensor([(request.index or 0) - skip for request in requests])
    device = language_model.input_device
    rows = read_blocks(
        language_model.backbone,
        language_model.blocks,
        layers,
        torch.from_numpy(input_ids).to(device),
        torch.from_numpy(mask.astype(np.int64)).to(device),
        index,
        past_key_values=prefix.cache(len(requests)) if prefix is not None else None,
        feed_forward=feed_forward,
    )
    if prefix is not None and index is None:
        share = torch.from_numpy(skip / (skip + lengths))[:, None].float()
        rows = {i: share * prefix.means[i] + (1 - share) * row for i, row in rows.items()}
    return {layer: row.numpy() for layer, row in rows.items()}
