"""The steering strength at which a model's own refusals are likeliest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from skgate._labels import plain_labels
from skgate.metrics._checks import check_same_length
from skgate.steering._own_refusals import find_own_refusals
from skgate.steering._pipeline import find_fitted_parts
from skgate.steering._router import projection_unit

if TYPE_CHECKING:
    from skgate.steering._own_refusals import OwnRefusals
    from skgate.steering._pipeline import SweepParams

_COARSE, _FINE, _GREATEST = 0.5, 0.25, 16.0

Floats = npt.NDArray[np.float64]


class StrengthCurve(NamedTuple):
    """How likely a model's own refusals are at one layer, by strength.

    Attributes
    ----------
    strengths : list of float
        The strengths, in ascending order from 0.
    languages : ndarray of str or None of shape (n_prompts,)
        The language of each prompt.
    log_likelihoods : ndarray of shape (n_prompts, n_strengths)
        In nats per token.
    """

    strengths: list[float]
    languages: npt.NDArray[np.object_]
    log_likelihoods: Floats

    @property
    def best(self) -> int:
        """Place of the best strength, over the languages whose refusal any makes likelier; else 0.

        In the others, what was taken for a refusal was none.
        """
        by_language = [
            self.log_likelihoods[self.languages == one].mean(axis=0)
            for one in dict.fromkeys(self.languages)
        ]
        helped = [mean for mean in by_language if mean.max() > mean[0]]
        return int(np.mean(helped, axis=0).argmax()) if helped else 0


def search_strength(wrapper: SweepParams, X: Any, y: Any, language: Any) -> pd.DataFrame:
    """Measure how likely the model's own refusals are, by strength.

    The parameters are those of :meth:`skgate.SteeringWrapper.choose_strength`, after the wrapper.

    Returns
    -------
    table : DataFrame
        The attribute ``strength_search_`` of the wrapper. The best strength is in
        ``attrs["strength"]``.
    """
    parts = find_fitted_parts(wrapper)
    prompts, languages = parts.split(X, language)
    labels = np.asarray(plain_labels(y))
    check_same_length({"X": prompts, "y": labels})
    reader = parts.open_reader()
    direction, unit = parts.check_gate(reader), projection_unit(parts.gate)
    harmful = labels == parts.gate.harmful_label_
    refusals = find_own_refusals(wrapper, reader, prompts, harmful, languages)
    curve = measure_strengths(refusals, max(reader.layers), direction, unit)
    if not curve.best:
        raise ValueError(
            f"Got strength='auto' and a model among whose replies to {harmful.sum()} harmful "
            "prompts no refusal was found that steering makes likelier, expected a model that "
            "refuses some of the harmful source prompts. Pass the strength as a number."
        )
    table = pd.DataFrame(
        {
            "language": np.repeat(curve.languages, len(curve.strengths)),
            "strength": np.tile(curve.strengths, len(curve.languages)),
            "log_likelihood": curve.log_likelihoods.ravel(),
        }
    )
    by = ["language", "strength"]
    table = table.groupby(by, sort=False, dropna=False).mean().reset_index()
    table.attrs["strength"] = curve.strengths[curve.best]
    table.attrs["n_prompts"] = refusals.n_prompts
    table.attrs["n_tokens"] = refusals.n_tokens
    return table


def measure_strengths(
    refusals: OwnRefusals, layer: int, direction: Floats, unit: float
) -> StrengthCurve:
    """Measure strengths in steps of 0.5 until they are too great, then of 0.25 around the best.

    Parameters
    ----------
    refusals : OwnRefusals
        The refusals, and prompts to measure them on.
    layer : int
        The block to steer.
    direction : ndarray of shape (d,)
        The unit direction.
    unit : float
        The unit of the strength.

    Returns
    -------
    curve : StrengthCurve
        The likelihoods; without any refusals, of one strength, 0, and no prompt.
    """
    names = [one.language for one in refusals.found for _ in one.prompts]
    languages = np.array(names, dtype=object)

    def measure(strengths: list[float]) -> StrengthCurve:
        amounts = [strength * unit for strength in strengths]
        found = [one.measure(layer, direction, amounts) for one in refusals.found]
        return StrengthCurve(strengths, languages, np.vstack(found))

    def extend(curve: StrengthCurve, strengths: list[float]) -> StrengthCurve:
        tried = np.array(curve.strengths + strengths)
        found = np.hstack([curve.log_likelihoods, measure(strengths).log_likelihoods])
        order = tried.argsort()
        return StrengthCurve(tried[order].tolist(), languages, found[:, order])

    if not refusals.found:
        return StrengthCurve([0.0], languages, np.empty((0, 1)))
    curve = measure([i * _COARSE for i in range(4)])
    while curve.best > len(curve.strengths) - 3 and curve.strengths[-1] < _GREATEST:
        curve = extend(curve, [curve.strengths[-1] + _COARSE])
    best = curve.strengths[curve.best]
    return extend(curve, [best - _FINE, best + _FINE]) if best else curve
