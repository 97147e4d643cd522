"""Direction and probe, learned from the source languages."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from skgate._base import find_stack_level
from skgate._provenance import ActivationSource
from skgate.gate._folds import find_folds
from skgate.gate._held_out import Fitted, fit_held_out
from skgate.gate._probe import LabelledRows, fit_probe
from skgate.gate._readout import FullFitter, ProbeFitter, SubspaceFitter
from skgate.gate._scores import LabelledScores, SourceScores
from skgate.gate._shift_prior import ShiftPrior, learn_prior
from skgate.gate._subspace import Bools, Floats, class_sums, cosine_within, direction_between
from skgate.gate._thresholds import balanced_f1_threshold, round_scores

_LEAST_COSINE = 0.9


class SourceParams(Protocol):
    """The parameters of a gate that say what is learned from the sources."""

    rank: int | None
    C: float | str
    calibration: str | None
    direction: str


@dataclass(frozen=True)
class Source:
    """Direction and probe of the source languages.

    Attributes
    ----------
    direction : ndarray of shape (d,)
        Unit vector from harmless to harmful, 0 outside the steered columns.
    rank : int
        Dimensions that the probe reads.
    fitted : Fitted
        The probe, and the scores of the source rows.
    harmful, weight : ndarray of shape (n,)
        Labels and weights of the source rows.
    groups : dict of str to ndarray of bool
        The rows of each language; a single group "" without languages.
    boundary : float
        The pooled boundary on the probe's score.
    totals : dict of str to (ndarray of shape (d,), float)
        Sum and weight of each language's rows.
    """

    direction: Floats
    rank: int
    fitted: Fitted
    harmful: Bools
    weight: Floats
    groups: dict[str, Bools]
    boundary: float
    totals: dict[str, tuple[Floats, float]]

    def scores(self, name: str) -> LabelledScores:
        """Return the scores of a language's rows.

        Gap and spread are out of sample. The middle between the classes is that of the probe
        itself, which has seen the language: one that has seen few others may place it far off.
        """
        rows = self.groups[name]
        held_out, seen = (
            LabelledScores(scores, self.harmful, self.weight).take(rows)
            for scores in (self.fitted.scores, self.fitted.seen_scores)
        )
        one, other = held_out.statistics(), seen.statistics()
        if not one.has_both_classes:
            return seen
        return held_out._replace(scores=held_out.scores + other.mean.mean() - one.mean.mean())

    def prior(self) -> ShiftPrior:
        """Learn what to expect of a new language from how the sources differ."""
        rows = LabelledScores(self.fitted.scores, self.harmful, self.weight)
        sources = SourceScores(rows, list(self.groups.values()))
        return learn_prior(sources, self.boundary, _logistic_boundary)


def steered_columns(source: ActivationSource | None, width: int) -> slice:
    """Find the columns of activations that steering acts at; all if their source is not known."""
    n_places = 1 if source is None else len(source.places)
    if source is None or width % n_places:
        return slice(None)
    size = width // n_places
    return slice(source.steered_place * size, (source.steered_place + 1) * size)


def learn_source(
    X: Floats,
    harmful: Bools,
    weight: Floats,
    language: npt.NDArray[np.object_] | None,
    params: SourceParams,
    steered: slice,
) -> Source:
    """Learn from labelled source rows.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Activations.
    harmful : ndarray of bool of shape (n,)
        Labels.
    weight : ndarray of shape (n,)
        Positive weights.
    language : ndarray of str of shape (n,) or None
        Languages.
    params : LatentGate
        Only its parameters ``rank``, ``C``, ``calibration`` and ``direction`` are used.
    steered : slice
        The columns of ``X`` that steering acts at.

    Returns
    -------
    source : Source
        Direction and probe.

    Raises
    ------
    ValueError
        If a class is missing, each of several languages has one class only, or the class means are
        equal.

    Warns
    -----
    UserWarning
        If much of the difference between the classes is one between languages.
    """
    if harmful.all() or not harmful.any():
        raise ValueError(
            "Got one class in y among the rows of the source languages, expected harmful and "
            "harmless prompts there."
        )
    groups = {"": np.ones(len(X), dtype=bool)}
    if language is not None:
        groups = {name: language == name for name in sorted(set(language))}
    languages = list(groups.values())
    sums, weights = class_sums(X, harmful, weight, languages)
    _check_both_classes(list(groups), weights)
    pooled = direction_between(sums.sum(axis=0), weights.sum(axis=0))
    direction = direction_between(sums[..., steered].sum(axis=0), weights.sum(axis=0))
    if pooled is None or direction is None:
        raise ValueError(
            "Got the same mean of X for both classes of y in the source languages, expected "
            "activations that differ."
        )
    cosine = cosine_within(direction, sums[..., steered], weights)
    if cosine < _LEAST_COSINE:
        warnings.warn(
            "The share of harmful rows differs between the source languages, so direction_, which "
            "steering uses, points from language to language as well (cosine to the direction "
            f"within languages: {cosine:.2f}). Expected equal shares: balance them with "
            "sample_weight, or leave rows out.",
            UserWarning,
            stacklevel=find_stack_level(),
        )
    # The paper's subspace with "refit", and the probe's own boundary, need no held-out scores.
    by_itself = params.calibration is None or (
        params.calibration == "refit" and params.rank is not None
    )
    folds = find_folds(X, harmful, languages, pooled)
    fitter: ProbeFitter
    if params.rank is None:
        project = params.calibration in ("threshold", None)  # shots move the other probes
        fitter = FullFitter(X, harmful, weight, folds, project=project)
    else:
        fitter = SubspaceFitter(
            X, harmful, weight, languages, (sums, weights), folds, params.rank, pooled
        )
    needs_folds = params.C == "auto" or not by_itself
    fitted = fit_held_out(fitter, X, harmful, weight, folds if needs_folds else None, params.C)
    readout = fitted.readout
    if by_itself:
        fitted = fitted._replace(scores=fitted.seen_scores)
    if params.direction == "probe":
        direction = readout.on_activations().coef[steered]
        direction = direction / (np.linalg.norm(direction) or 1.0)
    wide = np.zeros(X.shape[1])
    wide[steered] = direction
    return Source(
        direction=wide,
        rank=fitter.rank,
        fitted=fitted,
        harmful=harmful,
        weight=weight,
        groups=groups,
        boundary=balanced_f1_threshold(round_scores(fitted.scores), harmful, weight),
        totals=dict(
            zip(groups, zip(sums.sum(axis=1), weights.sum(axis=1), strict=True), strict=True)
        ),
    )


def _check_both_classes(languages: list[str], weights: Floats) -> None:
    """Raise a ValueError if no language has rows of both classes: a direction needs one."""
    if (weights > 0).all(axis=1).any():
        return
    classes = zip(languages, weights[:, 1] > 0, strict=True)
    found = ", ".join(f"{name!r} ({'harmful' if one else 'harmless'})" for name, one in classes)
    raise ValueError(
        f"Got source languages with one class each in y: {found}. Expected both classes in at "
        "least one language: otherwise the direction separates languages, not harmful from "
        "harmless prompts."
    )


def _logistic_boundary(scored: LabelledScores) -> float:
    scores, harmful, weight = scored
    probe = fit_probe(LabelledRows(scores[:, None], harmful, weight), 1.0)
    slope = float(probe.coef[0])
    return -probe.intercept / slope if slope else float(scores.mean())
