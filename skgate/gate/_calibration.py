"""What is known of each language, and the readout that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from skgate.gate._detector import Place
from skgate.gate._probe import Readout, Rows, fit_readout, stack
from skgate.gate._shift_prior import LanguagePrior, LanguageShift, ScoreStatistics
from skgate.gate._shift_sampler import adapt
from skgate.gate._subspace import Floats
from skgate.gate._thresholds import balanced_f1_threshold, snap


@dataclass(frozen=True)
class Evidence:
    """What was seen of a language.

    Attributes
    ----------
    source : Rows or None
        Its rows among the source rows.
    shots : Rows or None
        Labelled prompts.
    unlabelled : ndarray of shape (n,)
        Scores of unlabelled prompts by the source readout.
    place : Place or None
        Where its prompts lie among the languages.
    """

    source: Rows | None = None
    shots: Rows | None = None
    unlabelled: Floats = field(default_factory=lambda: np.zeros(0))
    place: Place | None = None

    def __add__(self, other: Evidence) -> Evidence:
        place = self.place or other.place
        if self.place is not None and other.place is not None:
            place = self.place.with_rows(other.place)
        return Evidence(
            source=self.source,
            shots=stack(self.shots, other.shots),
            unlabelled=np.concatenate([self.unlabelled, other.unlabelled]),
            place=place,
        )

    def equals(self, other: Evidence) -> bool:
        """Whether the same was added to the source rows."""
        return all(map(np.array_equal, self._sorted(), other._sorted()))

    def _sorted(self) -> tuple[Floats, Floats]:
        """What was added, in an order of its own: labelled rows of shape (n, r + 2), scores."""
        rows = np.zeros((0, 0))
        if self.shots is not None:
            rows = np.column_stack(self.shots)
            rows = rows[np.lexsort(rows.T)]
        return rows, np.sort(self.unlabelled)

    @property
    def labelled(self) -> Rows | None:
        """Source rows and shots."""
        return stack(self.source, self.shots)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added to the source rows."""
        return self.shots is None and not len(self.unlabelled)


@dataclass(frozen=True)
class Calibration:
    """A language's readout.

    Attributes
    ----------
    readout : Readout
        Greater than 0 means harmful.
    scale : float
        Its steepness, relative to the source readout's.
    interval : (float, float)
        Where the boundary lies on the source readout's score, with a probability of 90 %.
    none_harmful : float
        Probability that none of the unlabelled prompts is harmful; 0 without any.
    settled : bool
        Whether what the unlabelled prompts say was found exactly.
    moved : bool
        Whether what was seen of the language could move its boundary.
    """

    readout: Readout
    scale: float = 1.0
    interval: tuple[float, float] = (np.nan, np.nan)
    none_harmful: float = 0.0
    settled: bool = True
    moved: bool = True


@dataclass(frozen=True)
class Calibrator:
    """Finds a language's readout.

    Attributes
    ----------
    method : str or None
        ``calibration`` of the gate.
    C : float
        Inverse regularisation of refitted readouts.
    source : Rows
        The rows that the readout was fitted on.
    probe : Readout
        The source readout.
    zero_shot : Readout
        The source readout with the pooled source's boundary.
    prior : LanguagePrior or None
        What to expect of a further language; needed by "shrinkage" alone.
    """

    method: str | None
    C: float
    source: Rows
    probe: Readout
    zero_shot: Readout
    prior: LanguagePrior | None

    def calibrate(self, evidence: Evidence) -> Calibration:
        """Find the readout of a language."""
        if self.prior is not None:
            return self._by_shrinkage(self.prior, evidence)
        shots = evidence.shots
        idle = Calibration(self.zero_shot, moved=evidence.is_empty)
        if self.method is None or shots is None or not shots.has_both_classes:
            return idle
        probe = self.probe
        if self.method == "refit":
            probe = fit_readout(stack(self.source, shots) or shots, self.C)
        threshold = balanced_f1_threshold(snap(probe(shots.z)), shots.harmful, shots.weight)
        return replace(idle, readout=probe.lowered(threshold), moved=True)

    def unseen(self) -> Calibration:
        """Find the readout of a language that nothing was seen of."""
        if self.prior is None:
            return Calibration(self.zero_shot)
        return self._from_shift(self.prior, self.prior.unseen())

    def statistics(self, evidence: Evidence) -> ScoreStatistics:
        """Summarise the labelled scores of a language."""
        labelled = evidence.labelled or self.source.empty()
        return ScoreStatistics.of(self.probe(labelled.z), labelled.harmful, labelled.weight)

    def _by_shrinkage(self, prior: LanguagePrior, evidence: Evidence) -> Calibration:
        statistics = self.statistics(evidence)
        if not len(evidence.unlabelled):
            if not statistics.weight.any():
                return Calibration(self.zero_shot)
            return self._from_shift(prior, prior.update(statistics))
        adapted = adapt(prior, statistics, evidence.unlabelled)
        return replace(
            self._from_shift(prior, adapted.shift),
            none_harmful=adapted.none_harmful,
            settled=adapted.settled,
        )

    def _from_shift(self, prior: LanguagePrior, shift: LanguageShift) -> Calibration:
        """Log-odds of two normal distributions, averaged over the boundary's uncertainty.

        ``logit(E[expit(x)])`` is close to ``E[x] / sqrt(1 + pi / 8 * Var[x])`` for a normal x.
        """
        slope = shift.gap / (shift.width * prior.unit) ** 2
        scale = slope / np.sqrt(1 + np.pi / 8 * (slope * shift.deviation) ** 2)
        return Calibration(
            readout=self.probe.lowered(shift.boundary).scaled(scale),
            scale=float(scale),
            interval=shift.interval(),
        )
