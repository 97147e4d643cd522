"""The predictions of a fitted gate: scores, labels, probabilities and languages."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted, validate_data

from skgate._docstrings import fill_docstring
from skgate._frames import to_plain
from skgate._labels import plain_labels
from skgate._provenance import ActivationSource, check_same_source, recall
from skgate._routing import check_language_is_routed
from skgate._validation import check_language
from skgate.gate._input import split_language
from skgate.gate._languages import (
    Decisions,
    LanguageBook,
    Languages,
    check_known,
    warn_unseen,
)
from skgate.gate._subspace import Floats


class LanguageClassifier(ClassifierMixin, BaseEstimator):
    """A binary classifier whose decision boundary depends on the language.

    This base class predicts from the fitted attributes that a subclass sets in ``fit``.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The labels, sorted.
    harmful_label_ : object
        The label of harmful prompts.
    language_book_ : LanguageBook
        What was learned about each language.
    activation_source_ : ActivationSource or None
        Where the activations used in ``fit`` were read.
    """

    language_column: str | int | None
    unknown_language: str
    classes_: npt.NDArray[Any]
    harmful_label_: Any
    language_book_: LanguageBook
    activation_source_: ActivationSource | None

    __metadata_request__predict: ClassVar = {"language": True}
    __metadata_request__predict_proba: ClassVar = {"language": True}
    __metadata_request__predict_log_proba: ClassVar = {"language": True}
    __metadata_request__decision_function: ClassVar = {"language": True}
    __metadata_request__score: ClassVar = {"language": True}

    @fill_docstring
    def harm_score(self, X: Any, language: Any = None) -> Floats:
        """Score prompts; greater than 0 means harmful, whatever the labels.

        The score is the log-odds of ``harmful_label_``, assuming that both classes are equally
        frequent, less the threshold of the language's operating point if ``target_fpr`` is set.

        Parameters
        ----------
        {activations}
        {language}

        Returns
        -------
        scores : ndarray of shape (n_prompts,)
            Harm scores.

        Warns
        -----
        UserWarning
            If a given language was never seen, or if languages are detected and more than a tenth
            of the prompts resemble none of the known languages.
        """
        return self._decide(X, language).scores

    @fill_docstring
    def decision_function(self, X: Any, language: Any = None) -> Floats:
        """Score prompts; greater than 0 means ``classes_[1]``, in every language.

        Parameters
        ----------
        {activations}
        {language}

        Returns
        -------
        scores : ndarray of shape (n_prompts,)
            :meth:`harm_score`, or its negative if ``classes_[1]`` is the harmless label.
        """
        scores = self.harm_score(X, language)
        return scores * harmful_sign(self)

    @fill_docstring
    def predict(self, X: Any, language: Any = None) -> npt.NDArray[Any]:
        """Predict the label of prompts.

        Parameters
        ----------
        {activations}
        {language}

        Returns
        -------
        labels : ndarray of shape (n_prompts,)
            Labels out of ``classes_``.
        """
        above = self.decision_function(X, language) > 0
        labels: npt.NDArray[Any] = self.classes_[above.astype(int)]
        return labels

    @fill_docstring
    def predict_proba(self, X: Any, language: Any = None) -> Floats:
        """Predict the probability of each label, assuming equally frequent classes.

        Parameters
        ----------
        {activations}
        {language}

        Returns
        -------
        probabilities : ndarray of shape (n_prompts, 2)
            Columns follow ``classes_``. They don't depend on ``target_fpr``: ``predict`` follows
            the decision function, and may call a prompt harmless whose harm is more probable.
        """
        log_odds = self._log_odds(X, language)
        return np.column_stack([expit(-log_odds), expit(log_odds)])

    @fill_docstring
    def predict_log_proba(self, X: Any, language: Any = None) -> Floats:
        """Predict the logarithm of the probability of each label.

        Parameters
        ----------
        {activations}
        {language}

        Returns
        -------
        log_probabilities : ndarray of shape (n_prompts, 2)
            Columns follow ``classes_``.
        """
        log_odds = self._log_odds(X, language)
        return np.column_stack([log_expit(-log_odds), log_expit(log_odds)])

    @fill_docstring
    def score(self, X: Any, y: Any, language: Any = None, sample_weight: Any = None) -> float:
        """Compute the accuracy of the predictions.

        Parameters
        ----------
        {activations}
        y : array-like of shape (n_prompts,)
            True labels.
        {language}
        {sample_weight}

        Returns
        -------
        accuracy : float
            Share of prompts with the right label.
        """
        predicted = self.predict(X, language)
        return float(
            accuracy_score(plain_labels(y), predicted, sample_weight=to_plain(sample_weight))
        )

    @fill_docstring
    def predict_language_proba(self, X: Any) -> Floats:
        """Predict the language of prompts from their activations.

        Parameters
        ----------
        {activations}

        Returns
        -------
        probabilities : ndarray of shape (n_prompts, n_languages + 1)
            Columns follow ``languages_``; the last one stands for languages never seen. All
            languages are assumed to be equally frequent.

        Examples
        --------
        >>> import numpy as np
        >>> from skgate import LatentGate
        >>> rng = np.random.default_rng(0)
        >>> y, language = np.tile([0, 1], 100), np.repeat(["de", "en"], 100)
        >>> X = rng.normal(size=(200, 8)) + 4 * y[:, None]
        >>> X[language == "en", :2] += [9, -9]   # the languages lie apart
        >>> gate = LatentGate().fit(X, y, language=language)
        >>> elsewhere = X[:1] + [0, 0, 30, -30, 0, 0, 0, 0]
        >>> gate.predict_language_proba(np.concatenate([X[[0, 100]], elsewhere])).round(1)
        array([[1., 0., 0.],
               [0., 1., 0.],
               [0., 0., 1.]])
        """
        check_is_fitted(self)
        X, _ = split_language(X, None, self.language_column)
        return self.language_book_.language_proba(self._check_activations(X))

    def _log_odds(self, X: Any, language: Any) -> Floats:
        """Compute the log-odds of ``classes_[1]``."""
        return self._decide(X, language).log_odds * harmful_sign(self)

    def _decide(self, X: Any, language: Any) -> Decisions:
        check_is_fitted(self)
        X, language = self._check_prompts(X, language, missing=True)
        book = self.language_book_
        if language is not None:
            check_known(book, language, self.unknown_language)
        decisions = book.decide(X, language, detect=self.unknown_language == "detect")
        if book.detects(self.unknown_language):
            warn_unseen(book, language, decisions.languages)
        return decisions

    def __sklearn_clone__(self) -> Self:
        check_language_is_routed()
        copy: Self = super().__sklearn_clone__()
        return copy

    def _check_prompts(
        self, X: Any, language: Any, *, missing: bool = False
    ) -> tuple[Floats, Languages | None]:
        """Check unlabelled rows and their languages, which may be ``missing``."""
        X, language = split_language(X, language, self.language_column)
        X = self._check_activations(X)
        if language is not None:
            language = check_language(language, len(X), missing=missing)
        return X, language

    def _check_activations(self, X: Any) -> Floats:
        checked: Floats = validate_data(self, X, dtype=np.float64, reset=False)
        self._check_source(checked)
        return checked

    def _check_source(self, X: Floats) -> None:
        """Raise a ValueError if rows are known to come from another source than those of fit."""
        found = None if self.activation_source_ is None else recall(X)
        if self.activation_source_ is not None and found is not None:
            check_same_source(self.activation_source_, found)


def harmful_sign(gate: LanguageClassifier) -> int:
    """Return 1 if ``classes_[1]`` is the harmful label, so that positive means harmful, else -1."""
    return 1 if gate.classes_[1] == gate.harmful_label_ else -1
