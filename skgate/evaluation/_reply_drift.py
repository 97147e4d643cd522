"""reply_drift: how far a model's replies move from those of another."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from skgate._base import HasMethods, set_module, validate_params
from skgate.evaluation._load_prompts import load_prompts
from skgate.evaluation._model_input import make_input

_GREEDY = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}


@set_module("skgate.evaluation")
@validate_params(
    {
        "model": [HasMethods(["generate"])],
        "reference": [HasMethods(["generate"])],
        "prompts": "no_validation",
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def reply_drift(
    model: Any, reference: Any, prompts: Any, *, verbose: bool = True, **generate_kwargs: Any
) -> pd.DataFrame:
    """Measure how far a model's replies to prompts move from those of a reference.

    Steering should leave the replies to harmless prompts as they are. Give it these, and the
    unsteered model as the reference.

    Parameters
    ----------
    model : SteeringWrapper
        The model to measure: anything whose ``generate(prompts, language=..., **generate_kwargs)``
        passes ``logits_processor`` on to the ``generate`` of a Hugging Face model.
    reference : SteeringWrapper
        The model to compare it with, of the same tokenizer, such as one with ``on_harmful=None``
        and ``on_harmless=None``.
    prompts : DataFrame or path-like
        What :func:`load_prompts` returns, or a frame or file with the columns that it expects.
    verbose : bool, default=True
        Whether to show a progress bar with the time left.
    **generate_kwargs : dict
        Further arguments of ``generate``, such as ``max_new_tokens``. Decoding is greedy. A
        ``logits_processor`` changes the distributions of both models before they are compared.

    Returns
    -------
    drift : DataFrame
        One row per prompt, in their order. The columns are:

        ============= ===========================================================================
        ``id``        the prompt's id; likewise ``language``
        ``identical`` whether both models' replies are the same, token for token
        ``kl``        mean Kullback-Leibler divergence of the next-token distributions, in nats
        ``loss``      mean negative log-likelihood of the reference's reply under ``model``, minus
                      that under ``reference``, in nats per token
        ============= ===========================================================================

        The Notes give the formulas.

    Raises
    ------
    ValueError
        If ``prompts`` are not as :func:`load_prompts` expects them.
    RuntimeError
        If a model does not run the ``logits_processor``.

    See Also
    --------
    evaluate_refusal : Which prompts models refuse.

    Notes
    -----
    For a prompt ``x``, let ``r`` be the reply of the reference under greedy decoding, ``q`` the
    distributions of the reference and ``p`` those of the model. Both models are made to write
    ``r``, and the means are over its tokens ``t``, the end of sequence included::

        kl   = mean of KL(q(. | x, r_<t) || p(. | x, r_<t))
        loss = mean of log q(r_t | x, r_<t) - log p(r_t | x, r_<t)

    The reply is the same if each ``r_t`` is also the likeliest token of ``p``. Prompts are run one
    by one.

    Examples
    --------
    Harmless prompts of a source language of the bundled model, ablated at layer 4:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skgate import ActivationTransformer, LatentGate, SteeringWrapper
    >>> from skgate.datasets import load_organism
    >>> from skgate.evaluation import reply_drift
    >>> organism = load_organism()
    >>> train = organism.prompts.query("split == 'train'")
    >>> sources = train.query("tier == 'high'")
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> steered = SteeringWrapper(make_pipeline(reader, LatentGate()), strength=0.5)
    >>> steered = steered.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    >>> unsteered = SteeringWrapper(steered.gate_, on_harmful=None, on_harmless=None)
    >>> harmless = organism.prompts.query("split == 'val' and language == 'en' and not harmful")
    >>> drift = reply_drift(steered, unsteered, harmless.head(4), verbose=False, max_new_tokens=12)
    >>> drift["identical"].tolist()
    [True, False, True, True]
    """
    frame = load_prompts(prompts)
    rows = []
    for row in tqdm(frame.itertuples(), total=len(frame), unit="prompt", disable=not verbose):
        expected = _record(reference, row, generate_kwargs, None)
        reply = expected.argmax(-1)
        found = _record(model, row, generate_kwargs, reply)
        chosen = reply[:, None]
        rows.append(
            {
                "id": row.id,
                "language": row.language,
                "identical": bool((found.argmax(-1) == reply).all()),
                "kl": float((expected.exp() * (expected - found)).nansum(-1).mean()),
                "loss": float((expected - found).gather(-1, chosen).mean()),
            }
        )
    return pd.DataFrame(rows, columns=["id", "language", "identical", "kl", "loss"])


def _record(
    model: Any, row: Any, generate_kwargs: dict[str, Any], reply: torch.Tensor | None
) -> torch.Tensor:
    """Get the log-probabilities at each step of a reply, which is the model's own if not given."""
    steps: list[torch.Tensor] = []

    def record(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        steps.append(scores[0].cpu().double().log_softmax(-1))  # (MPS has no float64)
        if reply is None:
            return scores
        token = reply[min(len(steps), len(reply)) - 1]
        return torch.full_like(scores, -torch.inf).index_fill(1, token[None].to(scores.device), 0)

    given = {**(getattr(model, "generate_kwargs", None) or {}), **generate_kwargs}
    processors = [*(given.get("logits_processor") or []), record]
    options = {**generate_kwargs, **_GREEDY, "logits_processor": processors}
    if reply is not None:
        options["max_new_tokens"] = len(reply)
    X, language = make_input(model, [row.prompt], None if row.language is None else [row.language])
    model.generate(X, language=language, **options)
    if not steps or (reply is not None and len(steps) != len(reply)):
        raise RuntimeError(
            f"Got {len(steps)} steps of the logits_processor from a {type(model).__name__}, "
            f"expected {'at least 1' if reply is None else len(reply)}: it does not pass it on to "
            "the generate of a Hugging Face model."
        )
    return torch.stack(steps)
