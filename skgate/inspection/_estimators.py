"""The estimators that Displays accept: one or several, gates alone or in pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skgate._frames import to_plain
from skgate._validation import check_language
from skgate.gate._input import split_language
from skgate.gate._latent_gate import LatentGate


class OpenedGate(NamedTuple):
    """A fitted gate and the rows that it reads.

    Attributes
    ----------
    gate : LatentGate
        A copy that takes languages by keyword, even if the original reads them from a column.
    X : array-like of shape (n, d)
        Activations.
    language : ndarray of str of shape (n,) or None
        Languages.
    """

    gate: LatentGate
    X: Any
    language: npt.NDArray[np.object_] | None


def by_name(values: Any, name: str = "estimator") -> dict[str, Any]:
    """Name one value or several.

    Parameters
    ----------
    values : object, list, or mapping of str to object
        The values. In a list, they are named by their class and a number from 1 on.
    name : str, default="estimator"
        The parameter's name in error messages.

    Returns
    -------
    named : dict of str to object
        At least one value.
    """
    if isinstance(values, list | tuple):
        values = {f"{type(item).__name__} {i}": item for i, item in enumerate(values, 1)}
    elif not isinstance(values, Mapping):
        values = {type(values).__name__: values}
    if not values:
        raise ValueError(f"Got an empty {name}, expected one, or a mapping of name to each.")
    return {str(key): value for key, value in values.items()}


def open_gate(estimator: Any, X: Any, language: Any) -> OpenedGate:
    """Find the gate of an estimator, and compute the rows that the gate reads.

    Parameters
    ----------
    estimator : LatentGate, Pipeline that ends in one, or SteeringWrapper
        A fitted estimator.
    X : array-like
        The rows that the estimator predicts from.
    language : str, array-like of str of shape (n,) or None
        Languages, unless they are a column of ``X``.

    Returns
    -------
    opened : OpenedGate
        A copy of the gate, the rows and the languages.
    """
    last, X = _thaw(estimator), to_plain(X)
    if not isinstance(last, LatentGate | Pipeline):
        from skgate.steering import SteeringWrapper
        from skgate.steering._pipeline import find_fitted_parts

        if isinstance(last, SteeringWrapper):
            last = find_fitted_parts(last).pipeline
    if isinstance(last, Pipeline):
        X = last[:-1].transform(X) if len(last.steps) > 1 else X
        last = _thaw(last[-1])
    if not isinstance(last, LatentGate):
        raise TypeError(
            f"Got an estimator of type {type(estimator).__name__}, expected a LatentGate, a "
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
