"""The evidence about a language, and the probe that is computed from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from skgate.gate._detector import LanguageStatistics
from skgate.gate._operating_point import OperatingPoint, find_operating_point
from skgate.gate._probe import LabelledRows, Probe, fit_probe, stack
from skgate.gate._probe_posterior import ProbePosterior
from skgate.gate._scores import LabelledScores
from skgate.gate._shift_posterior import LanguageShift, ShiftModel
from skgate.gate._shift_sampler import adapt
from skgate.gate._subspace import Floats
from skgate.gate._thresholds import balanced_f1_threshold, round_scores

_MOVES_FROM = 4.0  # weight of each class's shots; scores of fewer are too noisy to tell the shift


@dataclass(frozen=True)
class Evidence:
    """The evidence about a language.

    Attributes
    ----------
    source : LabelledScores or None
        What the language's rows among the source rows score on probes that have not seen them.
    shots : LabelledRows or None
        Labelled prompts given later.
    unlabelled : ndarray of shape (n,)
        Scores of unlabelled prompts on the source probe.
    unnamed : LabelledScores or None
        The same as ``source`` for source rows without a language. They don't move the boundary,
        which is theirs already, but tell error rates.
    statistics : LanguageStatistics or None
        Statistics of the activations of all its prompts.
    """

    source: LabelledScores | None = None
    shots: LabelledRows | None = None
    unlabelled: Floats = field(default_factory=lambda: np.zeros(0))
    unnamed: LabelledScores | None = None
    statistics: LanguageStatistics | None = None

    def __add__(self, other: Evidence) -> Evidence:
        statistics = self.statistics or other.statistics
        if self.statistics is not None and other.statistics is not None:
            statistics = self.statistics + other.statistics
        return Evidence(
            source=self.source,
            shots=stack(self.shots, other.shots),
            unlabelled=np.concatenate([self.unlabelled, other.unlabelled]),
            unnamed=self.unnamed,
            statistics=statistics,
        )

    def adds_the_same(self, other: Evidence) -> bool:
        """Whether both add the same prompts to the source rows, in any order, up to rounding."""
        return all(map(_equal_up_to_rounding, _sort_added(self), _sort_added(other)))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added to the source rows."""
        return self.shots is None and not len(self.unlabelled)


def _sort_added(evidence: Evidence) -> tuple[Floats, Floats]:
    """Sort the shots, as rows of shape (n, r + 2), and the unlabelled scores."""
    rows = np.zeros((0, 0))
    if evidence.shots is not None:
        rows = np.column_stack(evidence.shots)
        rows = rows[np.lexsort(rows.T)]
    return rows, np.sort(evidence.unlabelled)


def _equal_up_to_rounding(one: Floats, other: Floats) -> bool:
    """Compare projections, whose last bits depend on the other rows in a matrix product."""
    scale = np.abs(one).max(axis=0, initial=0.0)
    return one.shape == other.shape and bool((np.abs(one - other) <= 1e-12 * scale).all())


@dataclass(frozen=True)
class Calibration:
    """A language's probe.

    Attributes
    ----------
    probe : Probe
        Greater than 0 means harmful.
    boundary : float
        What it subtracts from the score of the source probe, or of the one in its place.
    scale : float
        Steepness of the probe, relative to that score.
    interval : (float, float)
        90 % interval of the boundary on the source probe's score.
    none_harmful : float
        Probability that none of the unlabelled prompts is harmful; 0 without any.
    settled : bool
        Whether the sampling over the unlabelled prompts has converged.
    moved : bool
        Whether the evidence could move the boundary.
    weak : float
        Probability that no threshold tells the language's classes apart; 0 if it is not known.
    point : OperatingPoint or None
        Where ``target_fpr`` holds; None if it is not set or not supported.
    """

    probe: Probe
    boundary: float
    scale: float = 1.0
    interval: tuple[float, float] = (np.nan, np.nan)
    none_harmful: float = 0.0
    settled: bool = True
    moved: bool = True
    weak: float = 0.0
    point: OperatingPoint | None = None

    @property
    def threshold(self) -> float:
        """Log-odds above which a prompt counts as harmful."""
        return 0.0 if self.point is None else self.point.threshold


@dataclass(frozen=True)
class Calibrator:
    """Finds a language's probe from its evidence.

    Attributes
    ----------
    method : str or None
        ``calibration`` of the gate.
    C : float
        Inverse regularization of refitted probes.
    source : LabelledRows or None
        The rows that the source probe was fitted on; None unless ``method`` is "refit".
    probe : Probe
        The source probe.
    zero_shot : Probe
        The source probe with the pooled boundary of the source languages.
    shifts : ShiftModel or None
        What to expect of a new language; None unless ``method`` is "shrinkage".
    posterior : ProbePosterior or None
        Moves the probe with four shots of each class; None unless ``method`` is "shrinkage".
    target_fpr : float or None
        Highest share of harmless prompts to call harmful; None for balanced errors.
    """

    method: str | None
    C: float
    source: LabelledRows | None
    probe: Probe
    zero_shot: Probe
    shifts: ShiftModel | None
    posterior: ProbePosterior | None
    target_fpr: float | None = None

    def calibrate(self, evidence: Evidence) -> Calibration:
        """Find the probe of a language, and its operating point."""
        found = self._find_probe(evidence)
        if self.target_fpr is None:
            return found
        scores = self.decided(evidence, found)
        point = find_operating_point(scores.scores, scores.harmful, "fpr", self.target_fpr)
        return replace(found, point=point)

    def decided(self, evidence: Evidence, calibration: Calibration) -> LabelledScores:
        """Return the log-odds of the labelled prompts that tell error rates.

        These are the shots, and source rows that were scored by probes which have not seen them.
        """
        if self.method not in ("shrinkage", "threshold"):  # the probe may have seen the source rows
            if evidence.shots is None:
                return LabelledScores.none()
            z, harmful, weight = evidence.shots
            return LabelledScores(calibration.probe(z), harmful, weight)
        found = (evidence.unnamed or LabelledScores.none()) + self.read(evidence)[1]
        return found._replace(scores=calibration.scale * (found.scores - calibration.boundary))

    def _find_probe(self, evidence: Evidence) -> Calibration:
        if self.shifts is not None:
            return self._by_shrinkage(self.shifts, evidence)
        shots = evidence.shots
        idle = replace(self._pooled, moved=evidence.is_empty)
        if self.method is None or shots is None or not shots.has_both_classes:
            return idle
        probe = self.probe
        if self.method == "refit":
            probe = fit_probe(stack(self.source, shots) or shots, self.C)
        threshold = balanced_f1_threshold(round_scores(probe(shots.z)), shots.harmful, shots.weight)
        return self._without_scale(probe.with_threshold(threshold))

    def unseen(self) -> Calibration:
        """Find the probe of a language without any evidence."""
        if self.shifts is None:
            return self._pooled
        return self._from_shift(self.shifts, self.shifts.unseen, self.probe)

    def read(self, evidence: Evidence) -> tuple[Probe, LabelledScores]:
        """Find the probe of a language before its boundary is set, and its labelled scores.

        Four shots of each class move the source probe, if nothing else is known of the language.
        The shots' scores then come from probes that have not seen them.
        """
        shots = evidence.shots
        if self.posterior is not None and shots is not None and self._may_move(evidence):
            return self.posterior.move(shots)
        found = evidence.source or LabelledScores.none()
        if shots is not None:
            found += LabelledScores(self.probe(shots.z), shots.harmful, shots.weight)
        return self.probe, found

    def _may_move(self, evidence: Evidence) -> bool:
        shots = evidence.shots
        if shots is None or evidence.source is not None or len(evidence.unlabelled):
            return False
        weights = [shots.weight[shots.harmful == label].sum() for label in (False, True)]
        return bool(min(weights) >= _MOVES_FROM)

    @property
    def _pooled(self) -> Calibration:
        return self._without_scale(self.zero_shot)

    def _without_scale(self, probe: Probe) -> Calibration:
        return Calibration(probe, boundary=self.probe.intercept - probe.intercept)

    def _by_shrinkage(self, shifts: ShiftModel, evidence: Evidence) -> Calibration:
        probe, scores = self.read(evidence)
        if not len(evidence.unlabelled):
            if not len(scores.scores):
                return self._pooled
            return self._from_shift(shifts, shifts.update(scores), probe)
        adapted = adapt(shifts, scores, evidence.unlabelled)
        return replace(
            self._from_shift(shifts, adapted.shift, probe),
            none_harmful=adapted.none_harmful,
            settled=adapted.settled,
        )

    def _from_shift(self, shifts: ShiftModel, shift: LanguageShift, probe: Probe) -> Calibration:
        """Compute the log-odds of two normals, averaged over the boundary's uncertainty.

        ``logit(E[expit(x)])`` is close to ``E[x] / sqrt(1 + pi / 8 * Var[x])`` for a normal x.
        """
        slope = shift.gap / (shift.width * shifts.prior.unit) ** 2
        scale = slope / np.sqrt(1 + np.pi / 8 * (slope * shift.deviation) ** 2)
        return Calibration(
            probe=probe.with_threshold(shift.boundary).scaled(scale),
            boundary=shift.boundary,
            scale=float(scale),
            interval=shift.interval,
            weak=shift.weak,
        )
