"""The part of LatentGate that knows languages: what was seen of each, and what follows from it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_expit, logsumexp, softmax
from sklearn.utils.validation import check_is_fitted, check_scalar

from skgate.gate._calibration import Calibration, Calibrator, Evidence
from skgate.gate._detector import LanguageDetector
from skgate.gate._operating_point import OperatingPoint, find_operating_point
from skgate.gate._probe import Rows
from skgate.gate._shift_prior import LanguagePrior
from skgate.gate._suggestion import suggest_rows

if TYPE_CHECKING:
    from skgate.gate._latent_gate import LatentGate
    from skgate.gate._subspace import Floats

Languages = npt.NDArray[np.object_]

_UNSEEN_SHARE = 0.1  # of the rows of a call, from which on unseen languages are worth a warning


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[None]:
    """Leave an estimator as it was if what is done to it fails, were it by a warning."""
    before = dict(estimator.__dict__)
    try:
        yield
    except BaseException:
        estimator.__dict__.update(before)
        for name in set(estimator.__dict__) - set(before):
            del estimator.__dict__[name]
        raise


class LanguageCalibrationMixin:
    """Calibrate languages, tell them apart, and say how sure it is."""

    basis_: Floats
    languages_: Languages
    source_languages_: Languages
    calibration: str | None
    unknown_language: str
    classes_: npt.NDArray[Any]
    harmful_label_: Any
    _calibrator: Calibrator
    _detector: LanguageDetector
    _evidence: dict[str | None, Evidence]
    _source_evidence: dict[str | None, Evidence]
    _calibrations: dict[str | None, Calibration]

    @property
    def _sign(self) -> int:
        return 1 if self.classes_[1] == self.harmful_label_ else -1

    if TYPE_CHECKING:

        def _check_prompts(self, X: Any, language: Any) -> tuple[Floats, Languages | None]: ...

        def _check_unlabelled(self, X: Any) -> Floats: ...

    def adapt(self, X: Any, language: Any = None) -> LatentGate:
        """Move languages' boundaries by unlabelled prompts.

        The prompts' scores are taken for a mixture of harmless and harmful ones with an unknown
        share, or for all harmless; what both say of the boundary is averaged by their probability
        (see Notes of the class). Together with shots, both count. What was adapted to earlier
        is kept: give each prompt once. More than 512 prompts of a language count as 512.

        It fails where the share of harmful prompts misleads: if the classes overlap, prompts that
        are nearly all harmless, or nearly all harmful, look much like a mixture elsewhere. Measured
        figures are in the benchmarks; a few labelled shots of both classes are safer.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations of unlabelled prompts; with ``language_column``, one column more.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts. None adapts the pooled source.

        Returns
        -------
        self : LatentGate
            The gate itself.

        Raises
        ------
        ValueError
            If ``calibration`` is not "shrinkage", which alone can learn from unlabelled prompts.

        Warns
        -----
        UserWarning
            If nothing says that any of a language's prompts is harmful, or what they say was not
            found exactly, as when they fit no two classes.
        """
        check_is_fitted(self)
        self._prior()
        X, language = self._check_prompts(X, language)
        with all_or_nothing(self):
            for name in self._add(X, None, language):
                probability = self._calibrations[name].none_harmful
                if not self._calibrations[name].settled:
                    warnings.warn(
                        f"What the unlabelled prompts of language {name!r} say of its boundary was "
                        "not found exactly: it may lie off. Expected prompts of one language; "
                        "check the boundary with labelled ones.",
                        UserWarning,
                        stacklevel=2,
                    )
                if probability > 0.5:
                    warnings.warn(
                        f"With a probability of {probability:.0%}, none of the unlabelled prompts "
                        f"of language {name!r} is harmful: its boundary was placed by harmless "
                        "prompts alone. Expected some harmful ones, or shots.",
                        UserWarning,
                        stacklevel=2,
                    )
        return self  # type: ignore[return-value]  # (a mixin of it)

    def forget(self, language: Any) -> LatentGate:
        """Forget the shots and the unlabelled prompts of languages.

        Source languages stay known by their source rows.

        Parameters
        ----------
        language : str, list of str or None
            The languages; None for what was learned without a language.

        Returns
        -------
        self : LatentGate
            The gate itself.

        Raises
        ------
        ValueError
            If nothing was learned of a language beyond the source rows.
        """
        check_is_fitted(self)
        names = [language] if language is None or isinstance(language, str) else list(language)
        names = list(dict.fromkeys(names))
        for name in names:
            if name not in self._evidence or self._evidence[name].is_empty:
                known = [k for k, one in self._evidence.items() if not one.is_empty]
                raise ValueError(
                    f"language {name!r} has neither shots nor unlabelled prompts to forget; "
                    f"expected one of {known}."
                )
        for name in names:
            del self._evidence[name], self._calibrations[name]
            if name is None:
                self._calibrations[None] = Calibration(self._calibrator.zero_shot)
            if name in self._source_evidence:
                self._evidence[name] = self._source_evidence[name]
                self._calibrate([name])
        self._publish()
        return self  # type: ignore[return-value]  # (a mixin of it)

    def merge(self, other: LatentGate) -> LatentGate:
        """Combine two gates of the same source that were calibrated on different languages.

        Parameters
        ----------
        other : LatentGate
            A gate fitted on the same source rows with the same parameters.

        Returns
        -------
        merged : LatentGate
            A new gate with the languages of both; neither of the two changes.

        Raises
        ------
        ValueError
            If the gates were fitted on other sources or with other parameters, or both have
            learned of a language, and not the same.
        """
        check_is_fitted(self)
        if type(other) is not type(self):
            raise TypeError(f"other is a {type(other).__name__}; expected a LatentGate.")
        check_is_fitted(other)
        self._check_same_source(other)
        merged: Any = deepcopy(self)
        for name, evidence in other._evidence.items():
            mine = merged._evidence.get(name)
            if evidence.is_empty or (mine is not None and mine.equals(evidence)):
                continue
            if mine is not None and not mine.is_empty:
                raise ValueError(
                    f"other and this gate have both learned of language {name!r}, from different "
                    "prompts; expected it in one of them: forget it in the other, or pass "
                    "its prompts to partial_fit."
                )
            merged._evidence[name] = evidence
            merged._calibrations[name] = merged._calibrator.calibrate(evidence)
        merged._publish()
        return merged

    def operating_point(
        self,
        language: str | None = None,
        *,
        target_fpr: float | None = None,
        target_fnr: float | None = None,
        confidence: float = 0.9,
    ) -> OperatingPoint:
        """Find the threshold whose error rate stays below a target, with a stated confidence.

        Nothing is assumed about the scores' distribution, only that new prompts are drawn like the
        labelled ones: the threshold is one of their scores [1]_. It needs
        ``log(1 - confidence) / log(1 - target)`` labelled prompts of the class.

        Parameters
        ----------
        language : str, default=None
            The language. None: the pooled source.
        target_fpr : float, default=None
            Largest share of harmless prompts called harmful.
        target_fnr : float, default=None
            Largest share of harmful prompts called harmless. Give one of the two targets.
        confidence : float, default=0.9
            Share of draws of labelled prompts for which the bound holds.

        Returns
        -------
        point : OperatingPoint
            ``gate.harm_score(X, language) > point.threshold`` meets the target. Shots alone count:
            the readout was fitted to the source rows, which would make the bounds too good (as
            it is to the shots with "refit"). It is for your own use: ``predict`` and
            :class:`SteeringWrapper` decide at 0; and for the gate as it is now.

        Raises
        ------
        ValueError
            If the labelled prompts can't support the target; the message says what they can.

        References
        ----------
        .. [1] S. S. Wilks, "Determination of Sample Sizes for Setting Tolerance Limits", Annals
           of Mathematical Statistics 12, 1941.
        """
        check_is_fitted(self)
        targets = {"fpr": target_fpr, "fnr": target_fnr}
        given = {name: target for name, target in targets.items() if target is not None}
        if len(given) != 1:
            raise ValueError(
                f"target_fpr={target_fpr} and target_fnr={target_fnr}; expected one of them."
            )
        ((rate, target),) = given.items()
        for name, value in ((f"target_{rate}", target), ("confidence", confidence)):
            check_scalar(value, name, Real)
            if not 0 < value < 1:
                raise ValueError(f"{name}={value}; expected a number between 0 and 1, exclusive.")
        _check_one_language(language)
        labelled = self._shots(language)
        scores = self._calibrations[language].readout(labelled.z)
        return find_operating_point(
            scores, labelled.harmful, rate, float(target), float(confidence), language
        )

    def suggest(self, X: Any, language: str | None = None, n: int = 8) -> npt.NDArray[np.intp]:
        """Choose unlabelled prompts whose labels tighten a boundary more than random ones' do.

        They are evenly spread over the order of the prompts' scores: a systematic sample, in
        which the classes' mean scores are less scattered than in a random one, and not biased.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations of unlabelled prompts.
        language : str, default=None
            Their language. None: the pooled source.
        n : int, default=8
            How many to choose.

        Returns
        -------
        rows : ndarray of shape (n,), dtype intp
            Row indices into ``X``, from the lowest score to the highest.

        Raises
        ------
        ValueError
            If ``n`` is not between 1 and the number of prompts.
        """
        check_is_fitted(self)
        X = self._check_unlabelled(X)
        _check_one_language(language)
        check_scalar(n, "n", Integral, min_val=1, max_val=len(X))
        readout = self._calibrations.get(language, self._calibrations[None]).readout
        return suggest_rows(readout(X @ self.basis_), int(n))

    def predict_language_proba(self, X: Any) -> Floats:
        """Tell the languages of prompts by their activations.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations; with ``language_column``, one column more, which is not used.

        Returns
        -------
        probabilities : ndarray of shape (n_prompts, n_languages + 1)
            Columns as in ``languages_``; the last one is for languages never seen. All are taken
            as equally frequent.

        Examples
        --------
        >>> import numpy as np
        >>> from skgate import LatentGate
        >>> rng = np.random.default_rng(0)
        >>> y, language = np.tile([0, 1], 100), np.repeat(["de", "en"], 100)
        >>> X = rng.normal(size=(200, 8)) + 4 * y[:, None]
        >>> X[language == "en", :2] += [9, -9]   # languages lie apart, whatever is asked
        >>> gate = LatentGate().fit(X, y, language=language)
        >>> elsewhere = X[:1] + [0, 0, 30, -30, 0, 0, 0, 0]
        >>> gate.predict_language_proba(np.concatenate([X[[0, 100]], elsewhere])).round(1)
        array([[1., 0., 0.],
               [0., 1., 0.],
               [0., 0., 1.]])
        """
        check_is_fitted(self)
        X = self._check_unlabelled(X)
        log_likelihood, names = self._language_log_likelihood(X)
        if None in names:  # shots without a language: known, but of no name
            log_likelihood[:, -1] = logsumexp(log_likelihood[:, -2:], axis=1)
            log_likelihood = np.delete(log_likelihood, -2, axis=1)
        probabilities: Floats = softmax(log_likelihood, axis=1)
        return probabilities

    def _language_log_likelihood(self, X: Floats) -> tuple[Floats, list[str | None]]:
        """Columns for ``languages_``, then shots without a language if any, then unseen ones."""
        names: list[str | None] = list(self.languages_)
        if self._evidence.get(None, Evidence()).place is not None:
            names.append(None)
        places = [place for name in names if (place := self._evidence[name].place) is not None]
        return self._detector.log_likelihood(X, places), names

    def _deciding(self) -> list[object]:
        """What the answers follow from, in forms that are equal for equal answers."""
        known = sorted(self._calibrations.items(), key=lambda item: (item[0] is not None, item[0]))
        found: list[object] = [self.unknown_language, self.basis_.tobytes()]
        for name, one in [*known, ("unseen", self._calibrator.unseen())]:
            found += [name, one.readout.coef.tobytes(), one.readout.intercept]
            place = self._evidence.get(name, Evidence()).place
            if place is not None and self._detects():
                found += [place.total.tobytes(), place.weight]
        return found

    def _detects(self) -> bool:
        return self.unknown_language == "detect" and len(self.languages_) > 0

    def _detected_score(self, X: Floats) -> Floats:
        """Log-odds of the mixture over languages, by their probability."""
        log_likelihood, names = self._language_log_likelihood(X)
        z = X @ self.basis_
        calibrations = [*(self._calibrations[name] for name in names), self._calibrator.unseen()]
        scores = np.column_stack([one.readout(z) for one in calibrations])
        log_odds: Floats = logsumexp(log_likelihood + log_expit(scores), axis=1) - logsumexp(
            log_likelihood + log_expit(-scores), axis=1
        )
        return log_odds

    def _detected_languages(self, X: Floats) -> Languages:
        """The most probable language of each row: "" for shots without one, None if unseen."""
        log_likelihood, names = self._language_log_likelihood(X)
        named = [name or "" for name in names]
        return np.array([*named, None], dtype=object)[log_likelihood.argmax(axis=1)]

    def _warn_unseen(self, detected: Languages, stacklevel: int = 4) -> None:
        """Warn if many prompts are, most probably, in a language never seen."""
        unseen = [language is None for language in detected]
        if sum(unseen) > _UNSEEN_SHARE * len(unseen):
            warnings.warn(
                f"{sum(unseen)} of {len(unseen)} prompts look like no language that the gate knows "
                f"({self.languages_.tolist()}): the pooled source's boundary is used for them, "
                "which may lie far off. Calibrate their language with partial_fit.",
                UserWarning,
                stacklevel=stacklevel,
            )

    def _add(self, X: Floats, labels: Rows | None, language: Languages | None) -> list[str | None]:
        """Keep prompts by language, labelled or not, and calibrate; returns the languages."""
        names: list[str | None] = [None] if language is None else sorted(set(language))
        scores = self._calibrator.probe(X @ self.basis_)
        evidence = dict(self._evidence)
        for name in names:
            rows = np.ones(len(X), dtype=np.bool_) if language is None else language == name
            weight = rows.astype(float) if labels is None else rows * labels.weight
            place = self._detector.place(weight @ X, weight.sum())
            new = (
                Evidence(unlabelled=scores[rows], place=place)
                if labels is None
                else Evidence(shots=labels.take(rows), place=place)
            )
            evidence[name] = evidence.get(name, Evidence()) + new
        found = {name: self._calibrator.calibrate(evidence[name]) for name in names}
        self._evidence = evidence
        self._calibrations = {**self._calibrations, **found}
        self._publish()
        self._warn_idle(names)
        return names

    def _calibrate(self, languages: Iterable[str | None]) -> None:
        """Find the readouts of ``languages``."""
        for name in languages:
            self._calibrations[name] = self._calibrator.calibrate(self._evidence[name])

    def _publish(self) -> None:
        """Set the fitted attributes that depend on what was seen of the languages."""
        pooled = self._calibrations[None]
        known = sorted(name for name in self._evidence if name is not None)
        of = [self._calibrations[name] for name in known]
        sign, zero = self._sign, self._calibrator.probe.intercept
        # The pooled score is pooled.scale * (probe - threshold).
        threshold = zero - pooled.readout.intercept / pooled.scale
        self.languages_ = np.array(known, dtype=object)
        self.coef_ = sign * (self.basis_ @ pooled.readout.coef)[np.newaxis]
        self.intercept_ = np.array([sign * pooled.readout.intercept])
        self.language_scale_ = np.array([one.scale / pooled.scale for one in of])
        self.language_bias_ = sign * np.array(
            [
                one.readout.intercept * pooled.scale / one.scale - pooled.readout.intercept
                for one in of
            ]
        )
        bounds = np.array([one.interval for one in of]).reshape(-1, 2)
        self.bias_interval_ = np.sort(sign * pooled.scale * (threshold - bounds), axis=1)
        self.n_shots_ = np.zeros((len(known), 2), dtype=np.int64)
        self.n_unlabelled_ = np.array(
            [len(self._evidence[name].unlabelled) for name in known], dtype=np.int64
        )
        for row, name in enumerate(known):
            shots = self._evidence[name].shots
            if shots is not None:
                self.n_shots_[row] = [(~shots.harmful).sum(), shots.harmful.sum()][::sign]

    def _prior(self) -> LanguagePrior:
        if self._calibrator.prior is None:
            raise ValueError(
                f"calibration={self._calibrator.method!r} can't learn from unlabelled prompts; "
                "expected 'shrinkage'."
            )
        return self._calibrator.prior

    def _shots(self, language: str | None) -> Rows:
        """Return the shots of a language."""
        if language is None and self._detects():
            raise ValueError(
                "language=None: with unknown_language='detect' the score of a prompt without a "
                f"language mixes those of {self.languages_.tolist()}; expected one of them."
            )
        if language is not None and language not in self._evidence:
            raise ValueError(
                f"language {language!r} was never seen; known are {self.languages_.tolist()}."
            )
        shots = self._evidence.get(language, Evidence()).shots
        return shots or self._calibrator.source.empty()

    def _check_same_source(self, other: LatentGate) -> None:
        mine, theirs = self._calibrator, other._calibrator
        same = (
            np.array_equal(self.basis_, other.basis_)
            and np.array_equal(mine.probe.coef, theirs.probe.coef)
            and mine.probe.intercept == theirs.probe.intercept
            and (mine.method, mine.C) == (theirs.method, theirs.C)
            and self.unknown_language == other.unknown_language
            and np.array_equal(self.classes_, other.classes_)
            and self.harmful_label_ == other.harmful_label_
            and np.array_equal(self.source_languages_, other.source_languages_)
        )
        if not same:
            raise ValueError(
                "other was fitted on other source rows or with other parameters than this gate; "
                "expected copies of one fitted gate, calibrated on different languages."
            )

    def _warn_idle(self, languages: Iterable[str | None]) -> None:
        """Warn of languages whose shots can't move their boundary."""
        reason = (
            "ignores shots"
            if self.calibration is None
            else "needs shots of both classes; calibration='shrinkage' does with one"
        )
        for name in languages:
            if not self._calibrations[name].moved:
                warnings.warn(
                    f"The shots of language {name!r} don't move its boundary: "
                    f"calibration={self.calibration!r} {reason}.",
                    UserWarning,
                    stacklevel=5,
                )


def _check_one_language(language: Any) -> None:
    if language is not None and not isinstance(language, str):
        raise TypeError(
            f"language={language!r} is of type {type(language).__name__}; expected one str such as "
            "'sw', or None."
        )
