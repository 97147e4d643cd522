"""Languages and their tiers, in the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from skgate.metrics._tiers import LANGUAGE_TIERS


def group_languages(
    languages: Iterable[str], by: str, tier: Mapping[str, str] | None
) -> dict[str, str]:
    """Find the group of each language.

    Parameters
    ----------
    languages : iterable of str
        The languages to group; repeated ones count once.
    by : {"tier", "language"}
        Whether a group is a tier or a language.
    tier : mapping of str to str or None
        The tier of each language. If None, the tiers of the paper.

    Returns
    -------
    groups : dict of str to str
        The group of each language. Tiers are in the order of ``tier``, the languages of each are
        sorted.
    """
    if by not in ("tier", "language"):
        raise ValueError(f"Got by={by!r}, expected 'tier' or 'language'.")
    if tier is not None and not isinstance(tier, Mapping):
        raise TypeError(f"Got tier={tier!r}, expected a mapping of language to tier, or None.")
    tiers = LANGUAGE_TIERS if tier is None else tier
    places = {name: place for place, name in enumerate(dict.fromkeys(tiers.values()))}
    found = sorted(set(languages))
    missing = [language for language in found if language not in tiers]
    if missing and by == "tier":
        raise ValueError(
            f"Got no tier for the languages {missing}, expected tier= with the tier of each "
            "language, or by='language'."
        )
    found.sort(key=lambda language: places.get(tiers.get(language, ""), len(places)))
    return {language: tiers[language] if by == "tier" else language for language in found}


def average_groups(
    frame: pd.DataFrame,
    along: list[str],
    measures: list[str],
    by: str,
    tier: Mapping[str, str] | None,
) -> pd.DataFrame:
    """Average measures over the languages of each tier, or keep them by language.

    Parameters
    ----------
    frame : DataFrame
        Columns ``model``, those of ``along``, the measures and perhaps ``language``. Without
        ``language``, nothing is averaged.
    along : list of str
        Columns that distinguish rows, such as the x-axis. They are not averaged over.
    measures : list of str
        Columns to average.
    by, tier
        As in :func:`group_languages`.

    Returns
    -------
    frame : DataFrame
        The averages, in the order in which they are drawn.
    """
    if "language" not in frame:
        return frame
    if frame["language"].isna().any():
        raise ValueError(
            "Got rows with and without a language in table, expected a column 'language' "
            "without missing values for every model, or for none."
        )
    groups = group_languages(frame["language"], by, tier)
    order = list(dict.fromkeys(groups.values()))
    frame = frame.assign(**{by: pd.Categorical(frame["language"].map(groups), order)})
    keys = ["model", by, *along]
    averages = frame.groupby(keys, sort=False, observed=True)[measures].mean().reset_index()
    models = pd.Categorical(averages["model"], frame["model"].unique())
    averages = averages.assign(model=models).sort_values(keys, ignore_index=True)
    return averages.astype({"model": object, by: object})


def group_column(frame: pd.DataFrame) -> str | None:
    """Return the column that a table is grouped by: tier, or language, or None."""
    return next((column for column in ("tier", "language") if column in frame), None)
