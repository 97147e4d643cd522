"""SharedThreshold: the gate with one threshold for all languages."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from skgate._base import set_module
from skgate._docstrings import fill_docstring
from skgate._validation import check_language
from skgate.gate._input import split_language
from skgate.steering import SteeringWrapper
from skgate.steering._pipeline import SteeringParts, find_fitted_parts

if TYPE_CHECKING:
    from skgate.gate._latent_gate import LatentGate
    from skgate.steering._router import Router
    from skgate.steering._wrapper import Rows


@set_module("skgate.baselines")
@fill_docstring
class SharedThreshold(SteeringWrapper):
    """Steer by a gate that has one threshold for all languages.

    It is the baseline for thresholds per language: harm direction, prior and edits are those of
    :class:`~skgate.SteeringWrapper`, but languages are ignored when the gate decides. They are
    still used by ``fit``, to learn from several source languages, and by ``score``, to average
    over languages. ``generate`` reports them as they were given.

    Parameters
    ----------
    {steering_gate}
    {steering_strength}
    {steering_actions}
    {steering_run}

    Attributes
    ----------
    {steering_attributes}

    See Also
    --------
    skgate.SteeringWrapper : Has a threshold for each language.

    Notes
    -----
    After ``fit``, the threshold is that of the pooled sources: the one of a
    :class:`~skgate.LatentGate` with ``unknown_language="source"`` that is given no language.
    ``partial_fit`` pools the shots of all languages and calibrates this threshold on them, by the
    gate's ``calibration``. Shots that ``fit`` finds among its rows (see the gate's
    ``source_languages``), and those of a gate that is passed fitted, are pooled as well. The
    gate's ``unknown_language`` is ignored: nothing is detected, and no language is unknown.
    Thresholds per language, which this is the baseline for, are from [1]_.

    References
    ----------
    .. [1] Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not
       Representation Failures", arXiv:2606.01196, 2026.

    Examples
    --------
    Four shots per class of each of eight languages set one threshold, or eight:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skgate import ActivationTransformer, LatentGate, SteeringWrapper
    >>> from skgate.baselines import SharedThreshold
    >>> from skgate.datasets import load_organism
    >>> organism = load_organism()
    >>> train = organism.prompts.query("split == 'train'")
    >>> sources = train.query("tier == 'high'").groupby(["language", "harmful"]).head(20)
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> pipeline = make_pipeline(reader, LatentGate())
    >>> shots = train.query("tier != 'high'").groupby(["language", "harmful"]).head(4)
    >>> val = organism.prompts.query("split == 'val' and tier != 'high'")
    >>> val = val.groupby(["language", "harmful"]).head(12)
    >>> for kind in (SharedThreshold, SteeringWrapper):
    ...     one = kind(pipeline, strength=0.7)
    ...     one = one.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    ...     one = one.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    ...     right = one.predict(val["prompt"], language=val["language"]) == val["harmful"]
    ...     print(kind.__name__, right.mean().round(2))
    SharedThreshold 0.95
    SteeringWrapper 0.97
    """

    def _calibrate(self, parts: SteeringParts, X: Any, y: Any, language: Any, classes: Any) -> None:
        gate, rows = _share(parts, X, language)
        gate.partial_fit(rows, y, classes=classes)
        learned = {name: value for name, value in vars(gate).items() if name.endswith("_")}
        parts.gate.__dict__.update(learned)

    def _read(self, X: Any, language: Any) -> tuple[LatentGate, Any, Any]:
        gate, rows = _share(find_fitted_parts(self), X, language)
        return gate, rows, None

    def _deciding_gate(self, parts: SteeringParts) -> LatentGate:
        return share_threshold(parts.gate)

    def _router(self, parts: SteeringParts, languages: Rows | None, n_prompts: int) -> Router:
        router = super()._router(parts, None, n_prompts)
        router.begin(languages, n_prompts)  # to report them: none of them has its own threshold
        return router


def _share(parts: SteeringParts, X: Any, language: Any) -> tuple[LatentGate, Any]:
    """Make the gate that decides, and the rows that it reads, which have no language."""
    rows, language = split_language(parts.activations(X), language, parts.gate.language_column)
    if language is not None:
        check_language(language, len(rows))
    return share_threshold(parts.gate), rows


def share_threshold(gate: LatentGate) -> LatentGate:
    """Copy a fitted gate; the copy has one threshold, learned from the shots of all languages."""
    shared = copy(gate)
    shared.set_params(unknown_language="source", language_column=None)
    shared.language_book_ = gate.language_book_.pooled()
    return shared
