"""What a SteeringWrapper is built on: a gate, and the activations it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline, make_pipeline

from skgate.activations._transformer import ActivationTransformer
from skgate.gate._latent_gate import LatentGate


@dataclass(frozen=True)
class GatedModel:
    """A pipeline from prompts to decisions, taken apart.

    Attributes
    ----------
    pipeline : Pipeline
        From prompts (or rows with a prompt column and a language column) to decisions.
    transformer : ActivationTransformer
        Its step that reads the activations.
    gate : LatentGate
        Its last step.
    prompt_column : str, int or None
        Where ``X`` holds the prompts; None if ``X`` is the prompts.
    """

    pipeline: Pipeline
    transformer: ActivationTransformer
    gate: LatentGate
    prompt_column: str | int | None


def assemble(gate: Any, model: Any, tokenizer: Any, layer: Any) -> BaseEstimator:
    """Make the pipeline that a SteeringWrapper's parameters describe.

    Parameters
    ----------
    gate : Pipeline or LatentGate, or either in a FrozenEstimator
        The gate.
    model, tokenizer, layer
        For a gate without a pipeline: what its activations are read from.

    Returns
    -------
    pipeline : Pipeline, or one in a FrozenEstimator
        The same objects, not copied.
    """
    given = {"model": model, "tokenizer": tokenizer, "layer": layer}
    inner = gate.estimator if isinstance(gate, FrozenEstimator) else gate
    if isinstance(inner, Pipeline):
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} was given, but gate is a Pipeline whose "
                    f"ActivationTransformer says it already; expected {name}=None."
                )
        return gate
    if not isinstance(inner, LatentGate):
        raise TypeError(
            f"gate is a {type(inner).__name__}; expected a Pipeline that ends in a LatentGate, or "
            "a LatentGate with model and layer."
        )
    for name in ("model", "layer"):
        if given[name] is None:
            raise ValueError(f"{name} is None; expected one, since gate is a bare LatentGate.")
    return make_pipeline(ActivationTransformer(model, tokenizer=tokenizer, layer=layer), gate)


def take_apart(estimator: Any) -> GatedModel:
    """Find the steps of a pipeline that a model can be steered by.

    Parameters
    ----------
    estimator : Pipeline, or one in a FrozenEstimator
        An ActivationTransformer (alone or in a ColumnTransformer) directly followed by a
        LatentGate.

    Returns
    -------
    gated_model : GatedModel
        The pipeline's own objects, not copied.

    Raises
    ------
    ValueError
        If other steps stand between, so that the gate's direction is not one of the residual
        stream.
    """
    pipeline = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    steps = [step for _, step in pipeline.steps if step not in (None, "passthrough")]
    gate = steps[-1].estimator if isinstance(steps[-1], FrozenEstimator) else steps[-1]
    prompt_column = None
    reader = steps[0]
    if isinstance(reader, ColumnTransformer):
        columns = getattr(reader, "transformers_", reader.transformers)
        found = [(n, t, c) for n, t, c in columns if isinstance(t, ActivationTransformer)]
        if len(found) == 1:
            weight = (reader.transformer_weights or {}).get(found[0][0], 1)
            if weight != 1:
                raise ValueError(
                    f"transformer_weights of the ColumnTransformer scales {found[0][0]!r} by "
                    f"{weight!r}; expected 1: the gate's direction would not be one of the "
                    "residual stream."
                )
            _, reader, prompt_column = found[0]
            if isinstance(prompt_column, list) and len(prompt_column) == 1:
                prompt_column = prompt_column[0]
    if (
        len(steps) != 2
        or not isinstance(reader, ActivationTransformer)
        or not isinstance(gate, LatentGate)
    ):
        names = [type(step).__name__ for step in steps]
        raise ValueError(
            f"gate is a Pipeline of {names}; expected an ActivationTransformer (alone, or in a "
            "ColumnTransformer beside the language) directly followed by a LatentGate: with "
            "another step between, the gate's direction would not be one of the residual stream."
        )
    return GatedModel(pipeline, reader, gate, prompt_column)
