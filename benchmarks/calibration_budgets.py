"""Part of calibration.py: balanced accuracy by calibration and number of shots."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from calibration_common import (
    CALIBRATIONS,
    Case,
    Row,
    bootstrap,
    both_classes,
    budgets_of,
    calibrated,
    points,
    score,
    show,
)

LANGUAGE = ["dataset", "variant", "language"]
WORST = 0.1


def budgets(case: Case, seed: int) -> Iterator[Row]:
    """Score every calibration at every budget."""
    data = case.data
    for calibration in CALIBRATIONS:
        for budget in budgets_of(data, seed):
            shots = both_classes(data, seed, budget)
            for row in score(calibrated(case.gate(calibration), data, shots), data):
                yield {"method": calibration, "budget": budget, **row}


def show_budgets(frame: pd.DataFrame) -> None:
    """Print the tables by data set and budget."""
    order = frame["dataset"].unique()
    mean = frame.pivot_table(
        index=["dataset", "method"], columns="budget", values="balanced_accuracy"
    )
    show(mean.reindex(order, level=0), "Balanced accuracy, mean by shots per class")
    _show_against_zero_shot(frame)
    _show_against_others(frame)


def _show_against_zero_shot(frame: pd.DataFrame) -> None:
    """Print how far shrinkage lies above zero-shot, on average and in bad draws."""
    frame = frame[frame["method"] == "shrinkage"]
    zero = frame[frame["budget"] == 0].set_index(LANGUAGE)["balanced_accuracy"].rename("zero")
    frame = frame[frame["budget"] > 0].join(zero, on=LANGUAGE)
    frame["gain"] = frame["balanced_accuracy"] - frame["zero"]
    rows = []
    for (dataset, budget), part in frame.groupby(["dataset", "budget"], sort=False):
        by_language = part.groupby(LANGUAGE[1:])["gain"]
        worst = by_language.quantile(WORST)
        variant, language = worst.idxmin()
        several = part["variant"].nunique() > 1
        rows.append(
            {
                "dataset": dataset,
                "budget": budget,
                "mean": points(by_language.mean().mean()),
                "10th percentile, mean": points(worst.mean()),
                "10th percentile, lowest": points(worst.min()),
                "in": f"{variant}, {language}" if several else language,
            }
        )
    show(
        pd.DataFrame(rows).set_index(["dataset", "budget"]),
        "Shrinkage less zero-shot, points of balanced accuracy: mean over languages and draws; "
        "10th percentile over the draws of a language",
    )


def _show_against_others(frame: pd.DataFrame) -> None:
    """Print how far shrinkage lies above the other calibrations on the same shots."""
    wide = frame[frame["budget"] > 0].pivot_table(
        index=[*LANGUAGE, "seed", "budget"], columns="method", values="balanced_accuracy",
        sort=False,
    )  # fmt: skip
    means, worst = [], []
    for (dataset, budget), part in wide.groupby(["dataset", "budget"], sort=False):
        of = {"dataset": dataset, "budget": budget}
        low = part.groupby(LANGUAGE).quantile(WORST).mean()
        others = [name for name in CALIBRATIONS[1:] if name in part]
        gains = {f"over {name}": part["shrinkage"] - part[name] for name in others}
        means.append(of | {k: bootstrap(v.rename("gain").reset_index(), "gain")
                           for k, v in gains.items()})  # fmt: skip
        if budget in (1, 2):
            worst.append(
                of | {f"over {name}": points(low["shrinkage"] - low[name]) for name in others}
            )
    show(
        pd.DataFrame(means).set_index(["dataset", "budget"]),
        "Shrinkage less the other calibrations, points of balanced accuracy "
        "(95 % bootstrap interval over languages and draws, paired)",
    )
    show(
        pd.DataFrame(worst).set_index(["dataset", "budget"]),
        "The same of the 10th percentile over the draws of a language, mean over languages",
    )
