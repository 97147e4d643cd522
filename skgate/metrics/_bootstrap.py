"""Bootstrap intervals of the measures in a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skgate.metrics._resampled import measure_resamples

_CELLS = 500_000  # drawn rows held at a time: a few megabytes per array


def bootstrap_intervals(
    rows: pd.DataFrame,
    report: pd.DataFrame,
    measures: Sequence[str],
    tiers: Mapping[str, str],
    rates: Mapping[str, float],
    confidence_level: float,
    n_resamples: int,
    random: Any,
) -> pd.DataFrame:
    """Find percentile intervals of the measures in a report.

    Parameters
    ----------
    rows : DataFrame
        The validated rows of the report.
    report : DataFrame
        The report.
    measures : sequence of str
        Its measures.
    tiers : mapping of str to str
        The tier of each language.
    rates : mapping of str to float
        The rate of each measure ``tpr_at_fpr_<rate>``.
    confidence_level : float
        The level of the intervals.
    n_resamples : int
        The number of resamples.
    random : RandomState
        What draws them.

    Returns
    -------
    intervals : DataFrame
        ``<measure>_low`` and ``<measure>_high`` of each row of the report; NaN for the spread.
    """
    measured = _resample_report(rows, tiers, rates, n_resamples, random)
    bounds = {}
    for group, name in report.index:
        key = ("language" if group == "worst" else group, name)
        if key in measured:
            values = measured[key].reindex(columns=list(measures))
            bounds[group, name] = _interval(values, confidence_level)
    columns = [f"{name}_{side}" for name in measures for side in ("low", "high")]
    return pd.DataFrame(bounds, dtype=float).T.reindex(index=report.index, columns=columns)


def _resample_report(
    rows: pd.DataFrame,
    tiers: Mapping[str, str],
    rates: Mapping[str, float],
    n_resamples: int,
    random: Any,
) -> dict[tuple[str, str], pd.DataFrame]:
    """Measure resamples of each language, each tier and all rows: one row per resample."""
    languages = {
        str(name): _resample(group, rates, n_resamples, random)
        for name, group in rows.groupby("language")
    }
    measured = {("language", name): values for name, values in languages.items()}
    measured["overall", "all"] = _resample(rows, rates, n_resamples, random)
    for tier in dict.fromkeys(tiers.values()):
        members = [values for name, values in languages.items() if tiers.get(name) == tier]
        if members:  # the mean in each resample, over the languages that define a measure
            measured["tier", tier] = pd.concat(members).groupby(level=0).mean()
    return measured


def _resample(
    rows: pd.DataFrame, rates: Mapping[str, float], n_resamples: int, random: Any
) -> pd.DataFrame:
    batches = [
        pd.DataFrame(measure_resamples(rows, draws, rates), index=range(len(draws[True])))
        for draws in _draw(rows["y_true"].to_numpy(), n_resamples, random)
    ]
    return pd.concat(batches, ignore_index=True)


def _interval(measured: pd.DataFrame, confidence_level: float) -> pd.Series[float]:
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(measured.to_numpy(float), [tail, 1 - tail], axis=0)
    bounds = {}
    for name, lower, upper in zip(measured.columns, low, high, strict=True):
        bounds[f"{name}_low"], bounds[f"{name}_high"] = lower, upper
    return pd.Series(bounds, dtype=float)


def _draw(
    harmful: NDArray[np.bool_], n_resamples: int, random: Any
) -> Iterator[dict[bool, NDArray[np.int_]]]:
    """Yield batches of resamples: of each class, the rows drawn, as (n_draws, n_rows_of_class)."""
    classes = {label: np.flatnonzero(harmful == label) for label in (True, False)}
    per_batch = max(1, _CELLS // len(harmful))
    for start in range(0, n_resamples, per_batch):
        n_draws = min(per_batch, n_resamples - start)
        yield {
            label: rows[random.randint(max(len(rows), 1), size=(n_draws, len(rows)))]
            for label, rows in classes.items()
        }
