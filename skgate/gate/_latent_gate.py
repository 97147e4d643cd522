"""LatentGate: tell harmful from harmless prompts, with a decision boundary per language."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skgate._base import (
    Interval,
    StrOptions,
    VersionedPickle,
    _fit_context,
    set_module,
)
from skgate._docstrings import fill_docstring
from skgate._provenance import ActivationSource, recall
from skgate.gate._calibration import Calibrator, Evidence
from skgate.gate._decisions import harmful_sign
from skgate.gate._detector import LanguageDetector
from skgate.gate._input import (
    check_first_labels,
    check_labels,
    check_rows,
    find_classes,
    select_sources,
)
from skgate.gate._insights import LanguageInsights
from skgate.gate._languages import (
    NO_COPY,
    Language,
    LanguageBook,
    names_in,
    warn_idle,
    warn_uncertain,
    warn_untargeted,
    warn_weak,
)
from skgate.gate._probe import LabelledRows
from skgate.gate._probe_posterior import learn_posterior
from skgate.gate._shift_posterior import ShiftModel
from skgate.gate._source import learn_source, steered_columns
from skgate.gate._subspace import projection_gap

if TYPE_CHECKING:
    from sklearn.utils import Tags


@set_module("skgate")
class LatentGate(VersionedPickle, LanguageInsights):
    """Tell harmful from harmless prompts by their activations, with a boundary per language.

    A logistic probe, fitted on the source languages. A few labelled prompts of a language (shots)
    set its own decision boundary.

    Parameters
    ----------
    rank : int or None, default=None
        Dimensions that the probe reads. If None, all of them. An int is the largest number of
        dimensions of the harmfulness subspace [1]_, which the source languages' own directions
        span; the sources may allow fewer. The number that is used is ``rank_``.
    C : float or "auto", default="auto"
        Inverse strength of the probe's L2 regularization, as in
        :class:`~sklearn.linear_model.LogisticRegression`. "auto" chooses from 0.01, 0.1 and 1 by
        leaving out one source language at a time (see Notes).
    calibration : {"shrinkage", "refit", "threshold"} or None, default="shrinkage"
        How shots set a language's boundary (see Notes). "shrinkage" combines them with a prior
        learned from the source languages; "refit" is the calibration of [1]_; "threshold" applies
        the threshold rule of [1]_ to the source probe. None ignores shots, and leaves the pooled
        boundary where the logistic regression puts it.
    target_fpr : float or None, default=None
        Highest share of harmless prompts to call harmful. It applies to every language whose
        labelled prompts support it with 90 % confidence (``operating_points_``): 0.05 takes at
        least 45 harmless ones. :meth:`predict` and :class:`SteeringWrapper` follow; probabilities
        don't change. Other languages keep the balanced threshold, with a warning. If None, both
        errors are balanced.
    direction : {"mean_difference", "probe"}, default="mean_difference"
        What ``direction_`` is: the difference of the class means, as in [1]_, or the direction in
        which the probe's score grows.
    source_languages : list of str or None, default=None
        Languages that the direction is learned from. Rows of other languages given to ``fit``
        are shots. If None, every language given to ``fit`` is a source.
    unknown_language : {"detect", "source", "error"}, default="detect"
        How to decide about a language that was never seen. "detect" infers the languages from the
        activations (see Notes) and warns, "source" uses the pooled source's boundary and warns,
        "error" raises an error. If no language is given, "detect" warns only if more than a tenth
        of the prompts resemble no known language. "source" does not warn then, and "error" uses
        the pooled source's boundary.
    language_column : str, int or None, default=None
        Column of ``X`` that holds the language, by name or (in arrays) by index, used instead of
        the keyword ``language``.
    harmful_label : str, int, bool or None, default=None
        Label of harmful prompts. If None: "harmful" in upper or lower case, else the class beside
        "harmless", else 1 beside 0 or -1 (True beside False), else ``classes_[1]``, with a warning.

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
        Unit vector from harmless to harmful, along which prompts are steered. If the activations
        were read at several layers or positions, it is 0 except in the columns of the place where
        steering acts. That is the deepest layer and, of several positions, "last" or else the
        first.
    basis_ : ndarray of shape (d, r) or None
        Orthonormal basis of the harmfulness subspace; None if the probe reads all dimensions.
    rank_ : int
        Number of dimensions that the probe reads.
    C_ : float
        The probe's ``C``.
    log_loss_ : dict of float to float
        Mean log loss of left-out source languages for each value of ``C`` that was tried; empty if
        nothing was left out.
    coef_, intercept_ : ndarray of shape (1, d) and (1,)
        The decision function of the pooled source, which is all source languages taken together:
        ``X @ coef_.T + intercept_``. Without a language, :meth:`decision_function` equals it only
        with ``unknown_language="source"``.
    source_languages_ : ndarray of str
        The languages the direction was learned from, sorted; empty for one pooled source.
    languages_ : ndarray of shape (n_languages,)
        Source and calibrated languages, sorted.
    language_bias_, language_scale_ : ndarray of shape (n_languages,)
        The decision function of a language is ``scale * (pooled + bias)``, where ``pooled`` is that
        of the pooled source. "refit", and "shrinkage" with four shots of each class or more, change
        the coefficients too: ``pooled`` is then the score of the language's own probe. With
        "refit", the bias is the difference of the intercepts, and the scale is 1.
    bias_interval_ : ndarray of shape (n_languages, 2)
        90 % interval of the bias that is best for further prompts drawn like the language's shots;
        NaN if ``calibration`` is not "shrinkage".
    operating_points_ : dict of str or None to OperatingPoint
        The languages where ``target_fpr`` holds, with the bounds of both error rates and their
        confidence. Their thresholds, in log-odds, are already subtracted from :meth:`harm_score`:
        compare that with 0. None stands for prompts without a language.
    n_shots_ : ndarray of shape (n_languages, 2)
        Shots per language and class (columns follow ``classes_``), without source rows.
    n_unlabelled_ : ndarray of shape (n_languages,)
        Unlabelled prompts given to :meth:`adapt`.
    language_book_ : object
        Everything learned about each language, as an immutable object. It is internal to skgate
        and may change between versions.
    projection_gap_ : float
        The unit of steering strength. It is computed from the source rows' projections on
        ``direction_``: the 75 % quantile of the harmful ones minus the 25 % quantile of the
        harmless ones.
    activation_source_ : ActivationSource or None
        Where the activations were read, if they came straight from an
        :class:`ActivationTransformer` or if the source was passed to ``fit``.

    See Also
    --------
    ActivationTransformer : Makes the activations.
    skgate.metrics.language_report : Scores a gate per language.

    Notes
    -----
    The probe is a logistic regression with equally weighted classes, fitted to the standardized
    dimensions of the source rows. With an int as ``rank``, these are ``z = basis_.T @ h`` instead.
    Let ``u_l`` be the unit difference of class means in source language l; ``basis_`` then holds
    the first right singular vectors of the stacked ``u_l``, not centered.

    Thresholds and priors come from scores out of sample: each source language is scored by a probe
    that was fitted to the others. If there is one source language, each fifth of its rows is scored
    by a probe fitted to the rest. ``C="auto"`` is the smallest value whose log loss on these scores
    exceeds the lowest by no more than one standard error over the languages [2]_. The pooled
    source's boundary maximizes F1 of "harmful" on them, with both classes weighing the same (the
    balanced F1 threshold rule of [1]_).

    ``calibration`` says how shots set a language's boundary:

    - "threshold": the same rule on the language's shots. Needs both classes.
    - "refit": a probe fitted on source rows and the language's shots, then the same rule on the
      shots. Needs both classes.
    - "shrinkage": a language's scores on the source probe are assumed to lie around two means, one
      for each class. They have t distributions with 5 degrees of freedom and ``w`` times the
      spreads of the sources. The prior of the boundary between the means has a narrow and a broad
      part. The width of the narrow part is learned from how the source languages differ. The broad
      part is a t distribution with 3 degrees of freedom and 1.5 standard deviations wide. The
      narrow part weighs ``(4 + L) / (5 + L)`` for L source languages. The prior of the gap between
      the means is independent and has two parts of equal weight. One is narrow around the sources'
      gap, the other is anything from nothing to slightly more than it. Shots, of one class or both,
      update these priors on a grid; unlabelled prompts (:meth:`adapt`) do so by sampling. The
      boundary is where the expected error is lowest, both classes weighing the same. The decision
      function is the log-odds of two normals, averaged over the uncertainty of the boundary. A
      source language's own rows count as its shots. From four shots of each class on, the probe is
      adjusted as well. It maximizes the posterior of its coefficients, given the shots, each of
      which weighs half a source row. The prior is a normal distribution around the source probe:
      the Laplace approximation of their posterior given the source rows. The shots' scores are then
      those of probes that have not seen them, to first order [3]_. Languages with source rows or
      with unlabelled prompts keep the source probe.

    The recipe of [1]_ is ``LatentGate(rank=10, C=1.0, calibration="refit")`` on activations read
    at ``position="last"``. As there, ``rank=int`` with "refit" sets the pooled source's boundary
    by the scores of the rows that the probe was fitted to.

    Languages don't influence each other. "detect" compares a prompt with the mean of each
    language, in 64 random projections whitened within the source languages. This gives the
    probability of each known language and of an unseen one. The decision is the average of the
    languages' decisions, weighted by these probabilities.

    Shots are kept, as the features that the probe reads, so the result depends neither on their
    order nor on the number of calls.

    Parameters take effect in ``fit``. After ``set_params``, a fitted gate must be fitted again;
    only ``unknown_language`` and ``language_column`` take effect at once.

    References
    ----------
    .. [1] Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not
       Representation Failures", arXiv:2606.01196, 2026.
    .. [2] Breiman, Friedman, Olshen, Stone, "Classification and Regression Trees", 1984: the
       one-standard-error rule.
    .. [3] Rad, Maleki, "A Scalable Estimate of the Out-of-Sample Prediction Error via Approximate
       Leave-One-Out Cross-Validation", Journal of the Royal Statistical Society B 82, 2020.

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
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "rank": [Interval(Integral, 1, None, closed="left"), None],
        "C": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "calibration": [StrOptions({"shrinkage", "refit", "threshold"}), None],
        "target_fpr": [Interval(Real, 0, 1, closed="neither"), None],
        "direction": [StrOptions({"mean_difference", "probe"})],
        "source_languages": ["array-like", None],
        "unknown_language": [StrOptions({"detect", "source", "error"})],
        "language_column": [str, Integral, None],
        "harmful_label": "no_validation",
    }

    __metadata_request__fit: ClassVar = {"language": True}
    __metadata_request__partial_fit: ClassVar = {"language": True}

    def __init__(
        self,
        *,
        rank: int | None = None,
        C: float | str = "auto",
        calibration: str | None = "shrinkage",
        target_fpr: float | None = None,
        direction: str = "mean_difference",
        source_languages: Sequence[str] | None = None,
        unknown_language: str = "detect",
        language_column: str | int | None = None,
        harmful_label: Any = None,
    ) -> None:
        self.rank = rank
        self.C = C
        self.calibration = calibration
        self.target_fpr = target_fpr
        self.direction = direction
        self.source_languages = source_languages
        self.unknown_language = unknown_language
        self.language_column = language_column
        self.harmful_label = harmful_label

    @_fit_context(prefer_skip_nested_validation=True)
    @fill_docstring
    def fit(
        self,
        X: Any,
        y: Any,
        language: Any = None,
        sample_weight: Any = None,
        *,
        activation_source: ActivationSource | None = None,
    ) -> LatentGate:
        """Learn direction, subspace and probe from the sources, and calibrate on the shots.

        Parameters
        ----------
        {activations}
        y : array-like of shape (n_prompts,)
            Labels of two classes: bools, numbers or strings.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, one for all or one each. If None, there is one pooled source.
        {sample_weight}
        activation_source : ActivationSource or None, default=None
            Where ``X`` was read, if it didn't come straight from a transformer.

        Returns
        -------
        self : LatentGate
            The fitted gate.

        Raises
        ------
        ValueError
            If ``X`` is sparse or not finite, ``y`` does not have two classes or has missing labels,
            or ``language`` has another length. If no source language is among the rows, each of
            several source languages has one class only, or the class means are equal.

        Warns
        -----
        UserWarning
            If the labels don't tell which is harmful, or if the share of harmful rows differs so
            much between the source languages that ``direction_`` points from one to another.
        """
        # A failed fit leaves the gate unchanged: attributes are set at the end.
        stand_in = copy(self)
        X, y, language, weight = check_rows(stand_in, X, y, language, sample_weight, reset=True)
        classes, harmful_label = find_classes(y, self.harmful_label)
        harmful = y == harmful_label
        is_source = select_sources(language, self.source_languages, len(X))
        sources = None if language is None else language[is_source]
        X_source = X if is_source.all() else X[is_source]
        activation_source = activation_source or recall(X)
        source = learn_source(
            X_source,
            harmful[is_source],
            weight[is_source],
            sources,
            self,
            steered_columns(activation_source, X.shape[1]),
        )
        readout, zero_shot = source.fitted.readout, source.fitted.readout.probe
        if self.calibration is not None:
            zero_shot = zero_shot.with_threshold(source.boundary)
        by_shrinkage = self.calibration == "shrinkage"
        rows = LabelledRows(readout.features(X_source), source.harmful, source.weight)
        calibrator = Calibrator(
            method=self.calibration,
            C=source.fitted.C,
            source=rows if self.calibration == "refit" else None,
            probe=readout.probe,
            zero_shot=zero_shot,
            shifts=ShiftModel(source.prior()) if by_shrinkage else None,
            posterior=learn_posterior(rows, readout.probe, source.fitted.C)
            if by_shrinkage
            else None,
            target_fpr=self.target_fpr,
        )
        detector = LanguageDetector(X_source, list(source.groups.values()), weight[is_source])
        evidence: dict[Language, Evidence] = {}
        for name in source.groups:
            statistics = detector.summarize(*source.totals[name])
            if sources is None:  # the one pooled source has no name, and its rows are no shots
                evidence[None] = Evidence(unnamed=source.scores(name), statistics=statistics)
            else:
                evidence[name] = Evidence(source.scores(name), statistics=statistics)
        book = LanguageBook.from_sources(readout, calibrator, detector, evidence)
        if language is not None and not is_source.all():
            rest = ~is_source
            book = book.add(X[rest], harmful[rest], weight[rest], language[rest])
            warn_idle(book, names_in(language[rest]))
        warn_untargeted(book, evidence if language is None else book.languages)

        projections = X_source @ source.direction
        fitted = {
            **{name: value for name, value in vars(stand_in).items() if name.endswith("_in_")},
            "classes_": classes,
            "harmful_label_": harmful_label,
            "direction_": source.direction,
            "basis_": None if self.rank is None else readout.basis,
            "rank_": source.rank,
            "C_": source.fitted.C,
            "log_loss_": source.fitted.log_loss,
            "projection_gap_": projection_gap(projections, source.harmful, source.weight),
            "source_languages_": np.array(
                [] if sources is None else list(source.groups), dtype=object
            ),
            "activation_source_": activation_source,
            "language_book_": book,
            **book.describe(1 if classes[1] == harmful_label else -1),
        }
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(fitted)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    @fill_docstring
    def partial_fit(
        self,
        X: Any,
        y: Any,
        language: Any = None,
        classes: Any = None,
        sample_weight: Any = None,
    ) -> LatentGate:
        """Calibrate languages on shots, or fit an unfitted gate.

        The direction, the subspace and the other languages stay as they are.

        Parameters
        ----------
        {activations}
        y : array-like of shape (n_prompts,)
            Labels; one class alone is allowed.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the shots, one for all or one each. If None, the pooled source is
            calibrated. ``languages_`` and ``n_shots_`` don't list these shots, and ``forget(None)``
            removes them.
        classes : array-like of shape (2,), default=None
            The labels, as in scikit-learn's ``partial_fit``. They are checked, but never needed:
            the first call, which fits the gate, needs rows of both classes.
        {sample_weight}

        Returns
        -------
        self : LatentGate
            The gate itself.

        Raises
        ------
        ValueError
            If ``X`` has a different width from the gate's activations, or is known to come from
            another model, layer or position, or if a label or ``classes`` is not in ``classes_``.

        Examples
        --------
        A pipeline has no ``partial_fit``. Its other steps turn the shots into activations, and its
        last step learns from them:

        >>> from sklearn.pipeline import make_pipeline
        >>> from skgate import ActivationTransformer, LatentGate
        >>> from skgate.datasets import load_organism
        >>> organism = load_organism()
        >>> train = organism.prompts.query("split == 'train'").groupby(["language", "harmful"])
        >>> sources = train.head(16).query("tier == 'high'")
        >>> shots = train.head(4).query("language == 'qlf'")
        >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
        >>> pipe = make_pipeline(reader, LatentGate())
        >>> pipe = pipe.fit(sources["prompt"], sources["harmful"],
        ...                 latentgate__language=sources["language"])
        >>> X = pipe[:-1].transform(shots["prompt"])
        >>> pipe[-1].partial_fit(X, shots["harmful"], language="qlf").n_shots_[-1]
        array([4, 4])
        """
        if not hasattr(self, "classes_"):
            check_first_labels(y, classes)
            return self.fit(X, y, language=language, sample_weight=sample_weight)
        X, y, language, weight = check_rows(self, X, y, language, sample_weight, reset=False)
        check_labels(classes, self.classes_, "classes")
        check_labels(y, self.classes_, "y")
        self._check_source(X)
        book = self.language_book_.add(X, y == self.harmful_label_, weight, language)
        warn_idle(book, names_in(language))
        warn_untargeted(book, names_in(language))
        warn_weak(book, names_in(language))
        return _take(self, book)

    @fill_docstring
    def adapt(self, X: Any, language: Any = None) -> LatentGate:
        """Adjust the boundaries of languages to unlabelled prompts.

        There are two models of the prompts: all are harmless, or harmless and harmful ones are
        mixed in an unknown share. The boundary is the average of both models' boundaries, weighted
        by the probability of each (see Notes of the class). Shots count as well. Earlier unlabelled
        prompts are kept, so give each prompt once. More than 512 prompts of a language count as
        512.

        The method may fail if the classes overlap: prompts that are nearly all harmless, or nearly
        all harmful, then look much like a mixture around another boundary. The benchmarks show how
        large the errors are. A few shots of both classes are safer.

        Parameters
        ----------
        {activations}
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, one for all or one each. If None, the pooled source is
            adapted.

        Returns
        -------
        self : LatentGate
            The gate itself.

        Raises
        ------
        ValueError
            If ``calibration`` is not "shrinkage"; only this one learns from unlabelled prompts.

        Warns
        -----
        UserWarning
            If probably none of a language's prompts is harmful, or if the sampling did not
            converge, for instance because the prompts do not form two classes.

        Examples
        --------
        >>> import numpy as np
        >>> from skgate import LatentGate
        >>> rng = np.random.default_rng(0)
        >>> y = np.tile([0, 1], 100)
        >>> X = rng.normal(size=(200, 8)) + 4 * y[:, None]
        >>> X_yo = rng.normal(size=(200, 8)) + 2 * y[:, None] - 2   # shifted and squeezed
        >>> gate = LatentGate().fit(X, y, language=np.repeat(["de", "en"], 100))
        >>> gate.score(X_yo, y, language="en"), gate.adapt(X_yo, "yo").score(X_yo, y, "yo")
        (0.5, 1.0)
        """
        check_is_fitted(self)
        if self.language_book_.calibrator.shifts is None:
            raise ValueError(
                f"Got calibration={self.language_book_.calibrator.method!r}, expected 'shrinkage': "
                "only this one learns from unlabelled prompts."
            )
        X, language = self._check_prompts(X, language)
        book = self.language_book_.adapt(X, language)
        warn_uncertain(book, names_in(language))
        return _take(self, book)

    def forget(self, language: Any) -> LatentGate:
        """Forget the shots and the unlabelled prompts of languages.

        What was learned from the source rows of a source language is kept.

        Parameters
        ----------
        language : str, list of str or None
            The languages to forget. None forgets what was learned without a language.

        Returns
        -------
        self : LatentGate
            The gate itself.

        Raises
        ------
        ValueError
            If nothing was learned about a language beyond its source rows.
        """
        check_is_fitted(self)
        names = [language] if language is None or isinstance(language, str) else list(language)
        return _take(self, self.language_book_.forget(names))

    def merge(self, other: LatentGate) -> LatentGate:
        """Combine two copies of a fitted gate that were calibrated on different languages.

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
            If the gates were fitted on different source rows or with different parameters, or if
            both were calibrated on the same language with different prompts.

        Examples
        --------
        >>> import numpy as np
        >>> from copy import deepcopy
        >>> from skgate import LatentGate
        >>> rng = np.random.default_rng(0)
        >>> y = np.tile([0, 1], 100)
        >>> X = rng.normal(size=(200, 8)) + 4 * y[:, None]
        >>> gate = LatentGate().fit(X, y, language=np.repeat(["de", "en"], 100))
        >>> one = deepcopy(gate).partial_fit(X[:4] - 3, y[:4], language="sw")
        >>> other = deepcopy(gate).partial_fit(X[4:8] - 2, y[4:8], language="yo")
        >>> one.merge(other).languages_
        array(['de', 'en', 'sw', 'yo'], dtype=object)
        >>> one.merge(other).forget("sw").languages_
        array(['de', 'en', 'yo'], dtype=object)
        """
        check_is_fitted(self)
        if type(other) is not type(self):
            raise TypeError(f"Got other of type {type(other).__name__}, expected a LatentGate.")
        check_is_fitted(other)
        same_labels = (
            self.unknown_language == other.unknown_language
            and np.array_equal(self.classes_, other.classes_)
            and self.harmful_label_ == other.harmful_label_
        )
        if not same_labels:
            raise ValueError(NO_COPY)
        return _take(deepcopy(self), self.language_book_.merge(other.language_book_))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _take(gate: LatentGate, book: LanguageBook) -> LatentGate:
    """Set the language book of a gate, and the attributes that are computed from it."""
    gate.__dict__.update(book.describe(harmful_sign(gate)), language_book_=book)
    return gate
