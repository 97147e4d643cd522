"""Checks of a gate's input, beyond scikit-learn's own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data

from skgate._base import _check_sample_weight, find_stack_level
from skgate._frames import to_plain
from skgate._labels import plain_labels, resolve_harmful_label
from skgate._validation import check_language
from skgate.gate._languages import Languages
from skgate.gate._subspace import Floats


def split_language(X: Any, language: Any, column: str | int | None) -> tuple[Any, Any]:
    """Split the language column from X, if there is one; a frame of any library is made pandas'."""
    X = to_plain(X)
    if column is None:
        _check_no_text(X)
        return X, language
    if language is not None:
        raise ValueError(
            f"Got language together with language_column={column!r}, which names the column of X "
            "that holds it, expected only one of them."
        )
    if hasattr(X, "iloc"):
        known = X.columns if isinstance(column, str) else range(-X.shape[1], X.shape[1])
        if column not in known:
            renamed = [name for name in X.columns if str(name).endswith(f"__{column}")]
            hint = (
                f" The last part of {renamed[0]!r} is the same: use this name, or "
                "ColumnTransformer(verbose_feature_names_out=False)."
                if renamed
                else ""
            )
            raise ValueError(
                f"Got language_column={column!r}, expected one of the {X.shape[1]} columns of X, "
                f"{X.columns[0]!r} to {X.columns[-1]!r}.{hint}"
            )
        name = column if isinstance(column, str) else X.columns[column]
        return X.drop(columns=name), X[name]
    if isinstance(column, str):
        raise ValueError(
            f"Got language_column={column!r}, but X is a {type(X).__name__} without column names, "
            "expected a DataFrame, which the steps before return after "
            "set_output(transform='pandas'), or an index such as -1."
        )
    if issparse(X):
        raise TypeError(
            f"Got a sparse X with language_column={column!r}, expected a dense array or a "
            "DataFrame, which can hold a language."
        )
    X = np.asarray(X, dtype=object)
    if X.ndim != 2 or not -X.shape[1] <= column < X.shape[1]:
        raise ValueError(
            f"Got language_column={column}, expected the index of a column of X, which has the "
            f"shape {X.shape}."
        )
    return np.delete(X, column, axis=1), X[:, column]


def _check_no_text(X: Any) -> None:
    """Raise a ValueError if text stands in the first row of X, the language for instance."""
    if hasattr(X, "columns"):
        for name, dtype in X.dtypes.items() if len(X) else ():
            if dtype.kind == "O" and isinstance(X[name].iloc[0], str):
                raise ValueError(
                    f"Got text in the column {name!r} of X, expected numbers. If it is the "
                    f"language, set language_column={name!r}."
                )
    elif isinstance(X, list | tuple | np.ndarray) and len(X) and isinstance(X[0], str):
        raise ValueError(
            "Got text as X, expected activations, which an ActivationTransformer makes of prompts."
        )


def check_rows(
    gate: Any, X: Any, y: Any, language: Any, sample_weight: Any, *, reset: bool
) -> tuple[Floats, npt.NDArray[Any], Languages | None, Floats]:
    """Check labelled rows and drop those of weight 0.

    Parameters
    ----------
    gate : LatentGate
        Its parameter ``language_column`` counts, and with ``reset`` it learns the width of ``X``
        and the names of its columns, which else are compared.
    X : array-like or frame of shape (n, d)
        Activations; with ``language_column``, one column more.
    y : array-like of shape (n,)
        Labels.
    language : str, array-like of str of shape (n,) or None
        Languages.
    sample_weight : array-like of shape (n,) or None
        Weights.
    reset : bool
        Whether the gate is being fitted.

    Returns
    -------
    X, y, language, weight : ndarrays of length n_rows
        The rows of positive weight; ``language`` may be None.

    Raises
    ------
    ValueError
        If something has another length, is missing or not finite, or no weight is positive.
    """
    X, language = split_language(X, language, gate.language_column)
    X, y = validate_data(gate, X, plain_labels(y), dtype=np.float64, reset=reset)
    language = None if language is None else check_language(language, len(X))
    weight = _check_sample_weight(
        to_plain(sample_weight), X, dtype=np.float64, ensure_non_negative=True
    )
    present = weight > 0
    if not present.any():
        raise ValueError("Got sample_weight=0 for every row, expected some positive weights.")
    if not present.all():
        X, y, weight = X[present], y[present], weight[present]
        language = None if language is None else language[present]
    return X, y, language, weight


def find_classes(y: npt.NDArray[Any], harmful_label: Any) -> tuple[npt.NDArray[Any], Any]:
    """Find the two classes, sorted, and which of them is harmful."""
    check_classification_targets(y)
    classes = np.unique(y)
    if len(classes) != 2:
        kind = type_of_target(y) if len(classes) > 2 else "one class"
        # The first sentence is what scikit-learn's estimator checks look for.
        raise ValueError(
            f"Only binary classification is supported. The type of the target is {kind}. Got y "
            f"with {len(classes)} class(es), {classes[:5].tolist()}, expected exactly 2 classes."
        )
    known = classes.tolist()
    return classes, classes[known.index(resolve_harmful_label(known, harmful_label))]


def check_first_labels(y: Any, classes: Any) -> None:
    """Check the labels of a first call of partial_fit, if it says which classes there are.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
        The labels.
    classes : array-like of shape (2,) or None
        The classes.

    Raises
    ------
    ValueError
        If the labels are of one class, or others than the classes.
    """
    if classes is None:
        return
    found = np.unique(plain_labels(y))
    if len(found) == 1:
        raise ValueError(
            f"Got {found.tolist()} alone in y, expected rows of both classes in the first call of "
            "partial_fit, which fits the gate."
        )
    check_labels(classes, found, "classes")


def check_labels(labels: Any, classes: npt.NDArray[Any], name: str) -> None:
    """Raise a ValueError for labels that the gate was not fitted on; None passes."""
    if labels is None:
        return
    unknown = sorted(set(np.asarray(to_plain(labels)).tolist()) - set(classes.tolist()), key=repr)
    if unknown:
        raise ValueError(f"Got {unknown} in {name}, expected labels out of {classes.tolist()}.")


def select_sources(
    language: npt.NDArray[np.object_] | None,
    source_languages: Sequence[str] | None,
    n_rows: int,
) -> npt.NDArray[np.bool_]:
    """Select the rows that a direction is learned from.

    Parameters
    ----------
    language : ndarray of str of shape (n_rows,) or None
        Languages of the rows.
    source_languages : sequence of str or None
        The source languages; None selects every row.
    n_rows : int
        The number of rows.

    Returns
    -------
    is_source : ndarray of bool of shape (n_rows,)
        True for rows of source languages.

    Raises
    ------
    ValueError
        If source languages are named, but no language is given or no row is in one of them.

    Warns
    -----
    UserWarning
        If no row is in some of the source languages.
    """
    if source_languages is None:
        return np.ones(n_rows, dtype=bool)
    sources = set(check_language(source_languages, len(source_languages), "source_languages"))
    given = f"Got source_languages={sorted(sources)}"
    if language is None:
        raise ValueError(f"{given} without language, expected the language of every row.")
    found = set(language)
    if not sources & found:
        raise ValueError(
            f"{given} and rows in {sorted(found)}, expected rows in at least one source language."
        )
    if sources - found:
        warnings.warn(
            f"{given}, but no row is in {sorted(sources - found)}: the direction is learned from "
            "the others.",
            UserWarning,
            stacklevel=find_stack_level(),
        )
    is_source: npt.NDArray[np.bool_] = np.isin(language.astype(str), sorted(sources))
    return is_source
