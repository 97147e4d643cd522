"""Tables of real_model.py, from its CSV.

    python benchmarks/real_model_tables.py CSV

Rates are per cent, with 95 % intervals by a paired bootstrap over prompts; translations of a prompt
are drawn together, and so are the verdicts under its ten draws of shots. The draws are the same in
each resample, so the intervals leave out what depends on them. The random direction and the shots
of the target direction are one draw. German is a source, and gets no shots.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from real_model import FIXED_REFUSAL, WITHOUT_ABLATION
from real_model_data import AVERAGED

from skgate.evaluation import compare

ARMS = [
    "unsteered",
    "ours, 0 shots",
    "ours, 1 shots",
    "ours, 4 shots",
    "ours, 16 shots",
    WITHOUT_ABLATION,
    FIXED_REFUSAL,
    "one threshold, of the sources",
    "one threshold, of pooled shots",
    "directional ablation",
    "activation addition",
    "random direction",
    "target direction",
]


def load_results(path: Path) -> pd.DataFrame:
    """Load the rows of PolyRefuse; arms without draws of shots are repeated for each draw."""
    results = pd.read_csv(path, keep_default_na=False, na_values={"refused": [""]})
    results["harmful"] = results["harmful"].astype(str) == "True"
    draws = sorted(results["draw"].unique())
    once = results.groupby("arm")["draw"].transform("nunique") == 1
    repeated = [results[once].assign(draw=draw) for draw in draws]
    return pd.concat([results[~once], *repeated], ignore_index=True)


def as_compared(results: pd.DataFrame, arms: list[str], languages: list[str]) -> pd.DataFrame:
    """Make what compare reads: a row per arm, prompt and draw, grouped by prompt."""
    rows = results[results["arm"].isin(arms) & results["language"].isin(languages)]
    return rows.assign(model=rows["arm"], id=rows["id"] + "#" + rows["draw"].astype(str))


def tabulate(results: pd.DataFrame, reference: str, languages: list[str]) -> pd.DataFrame:
    """Compare the arms that answered in all languages with one: in each, and on average."""
    languages_of = results.groupby("arm")["language"].unique()
    arms = [arm for arm in ARMS if set(languages) <= set(languages_of.get(arm, []))]
    return compare(
        as_compared(results, arms, languages), reference, resample_languages=False, random_state=0
    )


def show(table: pd.DataFrame, language: str) -> str:
    """Format the rows of a language, in per cent."""
    rows = table.xs(language, level="language") * 100
    columns = {
        name: [
            f"{row[name]:.0f} ({row[f'{name}_low']:.0f} to {row[f'{name}_high']:.0f})"
            for _, row in rows.iterrows()
        ]
        for name in ("harmful_refused", "harmless_refused", "selectivity", "difference")
    }
    return pd.DataFrame(columns, index=rows.index).to_string()


def show_elsewhere(results: pd.DataFrame) -> str:
    """Tabulate MultiJail's harmful prompts, and the harmless Swahili ones: flagged and refused."""
    rows = results[results["data"] != "polyrefuse"]
    rows = rows.assign(flagged=rows["flagged"].astype(str) == "True")
    by = ["data", "language", "arm"]
    return (rows.groupby(by, sort=False)[["flagged", "refused"]].mean() * 100).round(0).to_string()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("csv", type=Path)
    args = parser.parse_args()
    results = load_results(args.csv)
    test = results[results["data"] == "polyrefuse"]
    for reference in ("unsteered", "ours, 4 shots"):
        table = tabulate(test, reference, AVERAGED)
        print(f"\nMean over {', '.join(AVERAGED)}; difference from {reference!r}")
        print(show(table, "all"))
    for language in dict.fromkeys(test["language"]):
        print(f"\n{language}; difference from 'unsteered'")
        print(show(tabulate(test, "unsteered", [language]), language))
    print("\nOther prompts: share flagged by the gate, and share refused")
    print(show_elsewhere(results))


if __name__ == "__main__":
    main()
