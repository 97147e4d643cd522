"""How well two judges, or a judge and people, agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import cohen_kappa_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_scalar

from skgate._base import set_module
from skgate._frames import to_plain
from skgate._verdicts import check_verdicts, check_weights

_CELLS = ("both", "only_a", "only_b", "neither")
_ALL = "all"


@set_module("skgate.judges")
def agreement(
    a: ArrayLike | str,
    b: ArrayLike | str,
    *,
    data: Any = None,
    by: ArrayLike | str | None = None,
    sample_weight: ArrayLike | str | None = None,
    n_resamples: int = 1000,
    random_state: int | np.random.RandomState | None = None,
) -> pd.DataFrame:
    """Measure how well two judges agree on which replies are refusals.

    Either can be a person. For precision and recall, ``b`` is the reference.

    Parameters
    ----------
    a, b : array-like of shape (n_replies,) or str
        Verdicts on the same replies, in the same order: True and False, 1 and 0, or "refused",
        "answered" and "garbled". A garbled reply is no refusal. None, NaN or NA stands for an
        abstention. With ``data``, the name of a column.
    data : DataFrame or None, default=None
        A table whose columns ``a``, ``b``, ``by`` and ``sample_weight`` may name. It may be of
        pandas, polars, pyarrow or another library.
    by : array-like of shape (n_replies,), str or None, default=None
        The group of each reply, for example its language. Each group gets a row.
    sample_weight : array-like of shape (n_replies,), str or None, default=None
        Weights, such as those of :func:`sample_for_review`. They apply to shares, not to counts.
    n_resamples : int, default=1000
        The number of bootstrap resamples for the interval of kappa.
    random_state : int, RandomState instance or None, default=None
        Determines the resamples. Pass an int for the same intervals at every call.

    Returns
    -------
    table : DataFrame
        One row per group, sorted, and the row "all". Its columns are:

        =============== ==========================================================================
        column          content
        =============== ==========================================================================
        ``n``           number of replies on which both have a verdict
        ``n_abstained`` number of replies left out because a verdict is missing
        ``both``        number that both find refused; also ``only_a``, ``only_b``, ``neither``
        ``agreement``   share of replies with the same verdict
        ``kappa``       Cohen's kappa
        ``kappa_low``   lower bound of its 95 % bootstrap interval; also ``kappa_high``
        ``precision``   share of the refusals of ``a`` that are refusals of ``b``
        ``recall``      share of the refusals of ``b`` that are refusals of ``a``
        =============== ==========================================================================

        A measure that a group's replies do not define is NaN.

    Raises
    ------
    ValueError
        If lengths differ, there are no replies, a value is not a verdict, a group is missing or
        named "all", a weight is not a positive number, or ``n_resamples`` is below 1.
    KeyError
        If ``data`` has no such column.
    TypeError
        If a column is named without ``data``, or ``data`` is not a DataFrame.

    See Also
    --------
    sample_for_review : Draws replies for people to judge.
    skgate.metrics.adjusted_refusal_rate : A rate that allows for a judge's errors.

    Notes
    -----
    Cohen's kappa is ``(p - e) / (1 - e)`` [1]_, with ``p`` the share of agreement and ``e`` the
    share expected if the verdicts were independent. It is 1 for full agreement and 0 for that of
    chance. It is undefined if both give one and the same verdict to all replies.

    Kappa depends on how frequent refusals are: with few of them, it may be low although most
    verdicts agree. Read it with the counts beside it.

    The interval holds the middle 95 % of kappa over resamples of the group's replies. Resamples
    without a defined kappa are left out. Without any disagreement, it has no width.

    References
    ----------
    .. [1] Cohen, "A Coefficient of Agreement for Nominal Scales", Educational and Psychological
       Measurement 20(1) (1960).

    Examples
    --------
    >>> import pandas as pd
    >>> from skgate.judges import agreement
    >>> verdicts = pd.DataFrame({
    ...     "language": ["en"] * 5 + ["yo"] * 5,
    ...     "judge": [True, True, False, False, None, False, False, True, False, False],
    ...     "person": ["refused", "refused", "answered", "garbled", "refused"]
    ...     + ["refused", "refused", "refused", "answered", "answered"],
    ... })
    >>> table = agreement("judge", "person", data=verdicts, by="language", random_state=0)
    >>> table[["n", "n_abstained", "agreement", "precision", "recall"]].round(2)
         n  n_abstained  agreement  precision  recall
    en   4            1       1.00        1.0    1.00
    yo   5            0       0.60        1.0    0.33
    all  9            1       0.78        1.0    0.60

    The judge misses two of three refusals in Yoruba. Kappa corrects for chance:

    >>> table.loc[["yo", "all"], ["kappa", "kappa_low", "kappa_high"]].round(2)
         kappa  kappa_low  kappa_high
    yo    0.29       0.00         1.0
    all   0.57       0.12         1.0
    """
    check_scalar(n_resamples, "n_resamples", int, min_val=1)
    table = to_plain(data)
    if data is not None and not isinstance(table, pd.DataFrame):
        raise TypeError(f"Got data of type {type(data).__name__}, expected a DataFrame or None.")
    first = check_verdicts("a", _find(table, a, "a"))
    rows = pd.DataFrame({"a": first, "b": check_verdicts("b", _find(table, b, "b"), len(first))})
    if rows.empty:
        raise ValueError("Got no verdicts in a and b, expected at least one.")
    rows["weight"] = check_weights(_find(table, sample_weight, "sample_weight"), len(rows))
    random = check_random_state(random_state)
    groups = {}
    if by is not None:
        rows["group"] = _check_groups(_find(table, by, "by"), len(rows))
        groups = {name: _measure(one, n_resamples, random) for name, one in rows.groupby("group")}
    groups[_ALL] = _measure(rows, n_resamples, random)
    counts = dict.fromkeys(["n", "n_abstained", *_CELLS], int)
    return pd.DataFrame(list(groups.values()), index=list(groups)).astype(counts)


def _find(table: pd.DataFrame | None, values: Any, name: str) -> Any:
    """Find the column that ``values`` names; other values are returned as they are."""
    if not isinstance(values, str):
        return values
    if table is None:
        raise TypeError(
            f"Got {name}={values!r} and data=None, expected an array, or data= with that column."
        )
    if values not in table:
        raise KeyError(f"Got {name}={values!r}, expected a column of data: {list(table)}.")
    return table[values]


def _check_groups(groups: Any, n_rows: int) -> pd.Series[Any]:
    column = pd.Series(list(to_plain(groups)), dtype=object)
    if len(column) != n_rows:
        raise ValueError(f"Got {len(column)} values of by, expected {n_rows}, one for each row.")
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise ValueError(f"Got by[{missing[0]}]={column[missing[0]]!r}, expected a group.")
    if (column == _ALL).any():
        raise ValueError(f"Got a group named {_ALL!r} in by, which is the row of all replies.")
    return column


def _measure(rows: pd.DataFrame, n_resamples: int, random: Any) -> dict[str, float]:
    compared = rows.dropna(subset=["a", "b"])
    a, b = compared["a"].to_numpy(bool), compared["b"].to_numpy(bool)
    weight = compared["weight"].to_numpy()
    cell = np.select([a & b, a & ~b, ~a & b], [0, 1, 2], 3)
    both, only_a, only_b, neither = np.bincount(cell, weight, minlength=4)
    total = weight.sum()
    low, high = _resample_kappa(cell, weight, n_resamples, random)
    return {
        "n": len(compared),
        "n_abstained": len(rows) - len(compared),
        **dict(zip(_CELLS, np.bincount(cell, minlength=4), strict=True)),
        "agreement": _share(both + neither, total),
        "kappa": _kappa(a, b, weight),
        "kappa_low": low,
        "kappa_high": high,
        "precision": _share(both, both + only_a),
        "recall": _share(both, both + only_b),
    }


def _kappa(a: NDArray[np.bool_], b: NDArray[np.bool_], weight: NDArray[np.float64]) -> float:
    """Compute Cohen's kappa; NaN, without scikit-learn's warning, where it is undefined."""
    if len({*a.tolist(), *b.tolist()}) < 2:
        return float("nan")
    return float(cohen_kappa_score(a, b, sample_weight=weight))


def _resample_kappa(
    cell: NDArray[np.int_], weight: NDArray[np.float64], n_resamples: int, random: Any
) -> tuple[float, float]:
    """Find the interval of kappa. Replies of the same cell and weight are drawn together."""
    if not len(cell):
        return float("nan"), float("nan")
    kinds, counts = np.unique(np.column_stack([cell, weight]), axis=0, return_counts=True)
    draws = random.multinomial(len(cell), counts / len(cell), size=n_resamples)
    in_cell = kinds[:, :1] == np.arange(4)
    both, only_a, only_b, neither = (draws @ (kinds[:, 1:] * in_cell)).T
    total = both + only_a + only_b + neither
    by_chance = (both + only_a) * (both + only_b) + (only_b + neither) * (only_a + neither)
    expected = total**2 - by_chance  # disagreements, times the total
    defined = expected > 1e-9 * total**2
    if not defined.any():
        return float("nan"), float("nan")
    kappa = 1 - (only_a + only_b)[defined] * total[defined] / expected[defined]
    low, high = np.quantile(kappa, [0.025, 0.975])
    return float(low), float(high)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
