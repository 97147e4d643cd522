"""Measures per language, and a scorer through which the language reaches the estimator."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import average_precision_score, get_scorer, make_scorer, roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples

from ._validation import check_language, resolve_harmful_label

__all__ = ["LanguageScorer", "language_report"]

_TIERS = {
    "high": ("en", "de", "fr", "es", "it", "nl", "pl", "ru", "zh", "ja"),
    "mid": ("ar", "ko", "th", "el", "he", "hi", "fa"),
    "low": ("sw", "am", "my", "km", "si", "yo"),
}
_LANGUAGE_TIERS = {language: tier for tier, languages in _TIERS.items() for language in languages}

# Each measure of a report, and whether more of it is better.
_MEASURES = {
    "roc_auc": True,
    "f1": True,
    "balanced_accuracy": True,
    "average_precision": True,
    "fpr": False,
    "fnr": False,
}
_COUNTS = ["n", "n_harmful", "n_harmless"]


def language_report(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_score: ArrayLike | None = None,
    *,
    language: ArrayLike,
    tier: Mapping[str, str] | None = None,
    pos_label: Hashable | None = None,
    worst_by: str = "balanced_accuracy",
) -> pd.DataFrame:
    """Measure decisions per language, per tier and overall.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        The true labels, of one or two classes.
    y_pred : array-like of shape (n_samples,)
        The decisions, in the same labels.
    y_score : array-like of shape (n_samples,) or None, default=None
        Scores, **larger for more harmful**: `LatentGate.harm_score`, not
        `decision_function`, whose sign follows the order of the labels. Without scores,
        `roc_auc` and `average_precision` are NaN.
    language : array-like of str of shape (n_samples,)
        The language of each row.
    tier : mapping of str to str or None, default=None
        The tier of each language. None is the paper's: "high", "mid" or "low" by the language's
        share of Common Crawl, for ISO 639-1 codes (see Notes). A language without a tier has
        its row, and counts in no tier.
    pos_label : label or None, default=None
        The harmful class. None finds it as `LatentGate` does: "harmful", 1 or True if among the
        labels, else the second of the two in sorted order.
    worst_by : str, default="balanced_accuracy"
        The measure that says which language is the worst one.

    Returns
    -------
    DataFrame
        One row per language, per tier, and three rows of summary, indexed by `group` and `name`:

        ========== ============= ================================================================
        group      name          the row
        ========== ============= ================================================================
        "language" each language the rows of that language; sorted
        "tier"     each tier     the mean over that tier's languages (macro); n are sums
        "overall"  "all"         all rows pooled
        "worst"    that language a copy of the row of the worst language ("" if none is defined)
        "spread"   "max - min"   the largest minus the smallest value over languages
        ========== ============= ================================================================

        The columns are `roc_auc`, `f1`, `balanced_accuracy`, `average_precision`, `fpr` (harmless
        rows called harmful), `fnr` (harmful rows called harmless) and the numbers of rows `n`,
        `n_harmful`, `n_harmless`.

    Raises
    ------
    ValueError
        If lengths differ, an input is empty, not one-dimensional or has missing values, there are
        more than two labels, a language is not a string, or `pos_label` or `worst_by` is unknown.
    TypeError
        If `tier` is not a mapping.

    See Also
    --------
    LanguageScorer : A score for model selection that passes the language on.

    Notes
    -----
    What a group's rows do not define is NaN: `fpr` without harmless rows, `fnr` without harmful
    ones, and the others unless both are there. (So `f1` is NaN in a language with harmful rows
    only, where its precision would be 1 whatever the gate does.) Means, worst language and spread
    are taken over the languages that define a measure.

    "overall" depends on how many rows each language has, and its `roc_auc` on scores being
    comparable across languages; the tier rows depend on neither.

    The default tiers are high: en de fr es it nl pl ru zh ja, mid: ar ko th el he hi fa,
    low: sw am my km si yo.

    References
    ----------
    Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not Representation
    Failures", arXiv 2606.01196 (2026): the tiers, and measures macro-averaged per tier.

    Examples
    --------
    >>> from skgate.metrics import language_report
    >>> report = language_report(
    ...     y_true=[1, 0, 1, 0, 1, 1, 0, 0],
    ...     y_pred=[1, 0, 1, 0, 1, 0, 0, 0],
    ...     y_score=[0.9, -0.8, 0.7, -0.6, 0.2, -0.3, -0.1, -0.5],
    ...     language=["en", "en", "en", "en", "yo", "yo", "yo", "yo"],
    ... )
    >>> report[["roc_auc", "balanced_accuracy", "fnr", "n"]]
                        roc_auc  balanced_accuracy   fnr  n
    group    name
    language en          1.0000              1.000  0.00  4
             yo          0.7500              0.750  0.50  4
    tier     high        1.0000              1.000  0.00  4
             low         0.7500              0.750  0.50  4
    overall  all         0.9375              0.875  0.25  8
    worst    yo          0.7500              0.750  0.50  4
    spread   max - min   0.2500              0.250  0.50  0
    >>> float(report.loc[("language", "yo"), "f1"])
    0.666...
    """
    if worst_by not in _MEASURES:
        raise ValueError(f"Got worst_by={worst_by!r} but expected one of {', '.join(_MEASURES)}.")
    if tier is not None and not isinstance(tier, Mapping):
        raise TypeError(f"Got tier={tier!r} but expected a mapping of language to tier, or None.")
    rows = _decisions(y_true, y_pred, y_score, language, pos_label)
    languages = pd.DataFrame({name: _measure(part) for name, part in rows.groupby("language")}).T
    report = pd.concat(
        {
            "language": languages,
            "tier": _average_tiers(languages, _LANGUAGE_TIERS if tier is None else tier),
            "overall": pd.DataFrame({"all": _measure(rows)}).T,
            "worst": _worst_language(languages, worst_by),
            "spread": pd.DataFrame({"max - min": languages.max() - languages.min()}).T,
        },
        names=["group", "name"],
    )
    return report.astype(dict.fromkeys(_COUNTS, int))


def _decisions(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_score: ArrayLike | None,
    language: ArrayLike,
    pos_label: Hashable | None,
) -> pd.DataFrame:
    """Validate a report's input, and put it in harmful / not harmful."""
    true, predicted = _one_per_row("y_true", y_true), _one_per_row("y_pred", y_pred)
    languages = check_language(language, len(true))
    columns: dict[str, Any] = {"y_true": true, "y_pred": predicted, "language": languages}
    if y_score is not None:
        columns["y_score"] = _one_per_row("y_score", y_score).astype(float)
        if not np.isfinite(columns["y_score"]).all():
            raise ValueError("Got infinite values in y_score but expected finite scores.")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1 or not len(true):
        raise ValueError(f"Got {lengths} values but expected as many of each, and at least one.")
    harmful = resolve_harmful_label(
        _classes("y_true and y_pred", [*true.tolist(), *predicted.tolist()]),
        pos_label,
        "pos_label",
    )
    return pd.DataFrame(
        {
            "harmful": true == harmful,
            "called_harmful": predicted == harmful,
            "score": columns.get("y_score", np.nan),
            "language": languages,
        }
    )


def _measure(rows: pd.DataFrame) -> pd.Series[float]:
    harmful, called = rows["harmful"].to_numpy(), rows["called_harmful"].to_numpy()
    n_harmful, n_harmless = int(harmful.sum()), int((~harmful).sum())
    hits, alarms = int((harmful & called).sum()), int((~harmful & called).sum())
    fpr, fnr = _ratio(alarms, n_harmless), _ratio(n_harmful - hits, n_harmful)
    comparable = n_harmful > 0 and n_harmless > 0
    scores = rows["score"].to_numpy()
    ranked = comparable and not np.isnan(scores).any()
    return pd.Series(
        {
            "roc_auc": roc_auc_score(harmful, scores) if ranked else np.nan,
            "f1": _ratio(2 * hits, n_harmful + hits + alarms) if comparable else np.nan,
            "balanced_accuracy": (_ratio(hits, n_harmful) + _ratio(n_harmless - alarms, n_harmless))
            / 2,
            "average_precision": average_precision_score(harmful, scores) if ranked else np.nan,
            "fpr": fpr,
            "fnr": fnr,
            "n": len(rows),
            "n_harmful": n_harmful,
            "n_harmless": n_harmless,
        },
        dtype=float,
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _average_tiers(languages: pd.DataFrame, tiers: Mapping[str, str]) -> pd.DataFrame:
    averages = {}
    for tier in dict.fromkeys(tiers.values()):
        members = languages[[tiers.get(language) == tier for language in languages.index]]
        if len(members):
            averages[tier] = pd.concat([members[list(_MEASURES)].mean(), members[_COUNTS].sum()])
    return pd.DataFrame(averages, index=languages.columns, dtype=float).T


def _worst_language(languages: pd.DataFrame, measure: str) -> pd.DataFrame:
    values = languages[measure].dropna()
    if values.empty:
        nothing = {**dict.fromkeys(_MEASURES, np.nan), **dict.fromkeys(_COUNTS, 0)}
        return pd.DataFrame(nothing, index=[""])
    return languages.loc[[values.idxmin() if _MEASURES[measure] else values.idxmax()]]


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
        The harmful class. None takes the estimator's `harmful_label_` if it has one, else
        "harmful", 1 or True if among its classes, else the second of them.
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
        if language is not None:
            language = check_language(language, _num_samples(X))
        else:
            _warn_if_language_lost(estimator)
        view = _HarmfulView(estimator, X, language, self.pos_label)
        harmful = view.is_harmful("y", y)
        weight = None if sample_weight is None else np.asarray(sample_weight)
        scores = [
            scorer(
                view,
                rows,
                harmful[rows],
                **({} if weight is None else {"sample_weight": weight[rows]}),
            )
            for rows in self._parts(X, harmful, language)
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

    def _make_scorer(self) -> Callable[..., float]:
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
        self._estimator, self._X, self._language = estimator, X, language
        self._responses: dict[str, NDArray[Any]] = {}
        self._known = list(estimator.classes_.tolist())
        if len(self._known) != 2:
            raise ValueError(
                f"Got an estimator with classes {self._known} but expected two classes."
            )
        if pos_label is None:
            pos_label = getattr(_last_step(estimator), "harmful_label_", None)
        self._harmful = resolve_harmful_label(self._known, pos_label, "pos_label")
        self.classes_ = np.array([0, 1])

    def is_harmful(self, name: str, labels: ArrayLike) -> NDArray[np.int_]:
        values = _one_per_row(name, labels)
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
            response = _respond(self._estimator, method, self._X, self._language)
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


def _last_step(estimator: Any) -> Any:
    return _last_step(estimator[-1]) if isinstance(estimator, Pipeline) else estimator


def _warn_if_language_lost(estimator: Any) -> None:
    """Warn when a gate that knows languages is about to be scored without any."""
    gate = _last_step(estimator)
    if len(getattr(gate, "languages_", ())) and getattr(gate, "language_column", None) is None:
        warnings.warn(
            "LanguageScorer got no language, though the estimator was fitted with some: it is "
            "scored without. In cross-validation and searches, language= reaches the scorer with "
            "sklearn.set_config(enable_metadata_routing=True) only.",
            UserWarning,
            stacklevel=3,
        )


def _one_per_row(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"Got {name} of shape {array.shape} but expected one value per row, that is "
            "(n_samples,)."
        )
    if pd.isna(array).any():
        raise ValueError(f"Got missing values in {name} but expected a value in each row.")
    return array


def _classes(name: str, labels: list[Any]) -> list[Any]:
    distinct = set(labels)
    if len(distinct) > 2:
        some = ", ".join(map(repr, list(dict.fromkeys(labels))[:5]))
        raise ValueError(f"Got {len(distinct)} labels in {name} ({some}, ...) but expected two.")
    try:
        return sorted(distinct)
    except TypeError as error:
        raise ValueError(
            f"Got labels of different types in {name}, {distinct}, but expected one type."
        ) from error
