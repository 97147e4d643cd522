"""Whether left padding, which ``generate`` needs, leaves a model's activations unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from skgate.activations._forward import read_batch
from skgate.model._prompts import Request
from skgate.model._residual_stream import Edit, steer_block
from skgate.model._trials import differ, is_exact, record_trial, trial_result
from skgate.steering._generation import generate_batch

if TYPE_CHECKING:
    from skgate.model._loading import LanguageModel

# These override the model's own generation_config.
_ONE_ROW_EACH = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}


def left_padding_is_exact(
    language_model: LanguageModel,
    layer: int,
    long: Request,
    short: Request,
    use_cache: bool | None,
) -> bool:
    """Compare a prompt's activation alone with its activation when left-padded in ``generate``.

    This is tried once per model, dtype, attention implementation, layer and ``use_cache``.
    Recurrent models, and some with learned positions, let padding change the prompts.

    Parameters
    ----------
    language_model : LanguageModel
        A causal model.
    layer : int
        The layer to compare at.
    long, short : Request
        Prompts of different length.
    use_cache : bool or None
        An argument of ``model.generate``; None if it is not given.

    Returns
    -------
    exact : bool
        Whether the two are equal up to rounding.
    """
    shortcut = "left padding", str(layer), str(use_cache)
    failure = trial_result(language_model.backbone, *shortcut)
    if failure is None:
        padded = _read_padded(language_model, layer, long, short, use_cache)
        last = Request(short.ids, len(short.ids) - 1)
        alone = read_batch(language_model, [last], [layer])[layer][0]
        exact = is_exact(language_model.backbone)
        failure = "padding changes activations" if differ(padded.numpy(), alone, exact) else ""
        record_trial(language_model.backbone, *shortcut, failure=failure)
    return not failure


def _read_padded(
    language_model: LanguageModel,
    layer: int,
    long: Request,
    short: Request,
    use_cache: bool | None,
) -> torch.Tensor:
    """Read the short prompt's last token in a batch of both, padded by ``generate``."""
    read: list[torch.Tensor] = []

    def record(rows: torch.Tensor) -> Edit:
        read.append(rows)
        return Edit(torch.zeros(len(rows)), torch.zeros(len(rows)))

    options: dict[str, Any] = {"max_new_tokens": 1, **_ONE_ROW_EACH}
    if use_cache is not None:
        options["use_cache"] = use_cache
    with steer_block(
        language_model.stack,
        language_model.blocks[layer],
        torch.zeros(language_model.hidden_size),
        record,
        width=len(long.ids),
    ):
        generate_batch(language_model, [long.ids, short.ids], options)
    return read[0][1]
