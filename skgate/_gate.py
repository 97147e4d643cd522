"""LatentGate: which prompts are harmful, with a decision boundary per language."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from scipy.special import expit, log_expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from ._calibration import ClassStatistics, balanced_f1_threshold, learn_shift_prior, snap
from ._compat import Interval, StrOptions, _check_sample_weight, _fit_context
from ._persistence import VersionedPickle
from ._provenance import ActivationSource, recall
from ._readout import Readout, Rows, fit_readout, stack
from ._subspace import Bools, Floats, harm_basis, harm_direction, projection_gap
from ._validation import check_language, resolve_harmful_label

if TYPE_CHECKING:
    from sklearn.utils import Tags

Languages = npt.NDArray[np.object_]


class LatentGate(VersionedPickle, ClassifierMixin, BaseEstimator):
    """Tell harmful from harmless prompts by their activations, with a boundary per language.

    A logistic readout of the harmfulness subspace that the source languages span; a language's
    own decision boundary is set from a few labelled prompts of it (shots).

    Parameters
    ----------
    rank : int, default=10
        Dimensions of the harmfulness subspace, cut to what the sources allow (``rank_``).
    C : float, default=1.0
        Inverse strength of the readout's L2 regularisation, as in
        :class:`~sklearn.linear_model.LogisticRegression`.
    calibration : {"shrinkage", "refit", "threshold"} or None, default="shrinkage"
        How shots set a language's boundary (see Notes): "shrinkage" weighs them against how
        the source languages differ from each other; "refit" is the recipe of [1]_; "threshold"
        is its threshold rule alone, on the source readout; None ignores them.
    source_languages : list of str or None, default=None
        The languages the direction is learned from. Rows of other languages given to ``fit``
        are shots. None: every language given to ``fit`` is a source.
    unknown_language : {"source", "error"}, default="source"
        What to do with a language that was never seen: use the pooled source's boundary and warn,
        or raise. No language given: the same, without the warning.
    language_column : str, int or None, default=None
        The column of ``X`` that holds the language, by name or (in arrays) by index, instead of
        the keyword ``language``.
    harmful_label : str, int, bool or None, default=None
        The label of harmful prompts. None: "harmful", 1 or True if among the classes, else
        ``classes_[1]``.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The labels, sorted.
    harmful_label_ : object
        The label of harmful prompts.
    n_features_in_ : int
        Width ``d`` of the activations, without the language column.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, if ``X`` had any.
    direction_ : ndarray of shape (d,)
        Unit vector from the mean of all harmless to the mean of all harmful source rows.
    basis_ : ndarray of shape (d, r)
        Orthonormal basis of the harmfulness subspace.
    rank_ : int
        Its dimensions, ``r``.
    coef_, intercept_ : ndarray of shape (1, d) and (1,)
        The pooled source's decision function, ``X @ coef_.T + intercept_``.
    source_languages_ : ndarray of str
        The languages the direction was learned from, sorted; empty for one pooled source.
    languages_ : ndarray of shape (n_languages,)
        Source and calibrated languages, sorted.
    language_bias_ : ndarray of shape (n_languages,)
        What the decision function of a language adds to ``intercept_``. With "refit", which
        also moves the coefficients, the difference of the intercepts alone.
    n_shots_ : ndarray of shape (n_languages, 2)
        Shots per language and class (columns as in ``classes_``); the source rows don't count.
    projection_gap_ : float
        75 % quantile of the harmful minus 25 % quantile of the harmless source rows' projections
        on ``direction_``: the unit of steering strength. Weighted rows use the inverted-CDF
        quantile, unweighted ones the linear one.
    activation_source_ : ActivationSource or None
        The model, layer and position that the activations were read at, if they came straight
        from an :class:`ActivationTransformer` or were told to ``fit``.

    See Also
    --------
    ActivationTransformer : Makes the activations.
    skgate.metrics.language_report : Scores a gate per language.

    Notes
    -----
    With ``u_l`` the unit difference of class means in source language l, ``basis_`` holds the
    first right singular vectors of the stacked ``u_l``, not centred. On ``z = basis_.T @ h``,
    standardised, a logistic regression with equally weighted classes is solved to its optimum.
    The pooled source's boundary is where F1 of "harmful" is highest on the source rows, both
    classes weighing the same ([1]_, the balanced F1 threshold rule).

    - "threshold": the same rule on the language's shots alone. Needs both classes.
    - "refit": a readout fitted on source rows and the language's shots, then the same rule on
      the shots. Needs both classes.
    - "shrinkage": the language's class means have a prior around the sources' means, with heavy
      tails and a spread learned from the source languages; the shots update it, and the boundary
      divides the way between the means as it does in a source. One class alone is enough. A
      source language's own rows count among its shots.

    Shots are kept (projected, ``rank_`` numbers each), so that the result doesn't depend on the
    order or on the number of calls in which they came.

    References
    ----------
    .. [1] Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not
       Representation Failures", arXiv:2606.01196, 2026.

    Examples
    --------
    >>> import numpy as np
    >>> from skgate import LatentGate
    >>> rng = np.random.default_rng(0)
    >>> y = np.tile([0, 1], 100)
    >>> language = np.repeat(["de", "en"], 100)
    >>> X = rng.normal(size=(200, 8)) + 4 * y[:, None]
    >>> gate = LatentGate().fit(X, y, language=language)
    >>> X_sw = rng.normal(size=(200, 8)) + 2 * y[:, None] - 3   # shifted and squeezed
    >>> gate.partial_fit(X_sw[:4], y[:4], language="sw").languages_
    array(['de', 'en', 'sw'], dtype=object)
    >>> gate.score(X_sw[4:], y[4:]), gate.score(X_sw[4:], y[4:], language="sw")
    (0.5, 0.99...)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "rank": [Interval(Integral, 1, None, closed="left")],
        "C": [Interval(Real, 0, None, closed="neither")],
        "calibration": [StrOptions({"shrinkage", "refit", "threshold"}), None],
        "source_languages": ["array-like", None],
        "unknown_language": [StrOptions({"source", "error"})],
        "language_column": [str, Integral, None],
        "harmful_label": "no_validation",
    }

    __metadata_request__fit: ClassVar = {"language": True}
    __metadata_request__partial_fit: ClassVar = {"language": True}
    __metadata_request__predict: ClassVar = {"language": True}
    __metadata_request__predict_proba: ClassVar = {"language": True}
    __metadata_request__predict_log_proba: ClassVar = {"language": True}
    __metadata_request__decision_function: ClassVar = {"language": True}
    __metadata_request__score: ClassVar = {"language": True}

    def __init__(
        self,
        *,
        rank: int = 10,
        C: float = 1.0,
        calibration: str | None = "shrinkage",
        source_languages: Sequence[str] | None = None,
        unknown_language: str = "source",
        language_column: str | int | None = None,
        harmful_label: Any = None,
    ) -> None:
        self.rank = rank
        self.C = C
        self.calibration = calibration
        self.source_languages = source_languages
        self.unknown_language = unknown_language
        self.language_column = language_column
        self.harmful_label = harmful_label

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        language: Any = None,
        sample_weight: Any = None,
        *,
        activation_source: ActivationSource | None = None,
    ) -> LatentGate:
        """Learn direction, subspace and readout from the sources, and calibrate on the shots.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations; with ``language_column``, one column more.
        y : array-like of shape (n_prompts,)
            Labels of two classes.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, one for all or one each. None: one pooled source.
        sample_weight : array-like of shape (n_prompts,), default=None
            Weights; a weight of 2 counts as two equal rows.
        activation_source : ActivationSource or None, default=None
            Where ``X`` was read, if it didn't come straight from a transformer.

        Returns
        -------
        self : LatentGate
            The fitted gate.

        Raises
        ------
        ValueError
            If ``X`` is sparse or not finite, ``y`` has not two classes, ``language`` has another
            length, no source language is among the rows, or the classes' means are equal.
        """
        before = dict(self.__dict__)
        try:
            return self._fit(X, y, language, sample_weight, activation_source)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _fit(
        self,
        X: Any,
        y: Any,
        language: Any,
        sample_weight: Any,
        activation_source: ActivationSource | None,
    ) -> LatentGate:
        X, y, language, weight = self._check_rows(X, y, language, sample_weight, reset=True)
        self._set_classes(y)
        harmful = y == self.harmful_label_
        is_source = self._find_sources(language, len(X))
        sources = None if language is None else language[is_source]
        self.source_languages_ = _distinct(sources)
        self._learn_subspace(X[is_source], harmful[is_source], weight[is_source], sources)
        rows = Rows(X @ self.basis_, harmful, weight)
        self._source = rows.take(is_source)
        self._source_language: Any = sources
        self.projection_gap_ = projection_gap(
            X[is_source] @ self.direction_, self._source.harmful, self._source.weight
        )
        self._probe = fit_readout(self._source, self.C)
        scores = self._probe(self._source.z)
        threshold = balanced_f1_threshold(snap(scores), self._source.harmful, self._source.weight)
        self._prior = learn_shift_prior(scores, self._source.harmful, self._source.weight, sources)
        self._zero_shot = self._probe.lowered(0.0 if self.calibration is None else threshold)
        self.activation_source_ = activation_source or recall(X)
        self._shots: dict[str | None, Rows] = {}
        self._readouts: dict[str | None, Readout] = {None: self._zero_shot}
        self._calibrate(self.source_languages_)
        if not is_source.all() and language is not None:
            self._calibrate(self._add_shots(rows.take(~is_source), language[~is_source]))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        language: Any = None,
        classes: Any = None,
        sample_weight: Any = None,
    ) -> LatentGate:
        """Calibrate languages on shots; an unfitted gate is fitted.

        The direction, the subspace and the other languages stay as they are.

        Parameters
        ----------
        X : array-like of shape (n_shots, d)
            Activations; with ``language_column``, one column more.
        y : array-like of shape (n_shots,)
            Labels; one class alone is allowed.
        language : str or array-like of str of shape (n_shots,), default=None
            Languages of the shots. None recalibrates the pooled source.
        classes : array-like of shape (2,), default=None
            The labels, as scikit-learn's ``partial_fit`` has it; checked, never needed.
        sample_weight : array-like of shape (n_shots,), default=None
            Weights; a weight of 2 counts as two equal shots.

        Returns
        -------
        self : LatentGate
            The gate itself.

        Raises
        ------
        ValueError
            If ``X`` is of another width or known to be read elsewhere (model, layer, position)
            than the gate's, or a label or ``classes`` is not among ``classes_``.
        """
        if not hasattr(self, "classes_"):
            self.fit(X, y, language=language, sample_weight=sample_weight)
            self._check_labels(classes, "classes")
            return self
        X, y, language, weight = self._check_rows(X, y, language, sample_weight, reset=False)
        self._check_labels(classes, "classes")
        self._check_labels(y, "y")
        self._check_activations(X)
        rows = Rows(X @ self.basis_, y == self.harmful_label_, weight)
        self._calibrate(self._add_shots(rows, language))
        return self

    def decision_function(self, X: Any, language: Any = None) -> Floats:
        """Score prompts; greater than 0 means ``classes_[1]``, in every language.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations; with ``language_column``, one column more.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, one for all or one each. None: the pooled source's boundary.

        Returns
        -------
        scores : ndarray of shape (n_prompts,)
            Log-odds towards ``classes_[1]``.

        Warns
        -----
        UserWarning
            If a language was never seen and ``unknown_language="source"``; it names it.
        """
        scores = self.harm_score(X, language)
        return scores * self._sign

    def harm_score(self, X: Any, language: Any = None) -> Floats:
        """Score prompts; greater than 0 means harmful, whatever the labels.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations; with ``language_column``, one column more.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts.

        Returns
        -------
        scores : ndarray of shape (n_prompts,)
            Log-odds towards ``harmful_label_``.
        """
        check_is_fitted(self)
        X, language = self._split_language(X, language)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        self._check_activations(X)
        if language is None:
            return self._score(X, None)
        language = check_language(language, len(X))
        self._check_known(language)
        return self._score(X, language)

    def _score(self, X: Floats, language: Languages | None) -> Floats:
        """Score checked rows."""
        z = X @ self.basis_
        if language is None:
            return self._readouts[None](z)
        scores = np.empty(len(z))
        for name in set(language):
            rows = language == name
            scores[rows] = self._readouts.get(name, self._readouts[None])(z[rows])
        return scores

    def predict(self, X: Any, language: Any = None) -> npt.NDArray[Any]:
        """Predict the label of prompts.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations; with ``language_column``, one column more.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts.

        Returns
        -------
        labels : ndarray of shape (n_prompts,)
            Labels out of ``classes_``.
        """
        above = self.decision_function(X, language) > 0
        labels: npt.NDArray[Any] = self.classes_[above.astype(int)]
        return labels

    def predict_proba(self, X: Any, language: Any = None) -> Floats:
        """Predict the probability of either label, the classes taken as equally frequent.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations; with ``language_column``, one column more.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts.

        Returns
        -------
        probabilities : ndarray of shape (n_prompts, 2)
            ``expit`` of the decision function; columns as in ``classes_``.
        """
        scores = self.decision_function(X, language)
        return np.column_stack([expit(-scores), expit(scores)])

    def predict_log_proba(self, X: Any, language: Any = None) -> Floats:
        """Predict the logarithm of the probability of either label.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations; with ``language_column``, one column more.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts.

        Returns
        -------
        log_probabilities : ndarray of shape (n_prompts, 2)
            Columns as in ``classes_``.
        """
        scores = self.decision_function(X, language)
        return np.column_stack([log_expit(-scores), log_expit(scores)])

    def score(self, X: Any, y: Any, language: Any = None, sample_weight: Any = None) -> float:
        """Accuracy of the predictions.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations; with ``language_column``, one column more.
        y : array-like of shape (n_prompts,)
            True labels.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts.
        sample_weight : array-like of shape (n_prompts,), default=None
            Weights.

        Returns
        -------
        accuracy : float
            Share of prompts whose label is predicted.
        """
        predicted = self.predict(X, language)
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))

    @property
    def _sign(self) -> int:
        return 1 if self.classes_[1] == self.harmful_label_ else -1

    def _split_language(self, X: Any, language: Any) -> tuple[Any, Any]:
        """Take the language out of its column of X, if it is there."""
        column = self.language_column
        if column is None:
            return X, language
        if language is not None:
            raise ValueError(
                f"language was given although language_column={column!r} names the column of X "
                "that holds it; expected only one of them."
            )
        if hasattr(X, "iloc"):
            known = X.columns if isinstance(column, str) else range(-X.shape[1], X.shape[1])
            if column not in known:
                raise ValueError(
                    f"language_column={column!r} is not among the {X.shape[1]} columns of X: "
                    f"{list(X.columns[:5])}... Use set_output(transform='pandas') in the steps "
                    "before."
                )
            name = column if isinstance(column, str) else X.columns[column]
            return X.drop(columns=name), X[name]
        if isinstance(column, str):
            raise ValueError(
                f"language_column={column!r} is a name, but X is a {type(X).__name__} without "
                "column names; expected a DataFrame or an index."
            )
        if issparse(X):
            raise TypeError(
                "X is sparse, but with language_column it holds a language; expected "
                "a dense array or a DataFrame."
            )
        X = np.asarray(X, dtype=object)
        if X.ndim != 2 or not -X.shape[1] <= column < X.shape[1]:
            raise ValueError(f"language_column={column} is out of range for X of shape {X.shape}.")
        return np.delete(X, column, axis=1), X[:, column]

    def _set_classes(self, y: npt.NDArray[Any]) -> None:
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            found = f"y has {len(self.classes_)} class(es): {self.classes_[:5].tolist()}"
            kind = type_of_target(y) if len(self.classes_) > 2 else "one class"
            raise ValueError(
                "Only binary classification is supported. The type of the target is "
                f"{kind}. {found}; expected exactly 2 classes."
            )
        known = self.classes_.tolist()
        harmful = resolve_harmful_label(known, self.harmful_label)
        self.harmful_label_ = self.classes_[known.index(harmful)]

    def _check_labels(self, labels: Any, name: str) -> None:
        if labels is None:
            return
        unknown = sorted(set(np.asarray(labels).tolist()) - set(self.classes_.tolist()), key=repr)
        if unknown:
            raise ValueError(
                f"{name} contains {unknown}, expected labels out of {self.classes_.tolist()}."
            )

    def _check_rows(
        self, X: Any, y: Any, language: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[Floats, npt.NDArray[Any], Languages | None, Floats]:
        """Check labelled rows and drop those of weight 0."""
        X, language = self._split_language(X, language)
        X, y = validate_data(self, X, y, dtype=np.float64, reset=reset)
        language = None if language is None else check_language(language, len(X))
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        present = weight > 0
        if not present.any():
            raise ValueError("sample_weight is 0 for every row; expected some positive weights.")
        if not present.all():
            X, y, weight = X[present], y[present], weight[present]
            language = None if language is None else language[present]
        return X, y, language, weight

    def _check_activations(self, X: Floats) -> None:
        """Raise if rows are known to be other activations than the gate was fitted on."""
        fitted_on = self.activation_source_
        found = None if fitted_on is None else recall(X)
        if fitted_on is not None and found is not None and found != fitted_on:
            raise ValueError(
                "X holds other activations than the gate was fitted on: "
                f"{fitted_on.describe_change(found)}. Expected the same model, "
                "tokenizer, template, layer and position."
            )

    def _find_sources(self, language: Languages | None, n_rows: int) -> Bools:
        """Which rows the direction is learned from."""
        if self.source_languages is None:
            return np.ones(n_rows, dtype=bool)
        sources = set(
            check_language(self.source_languages, len(self.source_languages), "source_languages")
        )
        given = f"source_languages={sorted(sources)}, but"
        if language is None:
            raise ValueError(f"{given} no language was given; expected that of every row.")
        found = set(language)
        if not sources & found:
            raise ValueError(
                f"{given} the rows are in {sorted(found)}; expected rows of at least one source "
                "language."
            )
        if sources - found:
            warnings.warn(
                f"{given} no row is in {sorted(sources - found)}; the direction is learned from "
                "the others.",
                UserWarning,
                stacklevel=2,
            )
        is_source: Bools = np.isin(language.astype(str), sorted(sources))
        return is_source

    def _learn_subspace(
        self, X: Floats, harmful: Bools, weight: Floats, language: Languages | None
    ) -> None:
        if harmful.all() or not harmful.any():
            raise ValueError(
                "y has one class among the rows of the source languages; expected harmful and "
                "harmless prompts there."
            )
        pooled = harm_direction(X, harmful, weight)
        if pooled is None:
            raise ValueError(
                "X has the same mean for both classes of y in the source languages; expected "
                "activations that differ."
            )
        groups = [language == name for name in _distinct(language)]
        found = [harm_direction(X[rows], harmful[rows], weight[rows]) for rows in groups]
        units = [direction for direction in found if direction is not None]
        self.direction_ = pooled
        self.basis_ = harm_basis(np.stack(units or [pooled]), self.rank, pooled)
        self.rank_ = self.basis_.shape[1]

    def _add_shots(self, rows: Rows, language: Languages | None) -> list[str | None]:
        """Keep labelled rows by language; returns the languages."""
        names: list[str | None] = [None] if language is None else list(_distinct(language))
        for name in names:
            shots = rows if language is None else rows.take(language == name)
            self._shots[name] = stack(self._shots.get(name), shots) or shots
        return names

    def _calibrate(self, languages: Iterable[str | None]) -> None:
        """Set the readouts of ``languages`` and publish the fitted attributes."""
        for name in languages:
            readout = self._calibrated(name)
            self._readouts[name] = self._zero_shot if readout is None else readout
            if readout is None and name in self._shots:
                self._warn_idle(name)
        pooled = self._readouts[None]
        known = sorted(name for name in self._readouts if name is not None)
        self.languages_ = np.array(known, dtype=object)
        self.coef_ = self._sign * (self.basis_ @ pooled.coef)[np.newaxis]
        self.intercept_ = np.array([self._sign * pooled.intercept])
        self.language_bias_ = np.array(
            [self._sign * (self._readouts[name].intercept - pooled.intercept) for name in known]
        )
        self.n_shots_ = np.zeros((len(known), 2), dtype=np.int64)
        for row, name in enumerate(known):
            if name in self._shots:
                harmful = self._shots[name].harmful
                self.n_shots_[row] = [(~harmful).sum(), harmful.sum()][:: self._sign]

    def _calibrated(self, language: str | None) -> Readout | None:
        """Calibrate a language's readout; None where there is nothing to go by."""
        shots = self._shots.get(language)
        if self.calibration == "shrinkage":
            own = None
            if language is not None and language in self.source_languages_:
                own = self._source.take(self._source_language == language)
            evidence = stack(own, shots)
            if evidence is None:
                return None
            scores = self._probe(evidence.z)
            statistics = ClassStatistics.of(scores, evidence.harmful, evidence.weight)
            return self._probe.lowered(self._prior.boundary(statistics))
        if self.calibration is None or shots is None or not shots.has_both_classes:
            return None
        probe = self._probe
        if self.calibration == "refit":
            probe = fit_readout(stack(self._source, shots) or shots, self.C)
        threshold = balanced_f1_threshold(snap(probe(shots.z)), shots.harmful, shots.weight)
        return probe.lowered(threshold)

    def _warn_idle(self, language: str | None) -> None:
        reason = (
            "ignores shots"
            if self.calibration is None
            else "needs shots of both classes; calibration='shrinkage' does with one"
        )
        warnings.warn(
            f"The shots of language {language!r} don't move its boundary: "
            f"calibration={self.calibration!r} {reason}.",
            UserWarning,
            stacklevel=4,
        )

    def _check_known(self, language: Languages) -> None:
        unknown = sorted(set(language) - set(self.languages_))
        if not unknown:
            return
        message = f"language {unknown} was never seen; known are {self.languages_.tolist()}."
        if self.unknown_language == "error":
            raise ValueError(
                f"{message} Calibrate it with partial_fit, or use unknown_language='source'."
            )
        warnings.warn(
            f"{message} The pooled source's boundary is used, which may lie far off: calibrate it "
            "with partial_fit.",
            UserWarning,
            stacklevel=4,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _distinct(language: Languages | None) -> Languages:
    """Return the languages among the rows, sorted."""
    return np.array([] if language is None else sorted(set(language)), dtype=object)
