"""Direction, subspace and probe, learned from the source languages."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skgate._base import find_stack_level
from skgate.gate._probe import LabelledRows, Probe, fit_probe
from skgate.gate._shift_prior import HeldOut, LanguagePrior, Scored, hold_out, learn_prior
from skgate.gate._subspace import (
    Bools,
    Floats,
    class_sums,
    cosine_within,
    direction_between,
    harm_basis,
)
from skgate.gate._thresholds import balanced_f1_threshold, round_scores

_LEAST_COSINE = 0.9


@dataclass(frozen=True)
class Source:
    """Direction, subspace and probe of the source languages.

    Attributes
    ----------
    direction : ndarray of shape (d,)
        Unit vector from harmless to harmful.
    basis : ndarray of shape (d, r)
        Orthonormal basis of the harmfulness subspace.
    rows : LabelledRows
        The source rows, projected onto it.
    groups : dict of str to ndarray of bool
        The rows of each language; a single group "" without languages.
    probe : Probe
        The logistic regression.
    boundary : float
        The pooled boundary on the probe's score.
    totals : dict of str to (ndarray of shape (d,), float)
        Sum and weight of each language's rows.
    """

    direction: Floats
    basis: Floats
    rows: LabelledRows
    groups: dict[str, Bools]
    probe: Probe
    boundary: float
    totals: dict[str, tuple[Floats, float]]
    _all_rows: LabelledRows  # projected onto the span of all languages' directions
    _units: Floats  # these directions, in the coordinates of that span

    @property
    def rank(self) -> int:
        """Dimensions of the subspace."""
        return self.basis.shape[1]

    def prior(self, C: float) -> LanguagePrior:
        """Learn what to expect of a new language by holding out each source language in turn."""
        groups = list(self.groups.values())
        held_out = [] if len(groups) == 1 else [self._hold_out(i, C) for i in range(len(groups))]
        return learn_prior(
            _scored(self.rows, self.probe, groups),
            self.boundary,
            [one for one in held_out if one is not None],
        )

    def _hold_out(self, left_out: int, C: float) -> HeldOut | None:
        """Score a source language with the subspace, probe and boundary of the others."""
        groups = list(self.groups.values())
        others = ~groups[left_out]
        kept = [i for i in range(len(groups)) if i != left_out]
        rows = self._all_rows.take(others)
        units = self._units[[i for i in kept if self._units[i].any()]]
        if not (len(units) and rows.has_both_classes and self._units[left_out].any()):
            return None
        basis = harm_basis(units, self.rank, units.mean(axis=0))
        rows = LabelledRows(rows.z @ basis, rows.harmful, rows.weight)
        probe = fit_probe(rows, C)
        own = self._all_rows.take(groups[left_out])
        own = LabelledRows(own.z @ basis, own.harmful, own.weight)
        return hold_out(
            _scored(rows, probe, [groups[i][others] for i in kept]),
            _pooled_boundary(rows, probe),
            _scored(own, probe, [np.ones(len(own.z), dtype=bool)]),
            lambda scored: _logistic_boundary(scored, C),
        )


def learn_source(
    X: Floats,
    harmful: Bools,
    weight: Floats,
    language: npt.NDArray[np.object_] | None,
    rank: int,
    C: float,
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
    rank : int
        Largest number of dimensions of the subspace.
    C : float
        Inverse regularization of the probe.

    Returns
    -------
    source : Source
        Direction, subspace and probe.

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
    sums, weights = class_sums(X, harmful, weight, list(groups.values()))
    _check_both_classes(list(groups), weights)
    pooled = direction_between(sums.sum(axis=0), weights.sum(axis=0))
    if pooled is None:
        raise ValueError(
            "Got the same mean of X for both classes of y in the source languages, expected "
            "activations that differ."
        )
    cosine = cosine_within(pooled, sums, weights)
    if cosine < _LEAST_COSINE:
        warnings.warn(
            "The share of harmful rows differs between the source languages, so direction_, which "
            "steering uses, points from language to language as well (cosine to the direction "
            f"within languages: {cosine:.2f}). Expected equal shares: balance them with "
            "sample_weight, or leave rows out.",
            UserWarning,
            stacklevel=find_stack_level(),
        )
    found = [direction_between(*of_language) for of_language in zip(sums, weights, strict=True)]
    units = np.stack([unit for unit in found if unit is not None] or [pooled])
    space = harm_basis(units, len(units), pooled)
    all_rows = LabelledRows(X @ space, harmful, weight)
    rank = min(rank, space.shape[1])
    rows = LabelledRows(all_rows.z[:, :rank], harmful, weight)
    probe = fit_probe(rows, C)
    return Source(
        direction=pooled,
        basis=space[:, :rank],
        rows=rows,
        groups=groups,
        probe=probe,
        boundary=_pooled_boundary(rows, probe),
        _all_rows=all_rows,
        totals=dict(
            zip(groups, zip(sums.sum(axis=1), weights.sum(axis=1), strict=True), strict=True)
        ),
        _units=np.array([0 * pooled if unit is None else unit for unit in found]) @ space,
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


def _scored(rows: LabelledRows, probe: Probe, languages: list[Bools]) -> Scored:
    return Scored(probe(rows.z), rows.harmful, rows.weight, languages)


def _pooled_boundary(rows: LabelledRows, probe: Probe) -> float:
    return balanced_f1_threshold(round_scores(probe(rows.z)), rows.harmful, rows.weight)


def _logistic_boundary(scored: Scored, C: float) -> float:
    probe = fit_probe(LabelledRows(scored.scores[:, None], scored.harmful, scored.weight), C)
    slope = float(probe.coef[0])
    return -probe.intercept / slope if slope else float(scored.scores.mean())
