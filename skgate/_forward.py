"""Forward passes over batches of prompts; what all prompts begin with is run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ._prefix import (
    Prefix,
    compute_prefix,
    differ,
    is_worthwhile,
    note_verdict,
    shared_length,
    verdict,
)
from ._residual_stream import read_blocks

if TYPE_CHECKING:
    import numpy.typing as npt

    from ._activations import Request
    from ._language_model import LanguageModel

    Rows = dict[int, npt.NDArray[np.float32]]  # (n_requests, d) per layer


def find_prefix(
    language_model: LanguageModel,
    requests: Sequence[Request],
    layers: Sequence[int],
    report: Callable[[str], None] = lambda message: None,
) -> Prefix | None:
    """Run the tokens that all requests begin with, if they can be reused and that saves work.

    Whether the model gives the same activations from given keys and values is checked once per
    model, on the longest and the shortest request.

    Parameters
    ----------
    language_model : LanguageModel
        The model.
    requests : sequence of Request
        Token ids, and the token to read or None for the mean over all.
    layers : sequence of int
        The blocks to read.
    report : callable, optional
        Told why the prefix is not reused where the model is to blame.

    Returns
    -------
    prefix : Prefix or None
        For :func:`read_batch` with any of the requests.
    """
    length = shared_length(requests) if requests else 0
    if not is_worthwhile(length, len(requests), language_model.input_device):
        return None
    backbone = language_model.backbone
    reason = verdict(backbone)
    if not reason:
        try:
            prefix = compute_prefix(language_model, requests[0].ids[:length], layers)
            if reason is None:
                reason = _check(language_model, requests, layers, prefix)
        except Exception as error:  # whatever an architecture raises: plain passes will do
            reason = f"{type(error).__name__}: {error}"
            note_verdict(backbone, reason)
    if reason:
        report(
            f"the {length} tokens that all prompts begin with are not reused with "
            f"{type(backbone).__name__}: {reason}"
        )
        return None
    return prefix


def _check(
    language_model: LanguageModel,
    requests: Sequence[Request],
    layers: Sequence[int],
    prefix: Prefix,
) -> str:
    """Compare the longest and the shortest request with passes of their own.

    The reason why the prefix can't be reused, or "".
    """
    by_length = sorted(requests, key=lambda request: len(request.ids))
    long, short = by_length[-1], by_length[0]
    alone = [read_batch(language_model, [request], layers, None) for request in (long, short)]
    actual = read_batch(language_model, [long, short], layers, prefix)
    exact = next(language_model.backbone.parameters()).dtype in (torch.float32, torch.float64)
    reason = ""
    if any(
        differ(actual[layer][j], rows[layer][0], exact)
        for j, rows in enumerate(alone)
        for layer in layers
    ):
        reason = "it gives other activations from given keys and values"
    if reason or len(long.ids) > len(short.ids):  # without padding nothing is known about padding
        note_verdict(language_model.backbone, reason)
    return reason


def read_batch(
    language_model: LanguageModel,
    requests: Sequence[Request],
    layers: Sequence[int],
    prefix: Prefix | None,
) -> Rows:
    """Run one right-padded batch, after its prefix if it has one; rows of shape (n, d)."""
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
    )
    if prefix is not None and index is None:
        share = torch.from_numpy(skip / (skip + lengths))[:, None].float()
        rows = {i: share * prefix.means[i] + (1 - share) * row for i, row in rows.items()}
    return {layer: row.numpy() for layer, row in rows.items()}
