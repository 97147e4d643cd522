"""LatentGate: which prompts are harmful, with a decision boundary per language."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted, validate_data

from skgate._base import Interval, StrOptions, VersionedPickle, _check_sample_weight, _fit_context
from skgate._provenance import ActivationSource, recall
from skgate._validation import check_language
from skgate.gate._calibration import Calibration, Calibrator, Evidence
from skgate.gate._detector import LanguageDetector
from skgate.gate._input import check_labels, find_classes, split_language
from skgate.gate._languages import LanguageCalibrationMixin, all_or_nothing
from skgate.gate._probe import Rows
from skgate.gate._source import learn_source
from skgate.gate._subspace import Bools, Floats, projection_gap

if TYPE_CHECKING:
    from sklearn.utils import Tags

Languages = npt.NDArray[np.object_]


class LatentGate(LanguageCalibrationMixin, VersionedPickle, ClassifierMixin, BaseEstimator):
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
        How shots set a language's boundary (see Notes): "shrinkage" weighs them against what
        the source languages say of a further one; "refit" is the recipe of [1]_; "threshold"
        is its threshold rule alone, on the source readout; None ignores them, and leaves the
        pooled boundary where the logistic has it.
    source_languages : list of str or None, default=None
        The languages the direction is learned from. Rows of other languages given to ``fit``
        are shots. None: every language given to ``fit`` is a source.
    unknown_language : {"detect", "source", "error"}, default="detect"
        What to do with a language that was never seen: tell the prompts' languages from their
        activations (see Notes) and warn, use the pooled source's boundary and warn, or raise. No
        language given: the same, without the warning ("error": the pooled source's boundary).
    language_column : str, int or None, default=None
        The column of ``X`` that holds the language, by name or (in arrays) by index, instead of
        the keyword ``language``.
    harmful_label : str, int, bool or None, default=None
        The label of harmful prompts. None: "harmful", 1 or True if among the classes, else the
        one that is not "harmless", else ``classes_[1]``; with a warning if that is a text.

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
    language_bias_, language_scale_ : ndarray of shape (n_languages,)
        The decision function of a language is ``scale * (pooled + bias)``, with the pooled
        source's. With "refit", which also moves the coefficients, the difference of the
        intercepts alone, and 1.
    bias_interval_ : ndarray of shape (n_languages, 2)
        90 % interval of the bias that would be best for the language, for more prompts drawn
        like its shots; nan if ``calibration`` is not "shrinkage".
    n_shots_ : ndarray of shape (n_languages, 2)
        Shots per language and class (columns as in ``classes_``); the source rows don't count.
    n_unlabelled_ : ndarray of shape (n_languages,)
        Unlabelled prompts that :meth:`adapt` was given.
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
    - "shrinkage": the readout's scores of a language's harmless and harmful prompts are normal
      around ``a - q / 2`` and ``a + q / 2`` with the spreads of the sources times ``w``. A priori
      ``a`` lies around the source boundary (by a standard deviation of the scores within a class,
      and as far as each source language is shifted for the others), ``q / w`` is half of what it
      is in a source language held out, both with heavy tails (t distributions with 2 degrees of
      freedom), and ``w`` is theirs. The shots update this, one class alone too, and so do
      unlabelled prompts (:meth:`adapt`): ``a`` is the boundary, and the decision function the
      log-odds of the two normal distributions, averaged over the uncertainty of ``a``. A source
      language's own rows count among its shots.

    Languages don't influence each other. With "detect", their places among the activations
    (their means, in 64 random projections whitened within the source languages) give the
    probability of each, and of one that was never seen; the decision is the mixture of theirs.

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
    >>> X_sw = rng.normal(size=(200, 8)) + 2 * y[:, None] - 3   # shifted and squeezed
    >>> gate = LatentGate().fit(X, y, language=language)
    >>> gate.partial_fit(X_sw[:4], y[:4], language="sw").languages_
    array(['de', 'en', 'sw'], dtype=object)
    >>> gate.score(X_sw[4:], y[4:], language="de"), gate.score(X_sw[4:], y[4:], language="sw")
    (0.5, 1.0)
    >>> gate.predict_proba(X_sw[4:6], language="sw").round(1)
    array([[1., 0.],
           [0., 1.]])

    Harmless shots alone, or unlabelled prompts, move a boundary too; what was learned of
    a language can be forgotten, and merged with what another copy has learned:

    >>> from copy import deepcopy
    >>> harmless = X_sw[y == 0][:4]
    >>> one = deepcopy(gate).forget("sw").partial_fit(harmless, [0, 0, 0, 0], language="sw")
    >>> one.score(X_sw[4:], y[4:], language="sw")
    1.0
    >>> other = deepcopy(gate).forget("sw").adapt(X_sw + 1, language="yo")
    >>> other.score(X_sw + 1, y, language="yo")
    1.0
    >>> one.merge(other).languages_
    array(['de', 'en', 'sw', 'yo'], dtype=object)

    Which prompts to label next, and a threshold whose false alarms stay below a target:

    >>> y[gate.suggest(X_sw, language="sw", n=4)]
    array([0, 0, 1, 1])
    >>> many = deepcopy(gate).partial_fit(X_sw[4:104], y[4:104], language="sw")
    >>> point = many.operating_point("sw", target_fpr=0.1)
    >>> point.fpr_bound < 0.1, point.n_harmless
    (True, 52)
    >>> flagged = many.harm_score(X_sw[104:], language="sw") > point.threshold
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "rank": [Interval(Integral, 1, None, closed="left")],
        "C": [Interval(Real, 0, None, closed="neither")],
        "calibration": [StrOptions({"shrinkage", "refit", "threshold"}), None],
        "source_languages": ["array-like", None],
        "unknown_language": [StrOptions({"detect", "source", "error"})],
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
        unknown_language: str = "detect",
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
        with all_or_nothing(self):
            return self._fit(X, y, language, sample_weight, activation_source)

    def _fit(
        self,
        X: Any,
        y: Any,
        language: Any,
        sample_weight: Any,
        activation_source: ActivationSource | None,
    ) -> LatentGate:
        X, y, language, weight = self._check_rows(X, y, language, sample_weight, reset=True)
        self.classes_, self.harmful_label_ = find_classes(y, self.harmful_label)
        harmful = y == self.harmful_label_
        is_source = self._find_sources(language, len(X))
        sources = None if language is None else language[is_source]
        X_source = X if is_source.all() else X[is_source]
        source = learn_source(
            X_source, harmful[is_source], weight[is_source], sources, self.rank, self.C
        )
        self.direction_, self.basis_, self.rank_ = source.direction, source.basis, source.rank
        self.projection_gap_ = projection_gap(
            X_source @ self.direction_, source.rows.harmful, source.rows.weight
        )
        self.source_languages_ = np.array(
            [] if sources is None else list(source.groups), dtype=object
        )
        self.activation_source_ = activation_source or recall(X)
        boundary = 0.0 if self.calibration is None else source.boundary
        self._calibrator = Calibrator(
            method=self.calibration,
            C=self.C,
            source=source.rows,
            probe=source.probe,
            zero_shot=source.probe.lowered(boundary),
            prior=source.prior(self.C) if self.calibration == "shrinkage" else None,
        )
        self._detector = LanguageDetector(X_source, list(source.groups.values()), weight[is_source])
        self._source_evidence: dict[str | None, Evidence] = {
            name: Evidence(source.rows.take(rows), place=self._detector.place(*source.totals[name]))
            for name, rows in source.groups.items()
            if sources is not None
        }
        if sources is None:  # the one pooled source has a place, but no name
            self._source_evidence[None] = Evidence(place=self._detector.place(*source.totals[""]))
        self._evidence = dict(self._source_evidence)
        self._calibrations = {None: Calibration(self._calibrator.zero_shot)}
        self._calibrate(self._evidence)
        if is_source.all() or language is None:
            self._publish()
        else:
            rest = ~is_source
            shots = Rows(X[rest] @ self.basis_, harmful[rest], weight[rest])
            self._add(X[rest], shots, language[rest])
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
            if classes is not None:
                check_labels(classes, np.unique(y), "classes")
            return self.fit(X, y, language=language, sample_weight=sample_weight)
        X, y, language, weight = self._check_rows(X, y, language, sample_weight, reset=False)
        check_labels(classes, self.classes_, "classes")
        check_labels(y, self.classes_, "y")
        self._check_activations(X)
        with all_or_nothing(self):
            self._add(X, Rows(X @ self.basis_, y == self.harmful_label_, weight), language)
        return self

    def decision_function(self, X: Any, language: Any = None) -> Floats:
        """Score prompts; greater than 0 means ``classes_[1]``, in every language.

        Parameters
        ----------
        X : array-like of shape (n_prompts, d)
            Activations; with ``language_column``, one column more.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, one for all or one each. None: as ``unknown_language`` has it.

        Returns
        -------
        scores : ndarray of shape (n_prompts,)
            Log-odds towards ``classes_[1]``.

        Warns
        -----
        UserWarning
            If a language given was never seen; it names it. If languages are detected and more
            than a tenth of the prompts look like none that is known; it says how many.
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
        X, language = self._check_prompts(X, language)
        if language is not None:
            self._check_known(language)
        elif self._detects():
            self._warn_unseen(self._detected_languages(X))
        return self._score(X, language)

    def _score(self, X: Floats, language: Languages | None) -> Floats:
        """Score checked rows."""
        z = X @ self.basis_
        names = np.full(len(X), None, dtype=object) if language is None else language
        scores = np.empty(len(X))
        for name in set(names):
            rows = names == name
            if name in self._calibrations and (name is not None or not self._detects()):
                scores[rows] = self._calibrations[name].readout(z[rows])
            elif self._detects():
                scores[rows] = self._detected_score(X[rows])
            else:
                scores[rows] = self._calibrations[None].readout(z[rows])
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

    def _check_rows(
        self, X: Any, y: Any, language: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[Floats, npt.NDArray[Any], Languages | None, Floats]:
        """Check labelled rows and drop those of weight 0."""
        X, language = split_language(X, language, self.language_column)
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

    def _check_prompts(self, X: Any, language: Any) -> tuple[Floats, Languages | None]:
        """Check unlabelled rows and their languages."""
        X, language = split_language(X, language, self.language_column)
        X = self._check_features(X)
        return X, None if language is None else check_language(language, len(X))

    def _check_unlabelled(self, X: Any) -> Floats:
        """Check unlabelled rows whose languages are of no concern."""
        return self._check_features(split_language(X, None, self.language_column)[0])

    def _check_features(self, X: Any) -> Floats:
        X = validate_data(self, X, dtype=np.float64, reset=False)
        self._check_activations(X)
        checked: Floats = X
        return checked

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

    def _check_known(self, language: Languages) -> None:
        unknown = sorted(set(language) - set(self.languages_))
        if not unknown:
            return
        message = f"language {unknown} was never seen; known are {self.languages_.tolist()}."
        if self.unknown_language == "error":
            raise ValueError(
                f"{message} Calibrate it with partial_fit, or use unknown_language='source' or "
                "'detect'."
            )
        used = (
            "The languages known are mixed by how well the prompts fit them"
            if self._detects()
            else "The pooled source's boundary is used"
        )
        warnings.warn(
            f"{message} {used}, which may lie far off: calibrate it with partial_fit.",
            UserWarning,
            stacklevel=4,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags
