"""A scorer through which each row's language reaches the estimator."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer, make_scorer
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_consistent_length, column_or_1d

from skgate._validation import check_language, resolve_harmful_label
from skgate.metrics._checks import one_per_row


class LanguageScorer(BaseEstimator):
    """A scorer through which each row's language reaches the estimator's predictions.

    scikit-learn's own scorers call `predict(X)` without the language even where `fit` was given
    one, and say nothing. This one calls `predict(X, language=language)`, or whichever method its
    metric needs. It goes where scikit-learn takes a scorer: `scoring=` in `cross_validate`,
    `GridSearchCV` and others, or called by itself.

    Parameters
    ----------
    metric : str or callable
        The name of one of scikit-learn's scorers (see `sklearn.metrics.get_scorer_names`) or a
        function `metric(y_true, y_response)`, perhaps with `sample_weight`. Labels reach it as
        1 for harmful and 0 for harmless, whatever the estimator's own labels are, and scores and
        probabilities as those of the harmful class.
    response_method : {"predict", "decision_function", "predict_proba"}, list of these or None, \
            default=None
        What a callable metric is given; of a list, the first that the estimator has. None is
        "predict". Not allowed with a name, which implies it.
    greater_is_better : bool, default=True
        If False, a callable metric's sign is flipped. Not allowed with a name.
    aggregate : {"pooled", "macro", "worst"}, default="pooled"
        What to score: all rows together, or each language by itself, to give the mean or the
        minimum.
    pos_label : label or None, default=None
        The harmful class. None takes the `harmful_label_` of the estimator or of the gate in it,
        else "harmful", 1 or True if among its classes, else the second of them.
    language_column : str or None, default=None
        The column of `X` that names the language, for estimators that take it from there. Only
        `aggregate` reads it, and nothing but `X` is passed to the estimator then.

    See Also
    --------
    language_report : Every measure, per language and tier.

    Notes
    -----
    Ways for the language to get here:

    - Called directly: `scorer(estimator, X, y, language=language)`.
    - From `cross_validate(..., params={"language": language})` or `GridSearchCV.fit(X, y,
      language=language)`: with `sklearn.set_config(enable_metadata_routing=True)`, where each fold
      gets its part. Without that setting scikit-learn gives scorers no language at all; for a
      `LatentGate` that was fitted with languages there is a warning then.
    - As a column of `X`: no `language=` anywhere, no setting.

    The estimator may be anything whose prediction methods take `language`, or a Pipeline that ends
    in such an estimator. An estimator that does not take it is an error, never silence.

    Languages with rows of one class only are left out by "macro" and "worst"; if none is left, the
    score is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator, ClassifierMixin
    >>> from skgate.metrics import LanguageScorer
    >>> class Threshold(ClassifierMixin, BaseEstimator):
    ...     classes_ = np.array(["harmful", "harmless"])
    ...
    ...     def predict(self, X, language=None):
    ...         threshold = np.where(np.asarray(language) == "yo", 5, 0)
    ...         return np.where(np.ravel(X) > threshold, "harmful", "harmless")
    >>> X, y = [[-1], [1], [4], [6]], ["harmless", "harmful", "harmless", "harmful"]
    >>> scorer = LanguageScorer("f1")
    >>> scorer(Threshold(), X, y, language=["en", "en", "yo", "yo"])
    1.0
    >>> scorer(Threshold(), X, y, language=["en", "en", "en", "en"])
    0.8
    >>> LanguageScorer("f1", aggregate="worst")
    LanguageScorer(aggregate='worst', metric='f1')
    """

    def __init__(
        self,
        metric: str | Callable[..., float],
        *,
        response_method: str | list[str] | tuple[str, ...] | None = None,
        greater_is_better: bool = True,
        aggregate: str = "pooled",
        pos_label: Hashable | None = None,
        language_column: str | None = None,
    ) -> None:
        self.metric = metric
        self.response_method = response_method
        self.greater_is_better = greater_is_better
        self.aggregate = aggregate
        self.pos_label = pos_label
        self.language_column = language_column

    def __call__(
        self,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        language: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Score an estimator's predictions.

        Parameters
        ----------
        estimator : object
            A fitted binary classifier, or a Pipeline that ends in one.
        X : array-like or sequence of n_samples
            What the estimator predicts from.
        y : array-like of shape (n_samples,)
            The true labels.
        language : array-like of str of shape (n_samples,) or None, default=None
            The language of each row, passed on to the estimator.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            The weight of each row, passed on to the metric.

        Returns
        -------
        float
            The score; greater is better.

        Raises
        ------
        ValueError
            If a parameter is not as expected, lengths differ, a language is not a string, `y`
            has labels that the estimator does not know, or `aggregate` has no language to go by.
        TypeError
            If there is a language and the estimator's method does not take it.
        """
        scorer = self._make_scorer()
        weight = None if sample_weight is None else column_or_1d(sample_weight)
        check_consistent_length(X, y, weight)
        view = _HarmfulView(estimator, X, language, self.pos_label)
        harmful = view.is_harmful("y", y)
        if language is None:
            _warn_if_language_lost(estimator)
        scores = [
            scorer(
                view,
                rows,
                harmful[rows],
                **({} if weight is None else {"sample_weight": weight[rows]}),
            )
            for rows in self._parts(X, harmful, view.language)
        ]
        if not scores:
            return float("nan")
        return float(np.min(scores) if self.aggregate == "worst" else np.mean(scores))

    def get_metadata_routing(self) -> MetadataRequest:
        """Say that this scorer wants `language`, for scikit-learn's metadata routing.

        Returns
        -------
        MetadataRequest
            `language` is requested, `sample_weight` neither requested nor refused, unless
            `set_score_request` has changed that.
        """
        request = MetadataRequest(owner=self)
        wanted = {"language": True, "sample_weight": None, **getattr(self, "_score_request", {})}
        for name, alias in wanted.items():
            request.score.add_request(param=name, alias=alias)
        return request

    def set_score_request(self, **requests: bool | str | None) -> LanguageScorer:
        """Change which metadata this scorer requests from scikit-learn's metadata routing.

        Parameters
        ----------
        **requests : bool, str or None
            `language` or `sample_weight`: True requests it, False does not, a str requests it under
            that name, None makes it an error to pass it.

        Returns
        -------
        LanguageScorer
            This scorer.

        Raises
        ------
        TypeError
            If anything but `language` and `sample_weight` is given.
        """
        unknown = sorted(set(requests) - {"language", "sample_weight"})
        if unknown:
            raise TypeError(f"Got {', '.join(unknown)} but expected language or sample_weight.")
        self._score_request = {**getattr(self, "_score_request", {}), **requests}
        return self

    def __sklearn_clone__(self) -> LanguageScorer:
        copy: LanguageScorer = super().__sklearn_clone__()
        return copy.set_score_request(**getattr(self, "_score_request", {}))

    def _accept_sample_weight(self) -> bool:
        """Tell scikit-learn's scoring by several metrics whether this one takes weights."""
        accepts: bool = self._make_scorer()._accept_sample_weight()
        return accepts

    def _make_scorer(self) -> Any:
        if self.aggregate not in ("pooled", "macro", "worst"):
            raise ValueError(
                f"Got aggregate={self.aggregate!r} but expected 'pooled', 'macro' or 'worst'."
            )
        if callable(self.metric):
            return make_scorer(
                self.metric,
                response_method=self.response_method or "predict",
                greater_is_better=self.greater_is_better,
            )
        if not isinstance(self.metric, str):
            raise ValueError(
                f"Got metric={self.metric!r} but expected a callable or the name of a scorer."
            )
        if self.response_method is not None or not self.greater_is_better:
            raise ValueError(
                f"Got response_method={self.response_method!r} and greater_is_better="
                f"{self.greater_is_better!r} with metric={self.metric!r}, but expected None and "
                "True: the name of a scorer implies both."
            )
        return get_scorer(self.metric)

    def _parts(
        self, X: Any, harmful: NDArray[np.int_], language: Any
    ) -> Iterator[NDArray[np.int_]]:
        """Give the rows to score together, once for each score."""
        if self.aggregate == "pooled":
            yield np.arange(len(harmful))
            return
        groups = self._language_from_column(X) if language is None else language
        for name in np.unique(groups):
            rows = np.flatnonzero(groups == name)
            if len(np.unique(harmful[rows])) == 2:
                yield rows

    def _language_from_column(self, X: Any) -> NDArray[np.object_]:
        if self.language_column is None:
            raise ValueError(
                f"Got no language with aggregate={self.aggregate!r} but expected language=, or X "
                "with a column named by language_column. (In cross-validation language= arrives "
                "with sklearn.set_config(enable_metadata_routing=True) only.)"
            )
        if self.language_column not in getattr(X, "columns", ()):
            raise ValueError(
                f"Got X without a column {self.language_column!r} but expected the DataFrame "
                "column that language_column names."
            )
        return check_language(X[self.language_column], len(X))


class _HarmfulView(ClassifierMixin, BaseEstimator):
    """An estimator's responses to X, as those of a classifier of 0 and 1 with 1 for harmful.

    `X` and `language` are bound, and the "features" of this classifier are row numbers: so
    scikit-learn's scorers can score any rows, each response is computed once, and the scorers'
    own treatment of labels never sees the original ones.
    """

    def __init__(self, estimator: Any, X: Any, language: Any, pos_label: Hashable | None) -> None:
        self._estimator, self._X = estimator, X
        self.language = None if language is None else check_language(language, _num_samples(X))
        self._responses: dict[str, NDArray[Any]] = {}
        self._known = list(estimator.classes_.tolist())
        if len(self._known) != 2:
            raise ValueError(
                f"Got an estimator with classes {self._known} but expected two classes."
            )
        if pos_label is None:
            pos_label = getattr(_find_gate(estimator), "harmful_label_", None)
        self._harmful = resolve_harmful_label(self._known, pos_label, "pos_label")
        self.classes_ = np.array([0, 1])

    def is_harmful(self, name: str, labels: ArrayLike) -> NDArray[np.int_]:
        values = one_per_row(name, labels)
        unknown = set(values.tolist()) - set(self._known)
        if unknown:
            raise ValueError(
                f"Got labels {sorted(unknown, key=repr)} in {name} but expected the estimator's "
                f"classes, {self._known}."
            )
        return (values == self._harmful).astype(int)

    def predict(self, rows: NDArray[np.int_]) -> NDArray[np.int_]:
        return self.is_harmful("the predictions", self._response("predict"))[rows]

    @available_if(lambda view: hasattr(view._estimator, "decision_function"))
    def decision_function(self, rows: NDArray[np.int_]) -> NDArray[np.float64]:
        scores = self._response("decision_function")[rows]
        return scores if self._harmful == self._known[1] else -scores

    @available_if(lambda view: hasattr(view._estimator, "predict_proba"))
    def predict_proba(self, rows: NDArray[np.int_]) -> NDArray[np.float64]:
        columns = [0, 1] if self._harmful == self._known[1] else [1, 0]
        return self._response("predict_proba")[rows][:, columns]

    def _response(self, method: str) -> NDArray[Any]:
        if method not in self._responses:
            response = _respond(self._estimator, method, self._X, self.language)
            self._responses[method] = np.asarray(response)
        return self._responses[method]


def _respond(estimator: Any, method: str, X: Any, language: Any) -> Any:
    """Call a prediction method, making sure that the language arrives."""
    if language is None:
        return getattr(estimator, method)(X)
    if isinstance(estimator, Pipeline) and not get_config()["enable_metadata_routing"]:
        # Without routing a Pipeline passes parameters on in some of its methods only.
        transformed = estimator[:-1].transform(X) if len(estimator.steps) > 1 else X
        return _respond(estimator[-1], method, transformed, language)
    call = getattr(estimator, method)
    parameters = inspect.signature(call).parameters.values()
    if not any(p.name == "language" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError(
            f"Got a language, which {type(estimator).__name__}.{method} does not take: expected an "
            "estimator with language=None among the method's parameters, such as LatentGate or a "
            "Pipeline that ends in one (of a search, its best_estimator_). An estimator that takes "
            "the language as a column of X needs no language here."
        )
    return call(X, language=language)


def _find_gate(estimator: Any) -> Any:
    """Find what decides in a Pipeline, a search, a SteeringWrapper or the like."""
    if isinstance(estimator, Pipeline):
        return _find_gate(estimator[-1])
    for name in ("best_estimator_", "estimator_", "gate_", "gate"):
        if hasattr(estimator, name):
            return _find_gate(getattr(estimator, name))
    if hasattr(estimator, "calibrated_classifiers_"):
        return _find_gate(estimator.calibrated_classifiers_[0].estimator)
    return estimator


def _warn_if_language_lost(estimator: Any) -> None:
    """Warn when a gate that knows languages is about to be scored without any."""
    gate = _find_gate(estimator)
    if len(getattr(gate, "languages_", ())) and getattr(gate, "language_column", None) is None:
        warnings.warn(
            "LanguageScorer got no language, though the estimator was fitted with some: it is "
            "scored without. In cross-validation and searches, language= reaches the scorer with "
            "sklearn.set_config(enable_metadata_routing=True) only.",
            UserWarning,
            stacklevel=3,
        )
