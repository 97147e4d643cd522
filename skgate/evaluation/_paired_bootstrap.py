"""Refusal rates of several models on the same resampled prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

_CELLS = 2_000_000  # counts held at a time: 16 megabytes

Rates = NDArray[np.float64]


def measure(rows: pd.DataFrame) -> Rates:
    """Compute the refusal rates of each model and language.

    Parameters
    ----------
    rows : DataFrame
        Columns ``model``, ``language``, ``harmful`` and ``unit`` with codes from 0, and
        ``refused``, NaN for abstentions.

    Returns
    -------
    rates : ndarray of shape (1, 2, n_models, n_languages)
        The share refused of harmless and of harmful prompts; NaN without any.
    """
    refused, judged, shape = _count_by_unit(rows)
    sums = [np.asarray(counts.sum(axis=0)).reshape(1, *shape) for counts in (refused, judged)]
    return _divide(sums[0], sums[1])


def resample(rows: pd.DataFrame, n_resamples: int, random: Any) -> Rates:
    """Compute the refusal rates of resamples, each with the same prompts for every model.

    Units are drawn with replacement among those of the same class that occur in the same languages.

    Parameters
    ----------
    rows : DataFrame
        As in :func:`measure`. A unit is of one class.
    n_resamples : int
        The number of resamples.
    random : RandomState
        What draws them.

    Returns
    -------
    rates : ndarray of shape (n_resamples, 2, n_models, n_languages)
        As :func:`measure` returns them.
    """
    refused, judged, shape = _count_by_unit(rows)
    totals = np.zeros((2, n_resamples, refused.shape[1]))
    for units in _find_strata(rows):
        held = np.unique(judged[units].indices)
        counted = np.stack([counts[units][:, held].toarray() for counts in (refused, judged)])
        shares = np.full(len(units), 1 / len(units))
        n_at_once = max(1, _CELLS // len(units))
        for start in range(0, n_resamples, n_at_once):
            stop = min(start + n_at_once, n_resamples)
            drawn = random.multinomial(len(units), shares, size=stop - start).astype(float)
            totals[:, start:stop, held] += drawn @ counted
    totals = totals.reshape(2, n_resamples, *shape)
    return _divide(totals[0], totals[1])


def draw_languages(n_languages: int, n_resamples: int, random: Any) -> NDArray[np.int_]:
    """Draw languages with replacement, one fewer than there are, for each resample.

    The variance of the mean of ``n - 1`` draws is ``s**2 / n``, where ``s**2`` is the sample
    variance with divisor ``n - 1``: the unbiased estimate of that of the mean over languages.

    Parameters
    ----------
    n_languages : int
        At least 2.
    n_resamples : int
        The number of resamples.
    random : RandomState
        What draws them.

    Returns
    -------
    languages : ndarray of int of shape (n_resamples, n_languages - 1)
        Their codes.
    """
    return random.randint(n_languages, size=(n_resamples, n_languages - 1))


def average_languages(rates: Rates, languages: NDArray[np.int_] | None) -> Rates:
    """Average over the languages that define a rate.

    Parameters
    ----------
    rates : ndarray of shape (n_resamples, ..., n_languages)
        What to average.
    languages : ndarray of int of shape (n_resamples, n_drawn) or None
        The languages drawn for each resample. If None, each once.

    Returns
    -------
    means : ndarray of shape (n_resamples, ...)
        NaN if no language defines the rate.
    """
    if languages is not None:
        places = languages.reshape(len(rates), *[1] * (rates.ndim - 2), -1)
        rates = np.take_along_axis(rates, places, axis=-1)
    defined = ~np.isnan(rates)
    return _divide(np.where(defined, rates, 0).sum(axis=-1), defined.sum(axis=-1))


def _count_by_unit(rows: pd.DataFrame) -> tuple[Any, Any, tuple[int, int, int]]:
    """Count refusals and verdicts, as sparse matrices of shape (n_units, n_cells).

    The cells are (class, model, language), whose numbers come third.
    """
    shape = (2, int(rows["model"].max()) + 1, int(rows["language"].max()) + 1)
    places = tuple(rows[name].to_numpy() for name in ("harmful", "model", "language"))
    judged = rows["refused"].notna().to_numpy()
    at = rows["unit"].to_numpy()[judged], np.ravel_multi_index(places, shape)[judged]
    size = int(rows["unit"].max()) + 1, int(np.prod(shape))
    verdicts = rows["refused"].to_numpy(float)[judged]
    return csr_matrix((verdicts, at), size), csr_matrix((np.ones(len(verdicts)), at), size), shape


def _find_strata(rows: pd.DataFrame) -> list[NDArray[np.intp]]:
    """List the units of each class and set of languages."""
    pairs = (
        rows[["unit", "harmful", "language"]].drop_duplicates().sort_values(["unit", "language"])
    )
    kinds = pairs.groupby(["unit", "harmful"])["language"].agg(tuple).reset_index()
    strata = kinds.groupby(["harmful", "language"]).indices.values()
    return [kinds["unit"].to_numpy()[places] for places in strata]


def _divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> Rates:
    empty = denominator == 0
    return np.where(empty, np.nan, numerator / np.where(empty, 1, denominator))
