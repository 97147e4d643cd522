"""Whether ``generate`` reads what a forward pass reads, and left padding leaves it unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skgate.activations._forward import read_batch
from skgate.model._batching import left_padded_mask
from skgate.model._lengths import count_positions
from skgate.model._prompts import Request
from skgate.model._stream_editing import Edit, steer_block
from skgate.model._trials import differ, is_exact, record_trial, trial_result
from skgate.steering._generation import generate_batch

if TYPE_CHECKING:
    import numpy.typing as npt

    from skgate.model._loading import LanguageModel

# These override the model's own generation_config.
_ONE_ROW_EACH = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
_N_STEPS = 3  # the prompt, the token after it, and one that follows two


def left_padding_is_exact(
    language_model: LanguageModel,
    layer: int,
    long: Request,
    short: Request,
    use_cache: bool | None,
) -> bool:
    """Compare a prompt alone with the same prompt when left-padded in ``generate``.

    Compared are the prompt's activation and the logits of the first tokens of the reply. This is
    tried once per model, dtype, attention implementation, layer and ``use_cache``. Recurrent
    models, and some with learned positions, let padding change the prompts. Some others mask it
    in the prompt, but not in later layers or once they generate.

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
        Whether all are equal up to rounding.
    """
    backbone: Any = language_model.backbone
    n_positions = count_positions(backbone.config, backbone)
    room = _N_STEPS if n_positions is None else n_positions - len(long.ids) + 1
    n_steps = max(1, min(_N_STEPS, room))
    shortcut = "left padding", str(layer), str(use_cache), str(n_steps)
    failure = trial_result(backbone, *shortcut)
    if failure is None:
        padded, alone = (
            _run(language_model, layer, requests, n_steps, use_cache)
            for requests in ([long, short], [short])
        )
        exact = is_exact(backbone)
        if differ(padded[0], alone[0], exact):
            failure = "padding changes activations"
        elif any(differ(*pair, exact) for pair in zip(padded[1:], alone[1:], strict=True)):
            failure = "padding changes replies"
        else:
            failure = ""
        record_trial(backbone, *shortcut, failure=failure)
    return not failure


def check_generate(
    language_model: LanguageModel, layer: int, request: Request, use_cache: bool | None
) -> None:
    """Raise a RuntimeError if ``generate`` gives another activation than a forward pass.

    Some models number the positions of their tokens in another way there. This is tried once per
    model, dtype, attention implementation, layer and ``use_cache``.

    Parameters
    ----------
    language_model : LanguageModel
        A causal model.
    layer : int
        The layer to compare at.
    request : Request
        A prompt.
    use_cache : bool or None
        An argument of ``model.generate``; None if it is not given.
    """
    backbone: Any = language_model.backbone
    shortcut = "generate", str(layer), str(use_cache)
    failure = trial_result(backbone, *shortcut)
    if failure is None:
        found = _run(language_model, layer, [request], 1, use_cache)[0]
        last = Request(request.ids, (len(request.ids) - 1,))
        expected = read_batch(language_model, [last], [layer])[layer][0, 0]
        if not np.isfinite(found).all():
            return  # generation says so
        failure = "differs" if differ(found, expected, is_exact(backbone)) else ""
        record_trial(backbone, *shortcut, failure=failure)
    if failure:
        raise RuntimeError(
            f"Got another activation from generate of {language_model.name} than from a forward "
            "pass, expected the same. A gate would decide about something else than it was fitted "
            "on; this model can't be steered."
        )


def _run(
    language_model: LanguageModel,
    layer: int,
    requests: list[Request],
    n_steps: int,
    use_cache: bool | None,
) -> list[npt.NDArray[np.float32]]:
    """Get the last request's activation, and its logits at each step, in a batch of requests."""
    found: list[npt.NDArray[np.float32]] = []
    token = int(requests[-1].ids[len(requests[-1].ids) // 2])

    def record(rows: torch.Tensor) -> Edit:
        found.append(rows[-1].numpy())
        return Edit(torch.zeros(len(rows)), torch.zeros(len(rows)))

    def force(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Record the logits, and choose the same token in all runs."""
        found.append(np.nan_to_num(scores[-1].float().cpu().numpy(), neginf=0.0))
        forced = torch.full_like(scores, -torch.inf)
        forced[:, token] = 0
        return forced

    options: dict[str, Any] = {
        "max_new_tokens": n_steps,
        "logits_processor": [force],
        **_ONE_ROW_EACH,
    }
    if use_cache is not None:
        options["use_cache"] = use_cache
    with steer_block(
        language_model.stack,
        language_model.blocks,
        [layer],
        torch.zeros(language_model.hidden_size),
        record,
        mask=left_padded_mask([len(request.ids) for request in requests]),
    ):
        generate_batch(language_model, [request.ids for request in requests], options)
    return found
