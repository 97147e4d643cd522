"""Checks of what a LatentGate is given, beyond scikit-learn's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from skgate._validation import resolve_harmful_label


def split_language(X: Any, language: Any, column: str | int | None) -> tuple[Any, Any]:
    """Take the language out of its column of X, if it is there."""
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


def find_classes(y: npt.NDArray[Any], harmful_label: Any) -> tuple[npt.NDArray[Any], Any]:
    """Find the two classes, sorted, and which of them is harmful."""
    check_classification_targets(y)
    classes = np.unique(y)
    if len(classes) != 2:
        kind = type_of_target(y) if len(classes) > 2 else "one class"
        raise ValueError(
            "Only binary classification is supported. The type of the target is "
            f"{kind}. y has {len(classes)} class(es): {classes[:5].tolist()}; expected exactly 2 "
            "classes."
        )
    known = classes.tolist()
    return classes, classes[known.index(resolve_harmful_label(known, harmful_label))]


def check_labels(labels: Any, classes: npt.NDArray[Any], name: str) -> None:
    """Raise if there are labels that the gate was not fitted on; None is none."""
    if labels is None:
        return
    unknown = sorted(set(np.asarray(labels).tolist()) - set(classes.tolist()), key=repr)
    if unknown:
        raise ValueError(f"{name} contains {unknown}, expected labels out of {classes.tolist()}.")
