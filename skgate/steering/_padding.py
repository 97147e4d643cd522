"""Whether a model takes left padding as ``generate`` needs it: without any effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from skgate.activations._forward import read_batch
from skgate.model._residual_stream import Edit, steer_block
from skgate.model._trials import differ, is_exact, note_verdict, verdict
from skgate.steering._generation import generate_batch

if TYPE_CHECKING:
    from skgate.activations._transformer import Request
    from skgate.model._loading import LanguageModel

# Whatever the model's own generation_config says.
_ONE_ROW_EACH = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}


def left_padding_is_exact(
    language_model: LanguageModel,
    layer: int,
    long: Request,
    short: Request,
    options: Mapping[str, Any],
) -> bool:
    """Compare what a prompt's activation is alone and left-padded in ``generate``.

    Once per model, its dtype and attention, and layer. Recurrent models, and some with learned
    positions, let padding into the prompts.

    Parameters
    ----------
    language_model : LanguageModel
        A causal model.
    layer : int
        The layer to compare at.
    long, short : Request
        Prompts of different length.
    options : mapping
        Arguments of ``model.generate``; ``use_cache`` counts.

    Returns
    -------
    exact : bool
        Whether they are equal up to rounding.
    """
    use_cache = options.get("use_cache")
    names = "left padding", str(layer), str(use_cache)
    reason = verdict(language_model.backbone, *names)
    if reason is None:
        padded: list[torch.Tensor] = []

        def record(rows: torch.Tensor) -> Edit:
            padded.append(rows)
            return Edit(torch.zeros(len(rows)), torch.zeros(len(rows)))

        settings = {"max_new_tokens": 1, **_ONE_ROW_EACH}
        if use_cache is not None:
            settings["use_cache"] = use_cache
        with steer_block(
            language_model.stack,
            language_model.blocks[layer],
            torch.zeros(language_model.hidden_size),
            record,
            width=len(long.ids),
        ):
            generate_batch(
                language_model, [long.ids, short.ids], language_model.input_device, settings
            )
        last = type(short)(short.ids, len(short.ids) - 1)
        alone = read_batch(language_model, [last], [layer])[layer][0]
        exact = is_exact(language_model.backbone)
        reason = "padding changes it" if differ(padded[0][1].numpy(), alone, exact) else ""
        note_verdict(language_model.backbone, *names, reason=reason)
    return not reason
