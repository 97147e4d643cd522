"""LanguageBook: what a gate has learned about each language, as an immutable object."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import log_expit, logsumexp, softmax

from skgate._base import find_stack_level
from skgate.gate._calibration import Calibration, Calibrator, Evidence
from skgate.gate._detector import LanguageDetector
from skgate.gate._operating_point import CONFIDENCE, explain_missing
from skgate.gate._probe import LabelledRows
from skgate.gate._readout import Readout
from skgate.gate._scores import LabelledScores
from skgate.gate._subspace import Bools, Floats

Languages = npt.NDArray[np.object_]
Language = str | None  # None is the pooled source

NO_COPY = (
    "Got a gate fitted on other source rows or with other parameters as other, expected copies of "
    "one fitted gate, calibrated on different languages."
)
LIKELY = 0.75  # probability of a weak signal that is worth a warning
_UNSEEN_SHARE = 0.1  # share of a call's rows above which unseen languages are worth a warning


class Decisions(NamedTuple):
    """What a gate decides about prompts.

    Attributes
    ----------
    log_odds : ndarray of shape (n,)
        Log-odds of harmful.
    thresholds : ndarray of shape (n,)
        Log-odds above which each prompt counts as harmful.
    languages : ndarray of shape (n,), dtype object
        The languages given or, if none was given, detected: "" stands for the shots without a
        language, None for a language never seen or not detected.
    """

    log_odds: Floats
    thresholds: Floats
    languages: Languages

    @property
    def scores(self) -> Floats:
        """Harm scores: greater than 0 means harmful."""
        return self.log_odds - self.thresholds


@dataclass(frozen=True)
class LanguageBook:
    """The evidence about each language, the calibrations made from it, and the language detector.

    A book is immutable: every method that learns returns a new one. The key None stands for prompts
    without a language.

    Attributes
    ----------
    readout : Readout
        The source probe, and the features that all probes read.
    calibrator : Calibrator
        Turns evidence into calibrations.
    detector : LanguageDetector
        Detects languages from activations.
    sources : mapping of str or None to Evidence
        Evidence from the source rows alone; it is never removed.
    evidence : mapping of str or None to Evidence
        Source rows, shots and unlabelled prompts.
    calibrations : mapping of str or None to Calibration
        One for each language of ``evidence``, and the pooled source's.
    """

    readout: Readout
    calibrator: Calibrator
    detector: LanguageDetector
    sources: Mapping[Language, Evidence]
    evidence: Mapping[Language, Evidence]
    calibrations: Mapping[Language, Calibration]

    @classmethod
    def from_sources(
        cls,
        readout: Readout,
        calibrator: Calibrator,
        detector: LanguageDetector,
        sources: Mapping[Language, Evidence],
    ) -> LanguageBook:
        """Start a book with the source languages."""
        pooled: dict[Language, Calibration] = {None: calibrator.calibrate(Evidence())}
        found = {name: calibrator.calibrate(one) for name, one in sources.items()}
        return cls(readout, calibrator, detector, sources, sources, pooled | found)

    @property
    def languages(self) -> list[str]:
        """The known languages, sorted."""
        return sorted(name for name in self.evidence if name is not None)

    def add(
        self, X: Floats, harmful: Bools, weight: Floats, language: Languages | None
    ) -> LanguageBook:
        """Add shots.

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

        Returns
        -------
        book : LanguageBook
            With these languages calibrated anew.
        """
        shots = LabelledRows(self.readout.features(X), harmful, weight)
        return self._extend(X, weight, language, lambda rows: Evidence(shots=shots.take(rows)))

    def adapt(self, X: Floats, language: Languages | None) -> LanguageBook:
        """Add unlabelled prompts.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Activations.
        language : ndarray of str of shape (n,) or None
            Languages.

        Returns
        -------
        book : LanguageBook
            With these languages calibrated anew.
        """
        scores = self.calibrator.probe(self.readout.features(X))
        one_each = np.ones(len(X))
        return self._extend(X, one_each, language, lambda rows: Evidence(unlabelled=scores[rows]))

    def forget(self, names: Iterable[Language]) -> LanguageBook:
        """Forget all but the source rows of languages that something was added to.

        Raises
        ------
        ValueError
            If nothing was added to a language.
        """
        evidence, calibrations = dict(self.evidence), dict(self.calibrations)
        for name in dict.fromkeys(names):
            if name not in evidence or evidence[name].is_empty:
                known = [key for key, one in evidence.items() if not one.is_empty]
                raise ValueError(
                    f"Got language={name!r}, which has neither shots nor unlabelled prompts to "
                    f"forget, expected one of {known}."
                )
            del evidence[name], calibrations[name]
            if name is None:
                calibrations[None] = self.calibrator.calibrate(Evidence())
            if name in self.sources:
                evidence[name] = self.sources[name]
                calibrations[name] = self.calibrator.calibrate(evidence[name])
        return replace(self, evidence=evidence, calibrations=calibrations)

    def merge(self, other: LanguageBook) -> LanguageBook:
        """Combine two books of the same source rows.

        Raises
        ------
        ValueError
            If the source rows differ, or both added different prompts to a language.
        """
        mine, theirs = self.calibrator, other.calibrator
        probes = [book.readout.on_activations() for book in (self, other)]
        same_source = (
            np.array_equal(probes[0].coef, probes[1].coef)
            and probes[0].intercept == probes[1].intercept
            and (mine.method, mine.C, mine.target_fpr)
            == (theirs.method, theirs.C, theirs.target_fpr)
            and set(self.sources) == set(other.sources)
        )
        if not same_source:
            raise ValueError(NO_COPY)
        evidence, calibrations = dict(self.evidence), dict(self.calibrations)
        for name, added in other.evidence.items():
            known = evidence.get(name)
            if added.is_empty or (known is not None and known.adds_the_same(added)):
                continue
            if known is not None and not known.is_empty:
                raise ValueError(
                    f"Got different prompts of language {name!r} in this gate and in other, "
                    "expected them in one of the two: forget the language in one gate, or pass "
                    "its prompts to partial_fit."
                )
            evidence[name], calibrations[name] = added, self.calibrator.calibrate(added)
        return replace(self, evidence=evidence, calibrations=calibrations)

    def pooled(self) -> LanguageBook:
        """Give what was added to any language to the pooled source, and drop the languages.

        Returns
        -------
        book : LanguageBook
            It has one boundary, that of the pooled source.
        """
        named = [
            Evidence(shots=one.shots, unlabelled=one.unlabelled)
            for name, one in self.evidence.items()
            if name is not None and not one.is_empty
        ]
        evidence = sum(named, self.evidence.get(None, Evidence()))
        calibration = self.calibrator.calibrate(evidence) if named else self.calibrations[None]
        return replace(self, evidence={None: evidence}, calibrations={None: calibration})

    def detects(self, unknown_language: str) -> bool:
        """Whether prompts without a known language are decided by detecting their language."""
        return unknown_language == "detect" and len(self.languages) > 0

    def decide(self, X: Floats, language: Languages | None, *, detect: bool) -> Decisions:
        """Decide about prompts.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Activations.
        language : ndarray of str of shape (n,) or None
            Languages.
        detect : bool
            Whether to detect the language of prompts without a known one. If not, the pooled
            source's boundary is used for them.

        Returns
        -------
        decisions : Decisions
            Scores and languages.
        """
        detect = detect and len(self.languages) > 0
        given = np.full(len(X), None, dtype=object) if language is None else language
        log_odds, thresholds = np.empty(len(X)), np.empty(len(X))
        found = given.copy()
        for name in set(given):
            rows = given == name
            if detect and (name is None or name not in self.calibrations):
                log_odds[rows], thresholds[rows], detected = self._mix(X[rows])
                if name is None:
                    found[rows] = detected
            else:
                calibration = self.calibrations.get(name, self.calibrations[None])
                log_odds[rows] = calibration.probe(self.readout.features(X[rows]))
                thresholds[rows] = calibration.threshold
        return Decisions(log_odds, thresholds, found)

    def shots(self, name: Language) -> LabelledRows:
        """Return the shots of a language; empty if there are none."""
        found = self.evidence.get(name, Evidence()).shots
        if found is None:
            z = np.zeros((0, len(self.calibrator.probe.coef)))
            return LabelledRows(z, np.zeros(0, dtype=np.bool_), np.zeros(0))
        return found

    def decided(self, name: Language) -> LabelledScores:
        """Return the log-odds of the labelled prompts that tell a language's error rates."""
        return self.calibrator.decided(self.evidence.get(name, Evidence()), self.calibrations[name])

    def labelled_scores(self, name: Language) -> LabelledScores:
        """Return the scores of a language's labelled prompts, before its boundary is set."""
        return self.calibrator.read(self.evidence.get(name, Evidence()))[1]

    def language_proba(self, X: Floats) -> Floats:
        """Compute the probabilities of the known languages and, last, of one never seen."""
        log_likelihood, names = self._log_likelihood(X)
        if None in names:  # shots without a language: known, but without a name
            log_likelihood[:, -1] = logsumexp(log_likelihood[:, -2:], axis=1)
            log_likelihood = np.delete(log_likelihood, -2, axis=1)
        probabilities: Floats = softmax(log_likelihood, axis=1)
        return probabilities

    def deciding(self, unknown_language: str) -> list[object]:
        """List what determines the decisions, in forms that are equal for equal decisions."""
        known = sorted(self.calibrations.items(), key=lambda item: (item[0] is not None, item[0]))
        basis = self.readout.basis
        found: list[object] = [unknown_language, b"" if basis is None else basis.tobytes()]
        for name, one in [*known, ("unseen", self.calibrator.unseen())]:
            found += [name, one.probe.coef.tobytes(), one.probe.intercept, one.threshold]
            statistics = self.evidence.get(name, Evidence()).statistics
            if statistics is not None and self.detects(unknown_language):
                found += [statistics.total.tobytes(), statistics.weight]
        return found

    def describe(self, sign: int) -> dict[str, Any]:
        """Compute the fitted attributes of a gate that depend on its languages.

        Parameters
        ----------
        sign : int
            1 if the decision function is positive for harmful prompts, -1 if for harmless ones.

        Returns
        -------
        attributes : dict
            The attributes by name; :class:`skgate.LatentGate` documents them.
        """
        pooled, known = self.calibrations[None], self.languages
        coef = self.readout._replace(probe=pooled.probe).on_activations().coef
        calibrations = [self.calibrations[name] for name in known]
        # The pooled score is pooled.scale * (source probe - boundary).
        bias = [pooled.scale * (pooled.boundary - one.boundary) for one in calibrations]
        intervals = np.array([one.interval for one in calibrations]).reshape(-1, 2)
        shots = [self.shots(name).harmful for name in known]
        n_shots = [[(~harmful).sum(), harmful.sum()][::sign] for harmful in shots]
        n_unlabelled = [len(self.evidence[name].unlabelled) for name in known]
        return {
            "languages_": np.array(known, dtype=object),
            "coef_": sign * coef[np.newaxis],
            "intercept_": np.array([sign * pooled.probe.intercept]),
            "language_scale_": np.array([one.scale / pooled.scale for one in calibrations]),
            "language_bias_": sign * np.array(bias),
            "bias_interval_": np.sort(sign * pooled.scale * (pooled.boundary - intervals), axis=1),
            "n_shots_": np.array(n_shots, dtype=np.int64).reshape(-1, 2),
            "n_unlabelled_": np.array(n_unlabelled, dtype=np.int64),
            "operating_points_": {
                name: one.point for name, one in self.calibrations.items() if one.point is not None
            },
        }

    def _extend(
        self,
        X: Floats,
        weight: Floats,
        language: Languages | None,
        evidence_of: Callable[[Bools], Evidence],
    ) -> LanguageBook:
        """Add the evidence of each language's rows and calibrate these languages anew."""
        evidence, calibrations = dict(self.evidence), dict(self.calibrations)
        for name in names_in(language):
            rows = np.ones(len(X), dtype=np.bool_) if language is None else language == name
            share = rows * weight
            statistics = self.detector.summarize(share @ X, share.sum())
            added = replace(evidence_of(rows), statistics=statistics)
            evidence[name] = evidence.get(name, Evidence()) + added
            calibrations[name] = self.calibrator.calibrate(evidence[name])
        return replace(self, evidence=evidence, calibrations=calibrations)

    def _log_likelihood(self, X: Floats) -> tuple[Floats, list[Language]]:
        """Columns for ``languages``, then shots without a language if any, then unseen ones."""
        names: list[Language] = list(self.languages)
        if self.evidence.get(None, Evidence()).statistics is not None:
            names.append(None)
        known = [one for name in names if (one := self.evidence[name].statistics) is not None]
        return self.detector.log_likelihood(X, known), names

    def _mix(self, X: Floats) -> Decisions:
        """Average the decisions of all languages by their probability; find the most probable."""
        log_likelihood, names = self._log_likelihood(X)
        calibrations = [*(self.calibrations[name] for name in names), self.calibrator.unseen()]
        z = self.readout.features(X)
        scores = np.column_stack([one.probe(z) for one in calibrations])
        log_odds: Floats = logsumexp(log_likelihood + log_expit(scores), axis=1) - logsumexp(
            log_likelihood + log_expit(-scores), axis=1
        )
        thresholds = softmax(log_likelihood, axis=1) @ [one.threshold for one in calibrations]
        labels = np.array([*(name or "" for name in names), None], dtype=object)
        return Decisions(log_odds, thresholds, labels[log_likelihood.argmax(axis=1)])


def names_in(language: Languages | None) -> list[Language]:
    """List the distinct languages of rows, sorted; the pooled source if none is given."""
    return [None] if language is None else sorted(set(language))


def check_known(book: LanguageBook, language: Languages, unknown_language: str) -> None:
    """Warn about languages that a gate never saw, or raise a ValueError for them."""
    unknown = sorted(set(language) - {*book.languages, None})
    if not unknown:
        return
    message = f"Got language {unknown}, which the gate has never seen, expected {book.languages}."
    if meant := _find_meant(unknown, book.languages):
        message += f" Did you mean {meant}?"
    if unknown_language == "error":
        raise ValueError(
            f"{message} Calibrate it with partial_fit, or use unknown_language='source' or "
            "'detect'."
        )
    used = (
        "Prompts are decided as in the known languages that they resemble, and as in the source "
        "languages if they resemble none"
        if book.detects(unknown_language)
        else "The pooled source's boundary is used"
    )
    warnings.warn(
        f"{message} {used}, which may be far from the right one: calibrate the language with "
        "partial_fit.",
        UserWarning,
        stacklevel=find_stack_level(),
    )


def _find_meant(unknown: Iterable[str], known: Iterable[str]) -> list[str]:
    """Find the known languages that differ from unknown ones in case or lack their region."""
    tags = {
        part for tag in unknown for part in (tag.casefold(), re.split("[-_]", tag.casefold())[0])
    }
    return [name for name in known if name.casefold() in tags]


def warn_unseen(book: LanguageBook, given: Languages | None, detected: Languages) -> None:
    """Warn if many prompts of no given language are probably in ones that a gate never saw."""
    if given is not None:
        detected = detected[[language is None for language in given]]
    unseen = [language is None for language in detected]
    if sum(unseen) > _UNSEEN_SHARE * len(unseen):
        warnings.warn(
            f"{sum(unseen)} of {len(unseen)} prompts look like none of the languages that the gate "
            f"knows ({book.languages}). They are decided as in the source languages, which may "
            "be far from right: calibrate their language with partial_fit.",
            UserWarning,
            stacklevel=find_stack_level(),
        )


def warn_idle(book: LanguageBook, names: Iterable[Language]) -> None:
    """Warn about languages whose shots can't move their boundary."""
    method = book.calibrator.method
    reason = (
        "ignores shots"
        if method is None
        else "needs shots of both classes; calibration='shrinkage' works with one"
    )
    for name in names:
        if not book.calibrations[name].moved:
            warnings.warn(
                f"The shots of language {name!r} don't move its boundary: calibration={method!r} "
                f"{reason}.",
                UserWarning,
                stacklevel=find_stack_level(),
            )


def warn_untargeted(book: LanguageBook, names: Iterable[Language]) -> None:
    """Warn about languages with too few labelled prompts for the target false positive rate."""
    target = book.calibrator.target_fpr
    for name in names:
        if target is not None and book.calibrations[name].point is None:
            n = int((~book.decided(name).harmful).sum())
            warnings.warn(
                f"The balanced threshold is used for language {name!r}, because "
                f"{explain_missing(n, 'fpr', target, CONFIDENCE)}",
                UserWarning,
                stacklevel=find_stack_level(),
            )


def warn_weak(book: LanguageBook, names: Iterable[Language]) -> None:
    """Warn about languages that no threshold helps, and where shots leave errors unknown."""
    for name in names:
        if not book.calibrations[name].moved:
            continue  # warn_idle tells
        parts = book.evidence[name].source, book.evidence[name].shots
        harmful = np.concatenate([part.harmful for part in parts if part is not None])
        if harmful.all():
            message = (
                f"Got harmful shots alone of language {name!r}: how many harmless prompts the gate "
                "calls harmful can't be known. Expected harmless ones as well."
            )
        elif book.calibrations[name].weak > LIKELY and harmful.any():
            message = (
                f"The scores of harmful and harmless prompts in language {name!r} hardly differ: "
                "no threshold is likely to err on fewer than a quarter of them, and more shots "
                "won't help. See diagnose; read the model at another layer or position."
            )
        else:
            continue
        warnings.warn(message, UserWarning, stacklevel=find_stack_level())


def warn_uncertain(book: LanguageBook, names: Iterable[Language]) -> None:
    """Warn about languages whose boundary may be wrong after adapting to unlabelled prompts."""
    for name in names:
        calibration = book.calibrations[name]
        if not calibration.settled:
            warnings.warn(
                f"The boundary of language {name!r} may be wrong: sampling over its unlabelled "
                "prompts did not converge. Expected prompts of one language; check the boundary "
                "with labelled ones.",
                UserWarning,
                stacklevel=find_stack_level(),
            )
        if calibration.none_harmful > 0.5:
            warnings.warn(
                f"With a probability of {calibration.none_harmful:.0%}, none of the unlabelled "
                f"prompts of language {name!r} is harmful, so its boundary rests on harmless "
                "prompts alone. Expected some harmful prompts, or shots.",
                UserWarning,
                stacklevel=find_stack_level(),
            )
