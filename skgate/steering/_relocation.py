"""Point a fitted estimator at a model in another place."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from skgate._base import find_stack_level, set_module
from skgate._provenance import ActivationSource, check_same_source
from skgate.activations._reader import open_reader
from skgate.activations._transformer import ActivationTransformer
from skgate.gate._latent_gate import LatentGate
from skgate.model._loading import LOADING_DEFAULTS
from skgate.steering._pipeline import find_parts
from skgate.steering._wrapper import SteeringWrapper


@set_module("skgate")
def relocate(estimator: Any, model: Any, *, tokenizer: Any = None) -> Any:
    """Copy a fitted estimator and point the copy at its model in another place.

    Use it for a saved gate whose model folder has moved, or that was fitted on another machine.
    The model must be the same: it is compared with the one that the gate was fitted on.

    Parameters
    ----------
    estimator : Pipeline, SteeringWrapper or ActivationTransformer
        The estimator, also in a FrozenEstimator. A Pipeline may hold its ActivationTransformer in
        a ColumnTransformer. It is not changed.
    model : str, path or PreTrainedModel
        Where the model is now: an id, a folder or a live model, as in
        :class:`ActivationTransformer`.
    tokenizer : str, path, PreTrainedTokenizerBase or None, default=None
        Where its tokenizer is now. If None, it is loaded from the new place of the model. A live
        model needs a live tokenizer.

    Returns
    -------
    moved : estimator
        A copy that uses the model in the new place. With a folder or an id, ``dtype``, ``device``,
        ``revision`` and ``model_kwargs`` are those of ``estimator``: if one of them doesn't suit
        the new place, call ``set_params`` before. With a live model, they have their defaults.

    Raises
    ------
    TypeError
        If ``estimator`` has no model.
    ValueError
        If the model, the tokenizer or its chat template differ from those that the gate was fitted
        on, or if ``estimator`` has several models.
    OSError
        If there is no model in the new place.

    Warns
    -----
    UserWarning
        If there is nothing to compare the model with.

    See Also
    --------
    ActivationTransformer.activation_source : Describes what is compared.
    release_models : Frees the memory of models that are no longer used.

    Notes
    -----
    The model in the new place is loaded and compared with the ``activation_source_`` of the gate.
    If there is no such gate, as for an ActivationTransformer alone, it is compared with the model
    in the old place. If that is gone too, nothing is compared, and a warning says so.

    Examples
    --------
    A pipeline is fitted on a live model. Its copy reads the same model from a folder:

    >>> import skgate, tempfile
    >>> from sklearn.pipeline import make_pipeline
    >>> from skgate import ActivationTransformer, LatentGate
    >>> from skgate.datasets import load_organism
    >>> organism = load_organism()
    >>> train = organism.prompts.query("split == 'train' and language == 'en'")
    >>> train = train.groupby("harmful").head(30)
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> pipeline = make_pipeline(reader, LatentGate()).fit(train["prompt"], train["harmful"])
    >>> folder = tempfile.TemporaryDirectory()
    >>> organism.model.save_pretrained(folder.name)
    >>> files = organism.tokenizer.save_pretrained(folder.name)
    >>> moved = skgate.relocate(pipeline, folder.name)
    >>> pipeline.score(train["prompt"], train["harmful"])
    1.0
    >>> moved.score(train["prompt"], train["harmful"])
    1.0
    >>> folder.cleanup()
    """
    moved = deepcopy(estimator)
    readers = list(_find(moved, ActivationTransformer))
    wrappers = list(_find(moved, SteeringWrapper))
    if not readers and not any(wrapper.model is not None for wrapper in wrappers):
        raise TypeError(
            f"Got a {type(estimator).__name__}, expected an estimator with a model: a Pipeline, a "
            "SteeringWrapper or an ActivationTransformer."
        )
    places = list(dict.fromkeys(os.fspath(r.model) for r in readers if _is_place(r.model)))
    if len(places) > 1:
        raise ValueError(f"Got an estimator with the models {places}, expected one model.")
    old = deepcopy(readers)
    for reader in readers:
        reader.set_params(model=model, tokenizer=tokenizer)
        if not _is_place(model):
            reader.set_params(**LOADING_DEFAULTS)
    for wrapper in wrappers:
        if wrapper.model is not None:
            wrapper.set_params(model=model, tokenizer=tokenizer)
    compared = list(_pair(moved, wrappers))
    for reader, fitted_on in compared:
        check_same_source(fitted_on, open_reader(reader).source())
    if not compared:
        for reader, before in zip(readers, old, strict=True):
            _compare(before, reader)
        for wrapper in wrappers:
            open_reader(find_parts(wrapper).transformer)
    return moved


def _find(thing: Any, kind: type, seen: set[int] | None = None) -> Iterator[Any]:
    """Find the estimators of a class inside an estimator, a list or a dict, each once."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, kind):
        yield thing
    parts: Any = ()
    if isinstance(thing, BaseEstimator):
        parts = vars(thing).values()
    elif isinstance(thing, dict):
        parts = thing.values()
    elif isinstance(thing, list | tuple):
        parts = thing
    for part in parts:
        yield from _find(part, kind, seen)


def _pair(
    estimator: Any, wrappers: list[SteeringWrapper]
) -> Iterator[tuple[ActivationTransformer, ActivationSource]]:
    """Pair each reader with the sources that the gates behind it were fitted on, where known."""
    pipelines = list(_find(estimator, Pipeline))
    pipelines += [find_parts(wrapper).pipeline for wrapper in wrappers]
    done = set()
    for pipeline in pipelines:
        readers = list(_find(pipeline.steps, ActivationTransformer))
        for gate in _find(pipeline.steps, LatentGate):
            source = getattr(gate, "activation_source_", None)
            # A fitted ColumnTransformer uses the last one, its clone
            if source is not None and readers and id(gate) not in done:
                done.add(id(gate))
                yield readers[-1], source


def _compare(before: ActivationTransformer, after: ActivationTransformer) -> None:
    """Compare two readers, if the model of the first is still there."""
    found = open_reader(after)
    try:
        known = open_reader(before)
    except FileNotFoundError as error:
        warnings.warn(
            f"The model in the new place, {found.language_model.name!r}, was not compared with "
            f"another one: no fitted gate says which it must be. {error}",
            UserWarning,
            stacklevel=find_stack_level(),
        )
        return
    check_same_source(known.source(), found.source(), "the model in the old place")


def _is_place(model: Any) -> bool:
    return isinstance(model, str | os.PathLike)
