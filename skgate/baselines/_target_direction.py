"""TargetDirection: direction and threshold of each language from its own labelled prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skgate._base import Interval, SharedModelMixin, _fit_context, set_module
from skgate._docstrings import fill_docstring
from skgate._frames import find_index, to_plain
from skgate.gate._input import check_labels
from skgate.metrics._checks import check_same_length, one_per_row
from skgate.model._fingerprint import digest
from skgate.steering import SteeringWrapper
from skgate.steering._pipeline import SteeringParts, assemble, find_fitted_parts
from skgate.steering._router import gate_version
from skgate.steering._sweeps import find_selectivity

if TYPE_CHECKING:
    from sklearn.utils import Tags

Rows = npt.NDArray[Any]

# Parameters that are passed on to the wrapper of each language.
_PASSED = (
    "strength",
    "on_harmful",
    "on_harmless",
    "judge",
    "generate_kwargs",
    "batch_tokens",
    "verbose",
)


@set_module("skgate.baselines")
@fill_docstring
class TargetDirection(SharedModelMixin, ClassifierMixin, BaseEstimator):
    """Steer each language by a gate that learned from this language's labelled prompts alone.

    It is the baseline for learning from source languages: a direction and a threshold from a few
    labelled prompts of one language are noisy. Every language is steered by a
    :class:`~skgate.SteeringWrapper` of its own, with this language as its only source.

    Parameters
    ----------
    gate : Pipeline or LatentGate
        What each language's gate is a clone of, as in :class:`~skgate.SteeringWrapper`. Its
        ``source_languages`` are ignored.
    model : str, path, PreTrainedModel or None, default=None
        The model, if ``gate`` is a LatentGate alone, as in :class:`~skgate.SteeringWrapper`.
    tokenizer : str, path, PreTrainedTokenizerBase or None, default=None
        The tokenizer, if ``gate`` is a LatentGate alone.
    layer : int or None, default=None
        The layer, if ``gate`` is a LatentGate alone.
    strength : float, default=1.0
        Steering strength, in units of the ``projection_gap_`` of each language's own gate.
    {steering_actions}
    {steering_run}

    Attributes
    ----------
    wrappers_ : dict of str to SteeringWrapper
        The fitted wrapper of each language.
    rows_ : dict of str to (list or DataFrame, ndarray)
        The labelled prompts of each language so far, and their labels. A pickle contains them.
    languages_ : ndarray of shape (n_languages,)
        The languages that have a gate, sorted.
    classes_ : ndarray of shape (2,)
        The labels, sorted.

    See Also
    --------
    skgate.SteeringWrapper : Has one direction, learned from the source languages.
    SharedThreshold : One direction and one threshold.

    Notes
    -----
    For language l, direction ``v_l``, probe, threshold and ``projection_gap_`` are those of
    ``gate`` fitted on the rows of l. With ``direction="mean_difference"``, ``v_l`` is the unit
    difference of the class means, called v_LRL in [1]_ for low-resource languages. The edits are
    those of :class:`~skgate.SteeringWrapper`.

    ``fit`` on the source languages gives each of them a gate; other languages learn nothing from
    it. Rows of both classes are needed, and a language must be given with every prompt.

    References
    ----------
    .. [1] Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not
       Representation Failures", arXiv:2606.01196, 2026.

    Examples
    --------
    With four shots per class of the invented language qlb, the source languages help:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skgate import ActivationTransformer, LatentGate, SteeringWrapper
    >>> from skgate.baselines import TargetDirection
    >>> from skgate.datasets import load_organism
    >>> organism = load_organism()
    >>> train = organism.prompts.query("split == 'train'")
    >>> sources = train.query("tier == 'high'").groupby(["language", "harmful"]).head(20)
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> pipeline = make_pipeline(reader, LatentGate())
    >>> shots = train.query("language == 'qlb'").groupby("harmful").sample(4, random_state=0)
    >>> val = organism.prompts.query("split == 'val' and language == 'qlb'")
    >>> for kind in (TargetDirection, SteeringWrapper):
    ...     one = kind(pipeline, strength=0.7)
    ...     one = one.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    ...     one = one.partial_fit(shots["prompt"], shots["harmful"], language="qlb")
    ...     right = one.predict(val["prompt"], language="qlb") == val["harmful"]
    ...     print(kind.__name__, right.mean().round(2))
    TargetDirection 0.83
    SteeringWrapper 0.96
    """

    wrappers_: dict[str, SteeringWrapper]
    rows_: dict[str, tuple[Any, Rows]]

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SteeringWrapper._parameter_constraints,  # noqa: SLF001  (scikit-learn's convention)
        "strength": [Interval(Real, 0, None, closed="left")],
    }

    _shared_params: ClassVar = ("model", "tokenizer", "judge")

    __metadata_request__fit: ClassVar = {"language": True}
    __metadata_request__partial_fit: ClassVar = {"language": True}
    __metadata_request__predict: ClassVar = {"language": True}
    __metadata_request__predict_proba: ClassVar = {"language": True}
    __metadata_request__decision_function: ClassVar = {"language": True}
    __metadata_request__score: ClassVar = {"language": True}

    def __init__(
        self,
        gate: Any,
        *,
        model: Any = None,
        tokenizer: Any = None,
        layer: int | None = None,
        strength: float = 1.0,
        on_harmful: str | None = "add",
        on_harmless: str | None = "ablate",
        judge: Any = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        batch_tokens: int | str = "auto",
        verbose: bool = False,
    ) -> None:
        self.gate = gate
        self.model = model
        self.tokenizer = tokenizer
        self.layer = layer
        self.strength = strength
        self.on_harmful = on_harmful
        self.on_harmless = on_harmless
        self.judge = judge
        self.generate_kwargs = generate_kwargs
        self.batch_tokens = batch_tokens
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    @fill_docstring
    def fit(self, X: Any, y: Any, language: Any = None) -> TargetDirection:
        """Fit a gate for each language on its rows; earlier languages are forgotten.

        Parameters
        ----------
        {pipeline_X}
        y : array-like of shape (n_prompts,)
            Labels of two classes.
        {language_or_column}

        Returns
        -------
        self : TargetDirection
            The fitted estimator.

        Raises
        ------
        ValueError
            If no languages are given, if the rows of a language are of one class, or if the gate
            is frozen.
        """
        labels = one_per_row("y", y)
        classes = np.unique(labels)
        if len(classes) != 2:
            raise ValueError(
                f"Got y with {len(classes)} class(es), {classes[:5].tolist()}, expected exactly 2 "
                "classes."
            )
        self._learn(X, labels, language, {}, {})
        self.classes_ = classes
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    @fill_docstring
    def partial_fit(
        self, X: Any, y: Any, language: Any = None, classes: Any = None
    ) -> TargetDirection:
        """Add rows, and fit the gate of each of their languages on all its rows so far.

        Parameters
        ----------
        {pipeline_X}
        y : array-like of shape (n_prompts,)
            Labels.
        {language_or_column}
        classes : array-like of shape (2,), default=None
            The labels, as in :meth:`LatentGate.partial_fit`.

        Returns
        -------
        self : TargetDirection
            The estimator itself.

        Raises
        ------
        ValueError
            If no languages are given, or if all rows of a language so far are of one class.
        """
        labels = one_per_row("y", y)
        if not hasattr(self, "classes_"):
            check_labels(classes, np.unique(labels), "classes")
            return self.fit(X, y, language)
        check_labels(classes, self.classes_, "classes")
        check_labels(labels, self.classes_, "y")
        self._learn(X, labels, language, self.rows_, self.wrappers_)
        return self

    @fill_docstring
    def predict(self, X: Any, language: Any = None) -> Rows:
        """Predict the decisions of the languages' gates without generating anything.

        Parameters
        ----------
        {pipeline_X}
        {language_or_column}

        Returns
        -------
        labels : ndarray of shape (n_prompts,)
            Labels out of ``classes_``.
        """
        return self._each(SteeringWrapper.predict, X, language)

    @fill_docstring
    def predict_proba(self, X: Any, language: Any = None) -> Rows:
        """Predict the probability of each label without generating anything.

        Parameters
        ----------
        {pipeline_X}
        {language_or_column}

        Returns
        -------
        probabilities : ndarray of shape (n_prompts, 2)
            As :meth:`LatentGate.predict_proba` returns them; columns follow ``classes_``.
        """
        return self._each(SteeringWrapper.predict_proba, X, language)

    @fill_docstring
    def decision_function(self, X: Any, language: Any = None) -> Rows:
        """Score prompts without generating; greater than 0 means ``classes_[1]``.

        Parameters
        ----------
        {pipeline_X}
        {language_or_column}

        Returns
        -------
        scores : ndarray of shape (n_prompts,)
            As :meth:`LatentGate.decision_function` returns them.
        """
        return self._each(SteeringWrapper.decision_function, X, language)

    @fill_docstring
    def generate(
        self,
        prompts: Any,
        language: Any = None,
        *,
        return_decisions: bool = False,
        **generate_kwargs: Any,
    ) -> Any:
        """Generate steered replies, each language by its own gate.

        Parameters
        ----------
        {pipeline_prompts}
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, one for all or one each, unless they are a column of
            ``prompts``. Each must have a gate.
        return_decisions : bool, default=False
            Whether to return the gates' decisions too.
        {generate_kwargs}

        Returns
        -------
        replies : list of str, or list of list of str with several return sequences
            In the order of the prompts, without special tokens.
        decisions : DataFrame of length n_prompts
            Only with ``return_decisions=True``, as :meth:`skgate.SteeringWrapper.generate` returns
            it. The ``gate_version`` is one for all languages: a hash of the versions of all gates.

        Raises
        ------
        ValueError
            If a language has no gate, or as :meth:`skgate.SteeringWrapper.generate` does.
        """
        self._validate_params()
        groups = self._split(prompts, language)
        n_prompts = sum(len(group.rows) for group in groups)
        replies: list[Any] = [None] * n_prompts
        tables = []
        for group in groups:
            options = self._renumber(generate_kwargs, group.rows)
            found, table = self._wrapper(group.name).generate(
                group.X, group.language, return_decisions=True, **options
            )
            for row, reply in zip(group.rows, found, strict=True):
                replies[row] = reply
            tables.append(table.set_axis(group.rows))
        if not return_decisions:
            return replies
        decisions = pd.concat(tables).sort_index().assign(gate_version=self._gate_version())
        index = find_index(prompts)
        return replies, decisions.set_axis(pd.RangeIndex(n_prompts) if index is None else index)

    @fill_docstring
    def score(self, X: Any, y: Any, language: Any = None) -> float:
        """Compute the selectivity of the replies, averaged over the languages.

        Parameters
        ----------
        {pipeline_X}
        y : array-like of shape (n_prompts,)
            True labels.
        {language_or_column}

        Returns
        -------
        selectivity : float
            Between -1 and 1; 1 if exactly the harmful prompts are refused.

        See Also
        --------
        skgate.metrics.refusal_selectivity : The measure.
        """
        replies = self.generate(X, language)
        items, languages = self._template().split(X, language)
        parts = find_fitted_parts(next(iter(self.wrappers_.values())))
        harmful_label = parts.gate.harmful_label_
        return find_selectivity(self.judge, items, replies, y, languages, harmful_label)

    def _template(self) -> SteeringParts:
        """Find the parts of the pipeline that each language's is a clone of."""
        pipeline = assemble(self)
        parts = SteeringParts.from_pipeline(pipeline)
        for part in (pipeline, parts.pipeline.steps[-1][1]):
            if isinstance(part, FrozenEstimator):
                raise ValueError(
                    "Got a FrozenEstimator as gate, expected a gate that can be fitted: "
                    "TargetDirection fits a clone of it for each language."
                )
        return parts

    def _wrapper(self, name: str) -> SteeringWrapper:
        """Return the wrapper of a language, with the parameters as they are now."""
        passed = {param: getattr(self, param) for param in _PASSED}
        return copy(self.wrappers_[name]).set_params(**passed)

    def _gate_version(self) -> str:
        """Hash the versions of the gates of all languages into 12 hexadecimal digits."""
        gates = {
            name: gate_version(find_fitted_parts(self.wrappers_[name]).gate)
            for name in self.languages_
        }
        return digest(gates)[:12]

    def _learn(
        self,
        X: Any,
        y: Rows,
        language: Any,
        rows: Mapping[str, tuple[Any, Rows]],
        wrappers: Mapping[str, SteeringWrapper],
    ) -> None:
        """Add rows to those of their languages, and fit these anew; a failure changes nothing."""
        parts = self._template()
        groups = _group(parts, X, language)
        check_same_length({"X": np.concatenate([group.rows for group in groups]), "y": y})
        rows, wrappers = dict(rows), dict(wrappers)
        for group in groups:
            prompts, labels = group.X, y[group.rows]
            if group.name in rows:
                before, labels_before = rows[group.name]
                labels = np.concatenate([labels_before, labels])
                is_list = isinstance(prompts, list)
                prompts = before + prompts if is_list else pd.concat([before, prompts])
            if len(np.unique(labels)) < 2:
                raise ValueError(
                    f"Got rows of one class only, {np.unique(labels).tolist()}, for language "
                    f"{group.name!r}, expected rows of both classes: its direction and its "
                    "threshold are learned from its own rows."
                )
            pipeline = clone(parts.pipeline)
            SteeringParts.from_pipeline(pipeline).gate.set_params(source_languages=None)
            wrapper = SteeringWrapper(
                pipeline, **{param: getattr(self, param) for param in _PASSED}
            )
            wrappers[group.name] = wrapper.fit(prompts, labels, language=group.language)
            rows[group.name] = prompts, labels
        self.wrappers_ = wrappers
        self.rows_ = rows
        self.languages_ = np.array(sorted(rows), dtype=object)

    def _split(self, X: Any, language: Any) -> list[_Group]:
        """Split prompts by language; raise an error for languages without a gate."""
        check_is_fitted(self)
        groups = _group(self._template(), X, language)
        unknown = [group.name for group in groups if group.name not in self.wrappers_]
        if unknown:
            raise ValueError(
                f"Got language {unknown}, of which there are no labelled prompts, expected one of "
                f"{self.languages_.tolist()}. Pass rows of both classes to partial_fit."
            )
        return groups

    def _each(self, method: Callable[..., Rows], X: Any, language: Any) -> Rows:
        """Call a method of each language's wrapper, and put the results in order."""
        groups = self._split(X, language)
        found = [method(self._wrapper(one.name), one.X, one.language) for one in groups]
        order = np.argsort(np.concatenate([one.rows for one in groups]))
        return np.concatenate(found)[order]

    def _renumber(self, generate_kwargs: Mapping[str, Any], rows: Rows) -> Mapping[str, Any]:
        """Make options that give a callback a prompt's place in the call, not in its language."""
        name = "prefix_allowed_tokens_fn"
        allowed = {**(self.generate_kwargs or {}), **generate_kwargs}.get(name)
        if allowed is None:
            return generate_kwargs
        return {**generate_kwargs, name: lambda row, tokens: allowed(int(rows[row]), tokens)}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


class _Group(NamedTuple):
    """The prompts of a language in a call: their places, and how the wrapper takes them."""

    name: str
    rows: Rows
    X: Any  # a list, or a DataFrame if the pipeline takes one
    language: str | None  # None if the gate reads it from a column of X


def _group(parts: SteeringParts, X: Any, language: Any) -> list[_Group]:
    """Group prompts by language; raise an error if they have none."""
    items, languages = parts.split(X, language)
    if languages is None:
        raise ValueError(
            "Got language=None, expected the language of each prompt: TargetDirection has a gate "
            "for each language and none for prompts without."
        )
    frame = None if parts.prompt_column is None else to_plain(X)
    groups = []
    for name in sorted(set(languages)):
        rows = np.flatnonzero(languages == name)
        taken = [items[row] for row in rows] if frame is None else frame.iloc[rows]
        in_column = parts.gate.language_column is not None
        groups.append(_Group(name, rows, taken, None if in_column else name))
    return groups
