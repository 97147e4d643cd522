"""The steering strength at which a model's own refusals are likeliest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from skgate._labels import plain_labels
from skgate.gate._input import check_labels
from skgate.metrics._checks import check_same_length
from skgate.steering._own_refusals import find_own_refusals
from skgate.steering._pipeline import find_fitted_parts
from skgate.steering._router import projection_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skgate._messages import Prompt
    from skgate.gate._latent_gate import LatentGate
    from skgate.steering._own_refusals import OwnRefusals, Reply
    from skgate.steering._pipeline import SweepParams

_COARSE, _FINE = 0.5, 0.25
_GREATEST_IN_VAIN, _GREATEST = 4.0, 16.0
_ONE_SIDED = 1.645  # the 95 % quantile of the normal distribution

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class StrengthCurve(NamedTuple):
    """How likely a model's own refusals are at one layer, by strength.

    Attributes
    ----------
    strengths : list of float
        The strengths, in ascending order from 0.
    languages : ndarray of str or None of shape (n_prompts,)
        The language of each prompt.
    harmful : ndarray of bool of shape (n_prompts,)
        Whether each prompt is harmful.
    log_likelihoods : ndarray of shape (n_prompts, n_strengths)
        In nats per token.
    """

    strengths: list[float]
    languages: npt.NDArray[np.object_]
    harmful: Bools
    log_likelihoods: Floats

    @property
    def are_refusals(self) -> bool:
        """Whether the replies are likelier for harmful prompts than for harmless ones, unsteered.

        A one-sided test at the level of 5 %, by the variance within language and class, of the
        mean difference over the languages. If it fails, they may be any replies.
        """
        unsteered = pd.Series(self.log_likelihoods[:, 0])
        cells = unsteered.groupby([pd.Series(self.languages), self.harmful], dropna=False)
        means, sizes = cells.mean().unstack(), cells.size()
        differences = means[True] - means[False]
        n_free = len(unsteered) - len(sizes)
        if not n_free:
            return bool(differences.mean() > 0)
        variance = float(((unsteered - cells.transform("mean")) ** 2).sum()) / n_free
        error = np.sqrt(variance * (1 / sizes).sum()) / len(differences)
        return bool(differences.mean() > _ONE_SIDED * error)

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


def search_strength(
    wrapper: SweepParams, X: Any, y: Any, language: Any
) -> tuple[pd.DataFrame, dict[str | None, Reply]]:
    """Measure how likely the model's own refusals are, by strength.

    The parameters are those of :meth:`skgate.SteeringWrapper.choose_strength`, after the wrapper.

    Returns
    -------
    table : DataFrame
        The attribute ``strength_search_`` of the wrapper. The best strength is in
        ``attrs["strength"]``.
    refusals : dict of str or None to tuple of int
        The refusals by language, as token ids.
    """
    parts = find_fitted_parts(wrapper)
    prompts, languages = parts.split(X, language)
    harmful = find_harmful(parts.gate, prompts, y)
    reader = parts.open_reader()
    direction, unit = parts.check_gate(reader), projection_unit(parts.gate)
    refusals = find_own_refusals(wrapper, reader, prompts, harmful, languages)
    curve = measure_strengths(refusals, max(reader.layers), direction, unit)
    check_found(curve.best > 0, int(harmful.sum()))
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
    return table, {one.language: one.reply for one in refusals.found}


def find_harmful(gate: LatentGate, prompts: Sequence[Prompt], y: Any) -> Bools:
    """Find which prompts are harmful, by labels that the fitted gate knows."""
    labels = np.asarray(plain_labels(y))
    check_same_length({"X": prompts, "y": labels})
    check_labels(labels, gate.classes_, "y")
    return labels == gate.harmful_label_


def check_found(found: bool, n_harmful: int) -> None:
    """Raise a ValueError unless refusals were found that steering makes likelier."""
    if not found:
        raise ValueError(
            f"Got a model among whose replies to some of {n_harmful} harmful prompts no refusal "
            "was found that steering makes likelier, expected a model that refuses some of the "
            "harmful source prompts. Pass strength as a number. To compare layers of a model that "
            "does not refuse, pass validation_prompts to select_layer."
        )


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
        The likelihoods. If there are no refusals, or what was found may be other replies, it has
        only the strength 0.
    """
    cells = [
        (one.language, label, len(prompts))
        for one in refusals.found
        for label, prompts in ((True, one.harmful), (False, one.harmless))
    ]
    languages = np.array([name for name, _, n in cells for _ in range(n)], dtype=object)
    harmful = np.array([label for _, label, n in cells for _ in range(n)], dtype=bool)

    def extend(curve: StrengthCurve, strengths: list[float]) -> StrengthCurve:
        amounts = [strength * unit for strength in strengths]
        found = np.vstack([one.measure(layer, direction, amounts) for one in refusals.found])
        tried = np.array(curve.strengths + strengths)
        order = tried.argsort()
        found = np.hstack([curve.log_likelihoods, found])[:, order]
        return curve._replace(strengths=tried[order].tolist(), log_likelihoods=found)

    curve = StrengthCurve([], languages, harmful, np.empty((len(languages), 0)))
    if not refusals.found:
        return curve._replace(strengths=[0.0], log_likelihoods=np.empty((0, 1)))
    curve = extend(curve, [i * _COARSE for i in range(4)])
    if not curve.are_refusals:
        return curve._replace(strengths=[0.0], log_likelihoods=curve.log_likelihoods[:, :1])
    while curve.strengths[-1] < (_GREATEST if curve.best else _GREATEST_IN_VAIN) and (
        not curve.best or curve.best > len(curve.strengths) - 3
    ):
        curve = extend(curve, [curve.strengths[-1] + _COARSE])
    best = curve.strengths[curve.best]
    return extend(curve, [best - _FINE, best + _FINE]) if best else curve
