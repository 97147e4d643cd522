"""Lower steering strengths for the languages in which the chosen one is too great."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from skgate.steering._reply_likelihood import ReplyLikelihood
from skgate.steering._router import projection_unit
from skgate.steering._strength import find_harmful

if TYPE_CHECKING:
    from skgate.steering._own_refusals import Reply
    from skgate.steering._pipeline import SteeringParts

_SHARES = np.array([0.25, 0.5, 0.75, 1.0])
_N_EACH = 4  # prompts of each class
_N_LEAST = 4  # of both together
_LEAST_GAIN = 0.1  # nats per token; smaller gains made the bundled model refuse less


def lower_strengths(
    parts: SteeringParts,
    X: Any,
    y: Any,
    language: Any,
    refusals: Mapping[str | None, Reply],
    strength: float,
) -> dict[str, float]:
    """Find the languages whose shots make a refusal likelier at a lower strength.

    Parameters
    ----------
    parts : SteeringParts
        The parts of a wrapper's pipeline, with a fitted gate.
    X, y, language
        Shots, as in :meth:`skgate.SteeringWrapper.partial_fit`.
    refusals : mapping of str or None to tuple of int
        The token ids of a refusal in each language that has one. The first stands in for others.
    strength : float
        The strength to lower.

    Returns
    -------
    strengths : dict of str to float
        The strength of each language of which there are enough shots. It is ``strength``, or the
        best of a quarter, a half and three quarters of it, if that is better by more than 0.1 nats
        per token and by more than a standard error of the mean difference over the shots.
    """
    prompts, languages = parts.split(X, language)
    if languages is None:
        return {}
    harmful = find_harmful(parts.gate, prompts, y)
    reader = parts.open_reader()
    direction, unit = parts.check_gate(reader), projection_unit(parts.gate)
    found = {}
    for name in dict.fromkeys(languages.tolist()):
        pair = [np.flatnonzero((languages == name) & (harmful == one)) for one in (True, False)]
        rows = np.concatenate([part[:_N_EACH] for part in pair])
        if not all(map(len, pair)) or len(rows) < _N_LEAST:
            continue
        refusal = refusals.get(name, next(iter(refusals.values())))
        likelihoods = np.array(
            [
                ReplyLikelihood(reader.language_model, request.ids).mean_log_likelihoods(
                    refusal, max(reader.layers), direction, (strength * unit * _SHARES).tolist()
                )
                for request in reader.encode([prompts[i] for i in rows])
            ]
        )
        best = int(likelihoods.mean(axis=0).argmax())
        with np.errstate(invalid="ignore"):  # infinite gains, where the full strength overflows
            gains = likelihoods[:, best] - likelihoods[:, -1]
            error = gains.std(ddof=1) / np.sqrt(len(gains))
        is_better = gains.mean() > _LEAST_GAIN and not gains.mean() <= error
        found[name] = strength * float(_SHARES[best]) if is_better else strength
    return found
