"""The checks of results that models are compared by."""

from __future__ import annotations

import pandas as pd

from skgate._verdicts import check_verdicts
from skgate.metrics._checks import one_bool_per_row, one_per_row

ALL = "all"  # the name of the mean over languages
_NEEDED = ("model", "id", "language", "harmful", "refused")


def check_results(results: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Check that all models have answered the same prompts.

    Parameters
    ----------
    results : DataFrame
        What :func:`skgate.evaluation.evaluate_refusal` returns.
    reference : str
        One of its models.

    Returns
    -------
    rows : DataFrame
        Columns ``model``, ``id``, ``language`` (None in all rows if not known), ``harmful`` (bool),
        ``group`` (the id if there are no groups) and ``refused`` (float), in the same order.

    Raises
    ------
    ValueError
        See :func:`skgate.evaluation.compare`.
    """
    missing = [name for name in _NEEDED if name not in results]
    if missing or not len(results):
        raise ValueError(
            f"Got results with {len(results)} rows and the columns {list(results)}, expected at "
            f"least one row, and the columns {list(_NEEDED)}."
        )
    rows = pd.DataFrame(
        {
            "model": one_per_row("results['model']", results["model"]),
            "id": one_per_row("results['id']", results["id"]),
            "language": _check_languages(results["language"]),
            "harmful": one_bool_per_row("results['harmful']", results["harmful"]),
            "refused": check_verdicts("results['refused']", results["refused"]),
        }
    )
    rows["group"] = one_per_row(
        "results['group']", results["group" if "group" in results else "id"]
    )
    models = rows["model"].unique().tolist()
    if reference not in models:
        raise ValueError(f"Got reference={reference!r}, expected one of the models {models}.")
    twice = rows[rows.duplicated(["model", "id"])]
    if len(twice):
        raise ValueError(
            f"Got several rows with model={twice['model'].iloc[0]!r} and "
            f"id={twice['id'].iloc[0]!r} in results, expected one."
        )
    asked = {name: group.set_index("id") for name, group in rows.groupby("model", sort=False)}
    for name, own in asked.items():
        _check_same_prompts(str(name), own, reference, asked[reference])
    return rows


def _check_languages(column: pd.Series) -> list[str | None]:
    unknown = column.isna().to_numpy()
    if unknown.all():
        return [None] * len(column)
    if unknown.any():
        raise ValueError(
            f"Got results['language'][{unknown.argmax()}]=None, a missing value, expected a "
            "language in each row or in none."
        )
    if (column == ALL).any():
        raise ValueError(
            f"Got the language {ALL!r}, expected another name: it is that of the mean."
        )
    return column.tolist()


def _check_same_prompts(
    name: str, own: pd.DataFrame, reference: str, expected: pd.DataFrame
) -> None:
    differing = own.index.symmetric_difference(expected.index)
    if len(differing):
        raise ValueError(
            f"Got {len(own)} prompts of model {name!r} and {len(expected)} of {reference!r}, such "
            f"as id={differing[0]!r} of one only, expected the same prompts."
        )
    shared = ["language", "harmful", "group"]
    same = own.loc[expected.index, shared].eq(expected[shared]) | expected[shared].isna()
    for column in shared:
        if not same[column].all():
            id_ = same.index[~same[column]][0]
            raise ValueError(
                f"Got another {column} of id={id_!r} with model {name!r} than with {reference!r}, "
                "expected the same prompts."
            )
