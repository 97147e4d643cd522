"""What a fitted gate knows about its languages: operating points, diagnoses, prompts to label."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.utils.validation import check_is_fitted, check_scalar

from skgate.gate._decisions import LanguageClassifier
from skgate.gate._diagnosis import diagnose
from skgate.gate._input import split_language
from skgate.gate._operating_point import (
    OperatingPoint,
    check_target,
    explain_missing,
    find_operating_point,
)


class LanguageInsights(LanguageClassifier):
    """A language classifier that answers questions about its languages."""

    def operating_point(
        self,
        language: str | None = None,
        *,
        target_fpr: float | None = None,
        target_fnr: float | None = None,
        confidence: float = 0.9,
    ) -> OperatingPoint:
        """Find a threshold that keeps an error rate below a target, with a stated confidence.

        The only assumption is that new prompts are drawn like the shots. The scores may have any
        distribution, because the threshold is one of the shots' scores [1]_. This takes at least
        ``log(1 - confidence) / log(1 - target)`` shots of the class.

        Parameters
        ----------
        language : str, default=None
            The language to find the threshold of. If None, the pooled source.
        target_fpr : float, default=None
            Largest share of harmless prompts called harmful.
        target_fnr : float, default=None
            Largest share of harmful prompts called harmless. Give one of the two targets.
        confidence : float, default=0.9
            Confidence level: the share of draws of shots for which the bound holds.

        Returns
        -------
        point : OperatingPoint
            Its ``threshold`` applies to ``harm_score`` of the gate as it is now. Apply it
            yourself; ``target_fpr`` sets one that ``predict`` and :class:`SteeringWrapper` follow.
            It rests on the shots and, for "shrinkage" and "threshold", on the source rows of the
            language, scored by probes that have not seen them. With "refit", the probe is fitted
            to the shots, so the bounds are too optimistic.

        Raises
        ------
        ValueError
            If the labelled prompts don't support the target; the message says what they would.

        References
        ----------
        .. [1] S. S. Wilks, "Determination of Sample Sizes for Setting Tolerance Limits", Annals
           of Mathematical Statistics 12, 1941.

        Examples
        --------
        >>> import numpy as np
        >>> from skgate import LatentGate
        >>> rng = np.random.default_rng(0)
        >>> y = np.tile([0, 1], 100)
        >>> X = rng.normal(size=(200, 8)) + 1.5 * y[:, None]
        >>> gate = LatentGate().fit(X, y, language=np.repeat(["de", "en"], 100))
        >>> gate = gate.partial_fit(X - 1, y, language="sw")
        >>> point = gate.operating_point("sw", target_fpr=0.05)
        >>> f"at most {point.fpr_bound:.1%} false alarms, from {point.n_harmless} prompts"
        'at most 3.8% false alarms, from 100 prompts'
        >>> flagged = gate.harm_score(X - 1, "sw") > point.threshold
        >>> flagged[y == 0].mean(), flagged[y == 1].mean()
        (np.float64(0.01), np.float64(0.97))
        """
        check_is_fitted(self)
        rate, target = check_target(target_fpr, target_fnr, confidence)
        _check_one_language(language)
        book = self.language_book_
        if language is None and book.detects(self.unknown_language):
            raise ValueError(
                "Got language=None with unknown_language='detect', where the score of a prompt "
                f"averages those of all languages, expected one of {book.languages}."
            )
        if language is not None and language not in book.languages:
            raise ValueError(
                f"Got language={language!r}, which the gate has never seen, expected one of "
                f"{book.languages}."
            )
        scores = book.decided(language)
        values = scores.scores - book.calibrations[language].threshold
        point = find_operating_point(values, scores.harmful, rate, target, float(confidence))
        if point is None:
            n = int((scores.harmful == (rate == "fnr")).sum())
            reason = explain_missing(n, rate, target, confidence)
            raise ValueError(f"Got language={language!r}, of which {reason}")
        return point

    def diagnose(self, language: str | None = None) -> pd.DataFrame:
        """Tell languages that need a threshold of their own from those that no threshold helps.

        The table is computed from the posterior of a language's class means and width (see Notes
        of the class), given its shots and its source rows. It holds for prompts drawn like these.

        Parameters
        ----------
        language : str, default=None
            One language. If None, every known one.

        Returns
        -------
        table : DataFrame
            Index ``language``. ``n_harmless`` and ``n_harmful`` count the labelled prompts. ``auc``
            is the probability that a harmful prompt scores higher than a harmless one. ``error`` is
            the mean of both error rates at the language's balanced boundary, ``least_error`` that
            at the best one. The last three are posterior means, with a 90 % interval in ``..._low``
            and ``..._high``. ``verdict`` depends on the probability that every threshold errs on a
            quarter of the prompts or more: "weak signal: at best about N % errors" above 0.75,
            "separable" below 0.1, "too few shots to tell" in between.

        Raises
        ------
        ValueError
            If ``calibration`` is not "shrinkage", or a language was never seen.

        Examples
        --------
        >>> import numpy as np
        >>> from skgate import LatentGate
        >>> rng = np.random.default_rng(0)
        >>> y = np.tile([0, 1], 100)
        >>> X = rng.normal(size=(200, 8)) + 4 * y[:, None]
        >>> gate = LatentGate().fit(X, y, language=np.repeat(["de", "en"], 100))
        >>> gate = gate.partial_fit(X[:16] - 3, y[:16], language="sw")
        >>> gate.diagnose("sw")["verdict"].item()
        'separable'
        """
        check_is_fitted(self)
        book = self.language_book_
        if book.calibrator.shifts is None:
            raise ValueError(
                f"Got calibration={book.calibrator.method!r}, expected 'shrinkage': only this one "
                "models the scores of a language."
            )
        _check_one_language(language)
        if language is not None and language not in book.languages:
            raise ValueError(
                f"Got language={language!r}, which the gate has never seen, expected one of "
                f"{book.languages}."
            )
        names = book.languages if language is None else [language]
        return diagnose(book, book.calibrator.shifts, names)

    def suggest(self, X: Any, language: str | None = None, n: int = 8) -> npt.NDArray[np.intp]:
        """Choose prompts to label that narrow down a boundary more than random ones.

        The chosen prompts are evenly spread over the sorted scores. The boundary depends on the
        mean scores of the classes, which vary less in such a systematic sample than in a random
        one. They are not biased either. Choosing prompts near the boundary would bias them.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations of unlabelled prompts, and the language column if ``language_column`` is
            set.
        language : str, default=None
            Language of the prompts. If None, the pooled source.
        n : int, default=8
            Number of prompts to choose.

        Returns
        -------
        rows : ndarray of shape (n,), dtype intp
            Row indices into ``X``, from the lowest score to the highest.

        Raises
        ------
        ValueError
            If ``n`` is not between 1 and the number of prompts.

        Examples
        --------
        >>> import numpy as np
        >>> from skgate import LatentGate
        >>> rng = np.random.default_rng(0)
        >>> y = np.tile([0, 1], 100)
        >>> X = rng.normal(size=(200, 8)) + 4 * y[:, None]
        >>> gate = LatentGate().fit(X, y, language=np.repeat(["de", "en"], 100))
        >>> y[gate.suggest(X, n=6)]
        array([0, 0, 0, 1, 1, 1])
        """
        check_is_fitted(self)
        X = self._check_activations(split_language(X, None, self.language_column)[0])
        _check_one_language(language)
        check_scalar(n, "n", Integral, min_val=1, max_val=len(X))
        calibrations = self.language_book_.calibrations
        probe = calibrations.get(language, calibrations[None]).probe
        scores = probe(self.language_book_.readout.features(X))
        order = np.argsort(scores, kind="stable")
        return order[((np.arange(n) + 0.5) * len(order) / n).astype(np.intp)]


def _check_one_language(language: Any) -> None:
    if language is not None and not isinstance(language, str):
        raise TypeError(
            f"Got language={language!r} of type {type(language).__name__}, expected one str such "
            "as 'sw', or None."
        )
