"""LanguageScorer: a scorer that passes each row's language to the estimator."""

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

from skgate._base import find_stack_level, set_module
from skgate._frames import find_column, to_plain
from skgate._labels import resolve_harmful_label
from skgate._validation import check_language
from skgate.metrics._checks import one_per_row
from skgate.metrics._low_fpr import PREFIX, low_fpr_scorer


@set_module("skgate.metrics")
class LanguageScorer(BaseEstimator):
    """A scorer that passes each row's language to the estimator's predictions.

    scikit-learn's own scorers call ``predict(X)`` without the language, even if ``fit`` was given
    one, and do not warn. This scorer calls ``predict(X, language=language)``, or the other method
    that its metric needs. Use it as ``scoring=`` in ``cross_validate``, ``GridSearchCV`` and
    others, or call it directly.

    Parameters
    ----------
    metric : str or callable
        The name of one of scikit-learn's scorers (see ``sklearn.metrics.get_scorer_names``),
        "tpr_at_fpr_<rate>" as in ``language_report`` (for example "tpr_at_fpr_0.05"), or a function
        ``metric(y_true, y_response)``, optionally with ``sample_weight``. The function gets labels
        as 1 for harmful and 0 for harmless, whatever the estimator's own labels are, and the scores
        or probabilities of the harmful class.
    response_method : {"predict", "decision_function", "predict_proba"}, list of these or None, \
default=None
        The method whose results a callable metric gets. In a list, the first method that the
        estimator has is used. If None, "predict". Not allowed with a name, which implies it.
    greater_is_better : bool, default=True
        If False, the sign of a callable metric is flipped. Not allowed with a name.
    aggregate : {"pooled", "macro", "worst"}, default="pooled"
        How to combine languages: "pooled" scores all rows together, "macro" is the mean of the
        languages' scores, "worst" their minimum.
    pos_label : label or None, default=None
        The harmful class. If None, the ``harmful_label_`` of the estimator or of its gate; else
        "harmful", 1 or True if one of these is among the classes; else the class that is not
        "harmless"; else the second class.
    language_column : str or None, default=None
        The column of ``X`` with the languages, for estimators that read them from there. Only
        ``aggregate`` uses it; the estimator gets ``X`` alone. If None, the ``language_column`` of
        the estimator's gate.

    See Also
    --------
    language_report : All measures per language and tier.

    Notes
    -----
    There are three ways to pass the language:

    - Call the scorer directly: ``scorer(estimator, X, y, language=language)``.
    - Pass it to ``cross_validate(..., params={"language": language})`` or to ``GridSearchCV.fit(X,
      y, language=language)``, with ``sklearn.set_config(enable_metadata_routing=True)``. Each fold
      then gets its part. Without this setting, scikit-learn passes no language to scorers; the
      scorer warns if the estimator is a ``LatentGate`` that was fitted with languages.
    - Make it a column of ``X``. This needs neither ``language=`` nor the setting. "macro" and
      "worst" take the languages from the column that ``LatentGate(language_column=...)`` names. For
      another estimator, name the column in the scorer.

    With ``language=``, the estimator's prediction methods must take ``language``, and a Pipeline
    must end in such an estimator. Otherwise, the scorer raises an error.

    "tpr_at_fpr_<rate>" is the largest share of harmful rows that a threshold finds with at most
    this rate of false alarms. The threshold is chosen on the rows that are scored: "pooled" has one
    for all languages, "macro" and "worst" have one for each. With fewer than 1 / rate harmless rows
    in a fold or a language, no false alarm is allowed at all.

    "macro" and "worst" ignore languages with rows of one class only. If none is left, the score is
    NaN.

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
            Rows that the estimator predicts from.
        y : array-like of shape (n_samples,)
            The true labels.
        language : array-like of str of shape (n_samples,) or None, default=None
            The language of each row, passed to the estimator.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            The weight of each row, passed to the metric.

        Returns
        -------
        score : float
            The score; greater is better.

        Raises
        ------
        ValueError
            If a parameter is invalid, lengths differ, a language is not a string, ``y`` has labels
            that the estimator does not know, or ``aggregate`` needs languages and there are none.
        TypeError
            If there is a language and the estimator's method does not take it.
        """
        scorer = self._make_scorer()
        weight = None if sample_weight is None else column_or_1d(to_plain(sample_weight))
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
            for rows in self._parts(X, harmful, view.language, _find_gate(estimator))
        ]
        if not scores:
            return float("nan")
        return float(np.min(scores) if self.aggregate == "worst" else np.mean(scores))

    def get_metadata_routing(self) -> MetadataRequest:
        """Return the metadata that this scorer requests from scikit-learn's metadata routing.

        Returns
        -------
        request : MetadataRequest
            By default, ``language`` is requested, and ``sample_weight`` is neither requested nor
            refused. ``set_score_request`` changes this.
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
            ``language`` or ``sample_weight``. True requests it, False ignores it, a str requests it
            under that name, and None makes it an error to pass it.

        Returns
        -------
        self : LanguageScorer
            The scorer itself.

        Raises
        ------
        TypeError
            If anything but ``language`` and ``sample_weight`` is given.
        """
        unknown = sorted(set(requests) - {"language", "sample_weight"})
        if unknown:
            raise TypeError(f"Got {', '.join(unknown)}, expected language or sample_weight.")
        self._score_request = {**getattr(self, "_score_request", {}), **requests}
        return self

    def __sklearn_clone__(self) -> LanguageScorer:
        copy: LanguageScorer = super().__sklearn_clone__()
        return copy.set_score_request(**getattr(self, "_score_request", {}))

    def _accept_sample_weight(self) -> bool:
        """Whether the metric takes weights; scikit-learn asks when it scores several metrics."""
        accepts: bool = self._make_scorer()._accept_sample_weight()  # noqa: SLF001  (scikit-learn's: asked by its own scorers under this name)
        return accepts

    def _make_scorer(self) -> Any:
        if self.aggregate not in ("pooled", "macro", "worst"):
            raise ValueError(
                f"Got aggregate={self.aggregate!r}, expected 'pooled', 'macro' or 'worst'."
            )
        if callable(self.metric):
            return make_scorer(
                self.metric,
                response_method=self.response_method or "predict",
                greater_is_better=self.greater_is_better,
            )
        if not isinstance(self.metric, str):
            raise ValueError(
                f"Got metric={self.metric!r}, expected a callable or the name of a scorer."
            )
        if self.response_method is not None or not self.greater_is_better:
            raise ValueError(
                f"Got response_method={self.response_method!r} and greater_is_better="
                f"{self.greater_is_better!r} with metric={self.metric!r}, expected None and "
                "True: the name of a scorer implies both."
            )
        if self.metric.startswith(PREFIX):
            return low_fpr_scorer(self.metric)
        return get_scorer(self.metric)

    def _parts(
        self, X: Any, harmful: NDArray[np.int_], language: Any, gate: Any
    ) -> Iterator[NDArray[np.int_]]:
        """Yield the rows of each score."""
        if self.aggregate == "pooled":
            yield np.arange(len(harmful))
            return
        groups = self._language_from_column(X, gate) if language is None else language
        for name in np.unique(groups):
            rows = np.flatnonzero(groups == name)
            if len(np.unique(harmful[rows])) == 2:
                yield rows

    def _language_from_column(self, X: Any, gate: Any) -> NDArray[np.object_]:
        column = self.language_column
        if column is None:
            column = getattr(gate, "language_column", None)
        if not isinstance(column, str):
            raise ValueError(
                f"Got no language with aggregate={self.aggregate!r}, expected language=, or "
                "language_column= and X with that column. (In cross-validation, language= needs "
                "sklearn.set_config(enable_metadata_routing=True).)"
            )
        X = to_plain(X)
        own = find_column(getattr(X, "columns", ()), column)
        if own is None:
            raise ValueError(
                f"Got X without a column {column!r}, expected a DataFrame with the column that "
                "language_column names."
            )
        return check_language(X[own], len(X))


class _HarmfulView(ClassifierMixin, BaseEstimator):
    """An estimator's responses to X, as a classifier with the labels 1 for harmful and 0.

    ``X`` and ``language`` are bound, and the "features" of this classifier are row numbers. So
    scikit-learn's scorers can score any rows, each response is computed once, and scorers never see
    the original labels.
    """

    def __init__(self, estimator: Any, X: Any, language: Any, pos_label: Hashable | None) -> None:
        self.estimator, self._X = estimator, X
        self.language = None if language is None else check_language(language, _num_samples(X))
        self._responses: dict[str, NDArray[Any]] = {}
        self._known = list(estimator.classes_.tolist())
        if len(self._known) != 2:
            raise ValueError(f"Got an estimator with classes {self._known}, expected two classes.")
        if pos_label is None:
            pos_label = getattr(_find_gate(estimator), "harmful_label_", None)
        self._harmful = resolve_harmful_label(self._known, pos_label, "pos_label", "classes_")
        self.classes_ = np.array([0, 1])

    def is_harmful(self, name: str, labels: ArrayLike) -> NDArray[np.int_]:
        values = one_per_row(name, labels)
        unknown = set(values.tolist()) - set(self._known)
        if unknown:
            raise ValueError(
                f"Got labels {sorted(unknown, key=repr)} in {name}, expected the estimator's "
                f"classes, {self._known}."
            )
        return (values == self._harmful).astype(int)

    def predict(self, rows: NDArray[np.int_]) -> NDArray[np.int_]:
        return self.is_harmful("the predictions", self._response("predict"))[rows]

    @available_if(lambda view: hasattr(view.estimator, "decision_function"))
    def decision_function(self, rows: NDArray[np.int_]) -> NDArray[np.float64]:
        scores = self._response("decision_function")[rows]
        return scores if self._harmful == self._known[1] else -scores

    @available_if(lambda view: hasattr(view.estimator, "predict_proba"))
    def predict_proba(self, rows: NDArray[np.int_]) -> NDArray[np.float64]:
        columns = [0, 1] if self._harmful == self._known[1] else [1, 0]
        return self._response("predict_proba")[rows][:, columns]

    def _response(self, method: str) -> NDArray[Any]:
        if method not in self._responses:
            response = _respond(self.estimator, method, self._X, self.language)
            self._responses[method] = np.asarray(response)
        return self._responses[method]


def _respond(estimator: Any, method: str, X: Any, language: Any) -> Any:
    """Call a prediction method with the language; raise a TypeError if it does not take it."""
    if language is None:
        return getattr(estimator, method)(X)
    if isinstance(estimator, Pipeline) and not get_config()["enable_metadata_routing"]:
        # Without routing, only some methods of a Pipeline pass parameters on.
        transformed = estimator[:-1].transform(X) if len(estimator.steps) > 1 else X
        return _respond(estimator[-1], method, transformed, language)
    call = getattr(estimator, method)
    parameters = inspect.signature(call).parameters.values()
    if not any(p.name == "language" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError(
            f"Got a language, which {type(estimator).__name__}.{method} does not take, expected an "
            "estimator whose method has the parameter language=None, such as a LatentGate or a "
            "Pipeline that ends in one (for a search, its best_estimator_). Otherwise pass no "
            "language: make it a column of X, which the estimator reads or drops (in a "
            "ColumnTransformer), and name it in LanguageScorer(language_column=...)."
        )
    return call(X, language=language)


def _find_gate(estimator: Any) -> Any:
    """Find the gate in a Pipeline, a search, a SteeringWrapper or another meta-estimator."""
    if isinstance(estimator, Pipeline):
        return _find_gate(estimator[-1])
    for name in ("best_estimator_", "estimator_", "gate_", "gate"):
        if hasattr(estimator, name):
            return _find_gate(getattr(estimator, name))
    if hasattr(estimator, "calibrated_classifiers_"):
        return _find_gate(estimator.calibrated_classifiers_[0].estimator)
    return estimator


def _warn_if_language_lost(estimator: Any) -> None:
    """Warn if a gate that knows languages is scored without languages."""
    gate = _find_gate(estimator)
    if len(getattr(gate, "languages_", ())) and getattr(gate, "language_column", None) is None:
        warnings.warn(
            "LanguageScorer got no language, but the estimator was fitted with languages: it is "
            "scored without them. In cross-validation and searches, the scorer gets language= only "
            "with sklearn.set_config(enable_metadata_routing=True).",
            UserWarning,
            stacklevel=find_stack_level(),
        )
