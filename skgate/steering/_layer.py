"""The layer at which steering makes a model's own refusals likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import clone

from skgate._provenance import list_places
from skgate._validation import check_language, check_layers, check_prompts
from skgate.steering._own_refusals import find_own_refusals
from skgate.steering._pipeline import find_parts, steered_part
from skgate.steering._strength import check_found, find_harmful, measure_strengths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skgate.gate._latent_gate import LatentGate
    from skgate.steering._pipeline import SteeringParts, SweepParams

Floats = npt.NDArray[np.float64]


def search_layer(
    wrapper: SweepParams, prompts: Any, y: Any, language: Any, layers: Sequence[int] | str
) -> pd.DataFrame:
    """Measure how likely the model's own refusals become by steering at one layer at a time.

    The parameters are those of :meth:`skgate.SteeringWrapper.select_layer`, after the wrapper.
    """
    parts = find_parts(wrapper)
    reader = parts.open_reader()
    wanted = sorted(check_layers(layers, len(reader.language_model.blocks), "layers"))
    items = check_prompts(prompts, "prompts")
    languages = None if language is None else check_language(language, len(items))
    refusals, strengths, values = None, [], []
    for layer, gate in fit_each_layer(parts, wanted, prompts, y, language):
        if refusals is None:
            harmful = find_harmful(gate, items, y)
            refusals = find_own_refusals(wrapper, reader, items, harmful, languages)
        direction = steered_part(gate, list_places([layer], reader.positions))
        curve = measure_strengths(refusals, layer, direction, max(gate.projection_gap_, 0))
        strengths.append(curve.strengths[curve.best])
        values.append(curve.log_likelihoods[:, curve.best])
    check_found(max(strengths) > 0, int(harmful.sum()))
    table = pd.DataFrame(
        {"layer": wanted, "strength": strengths, "log_likelihood": np.mean(values, axis=1)}
    )
    table.attrs["layer"] = wanted[middle_of_plateau(np.array(values))]
    return table


def fit_each_layer(
    parts: SteeringParts, layers: Sequence[int], prompts: Any, y: Any, language: Any
) -> Iterator[tuple[int, LatentGate]]:
    """Fit a clone of the gate at each layer; all layers take one forward pass.

    Parameters
    ----------
    parts : SteeringParts
        The parts of a wrapper's pipeline.
    layers : sequence of int
        The layers.
    prompts, y, language
        As in :meth:`skgate.SteeringWrapper.select_layer`.

    Yields
    ------
    layer : int
        One of the layers.
    gate : LatentGate
        The gate fitted there.
    """
    transformer = clone(parts.transformer).set_params(layer=list(layers))
    activations = np.split(transformer.transform(prompts), len(layers), axis=1)
    gate = clone(parts.gate).set_params(language_column=None)
    for layer, X in zip(layers, activations, strict=True):
        yield layer, clone(gate).fit(X, y, language=language)


def middle_of_plateau(values: Floats) -> int:
    """Find the middle of the run of layers that are as good as the best one.

    A layer is as good if it falls short of the best one by at most a standard error of the mean
    difference: ties do not depend on chance, and neighbours of the chosen layer are good too.

    Parameters
    ----------
    values : ndarray of shape (n_layers, n_prompts)
        What each layer reaches on each prompt, in the order of the layers.

    Returns
    -------
    place : int
        The layer's place; of two in the middle, the first.
    """
    best = int(values.mean(axis=1).argmax())
    short = values[best] - values
    n_prompts = values.shape[1]
    error = short.std(axis=1, ddof=1) / np.sqrt(n_prompts) if n_prompts > 1 else 0.0
    as_good = short.mean(axis=1) <= error
    first = last = best
    while first > 0 and as_good[first - 1]:
        first -= 1
    while last < len(values) - 1 and as_good[last + 1]:
        last += 1
    return (first + last) // 2
