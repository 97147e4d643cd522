"""What the Displays take: one estimator or several, gates alone or in pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skgate._validation import check_language
from skgate.gate._input import split_language
from skgate.gate._latent_gate import LatentGate


class OpenedGate(NamedTuple):
    """A fitted gate and the rows it reads.

    Attributes
    ----------
    gate : LatentGate
        The gate; it takes languages by keyword, whatever the original does.
    X : array-like of shape (n, d)
        Activations.
    language : ndarray of str of shape (n,) or None
        Languages.
    """

    gate: LatentGate
    X: Any
    language: npt.NDArray[np.object_] | None


def by_name(values: Any, name: str = "estimator") -> dict[str, Any]:
    """Give one or several values names.

    A mapping has them; those of a list are its items' classes, numbered.
    """
    if isinstance(values, list | tuple):
        values = {f"{type(item).__name__} {i}": item for i, item in enumerate(values, 1)}
    elif not isinstance(values, Mapping):
        values = {type(values).__name__: values}
    if not values:
        raise ValueError(f"Got an empty {name} but expected one, or a mapping of name to each.")
    return {str(key): value for key, value in values.items()}


def open_gate(estimator: Any, X: Any, language: Any) -> OpenedGate:
    """Take the gate out of an estimator, and give it what it reads of ``X``.

    Parameters
    ----------
    estimator : LatentGate, Pipeline that ends in one, or SteeringWrapper
        A fitted estimator.
    X : array-like
        What it predicts from.
    language : str, array-like of str of shape (n,) or None
        Languages, unless they are a column of ``X``.
    """
    last = _thaw(estimator)
    if not isinstance(last, LatentGate | Pipeline):
        from skgate.steering._wrapper import SteeringWrapper

        if isinstance(last, SteeringWrapper):
            last = last._fitted().pipeline
    if isinstance(last, Pipeline):
        X = last[:-1].transform(X) if len(last.steps) > 1 else X
        last = _thaw(last[-1])
    if not isinstance(last, LatentGate):
        raise TypeError(
            f"Got an estimator of type {type(estimator).__name__} but expected a LatentGate, a "
            "Pipeline that ends in one, or a SteeringWrapper."
        )
    check_is_fitted(last)
    X, language = split_language(X, language, last.language_column)
    if language is not None:
        language = check_language(language, len(X))
    return OpenedGate(copy(last).set_params(language_column=None), X, language)


def _thaw(estimator: Any) -> Any:
    return _thaw(estimator.estimator) if isinstance(estimator, FrozenEstimator) else estimator


def take_rows(X: Any, rows: npt.NDArray[Any]) -> Any:
    """Select rows of an array or DataFrame."""
    return X.iloc[rows] if hasattr(X, "iloc") else np.asarray(X)[rows]
