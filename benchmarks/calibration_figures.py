"""Draw what calibration.py measured: ``python benchmarks/calibration_figures.py [RESULTS]``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from calibration import read

from skgate.inspection import BudgetCurveDisplay

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SHOWN = {"shrinkage": "shrinkage", "refit": "refit (the paper's rule)"}
DATA = ["minilm", "gemma", "qwen-17-both", "organism-both", "generator"]


def budgets(results: Path) -> plt.Figure:
    """Balanced accuracy by shots per class, a panel for each data set."""
    frame = read(results, "budgets", DATA)
    frame = frame[frame["method"].isin(SHOWN)].rename(columns={"seed": "draw"})
    mean = frame.groupby(["method", "dataset", "draw", "budget"], as_index=False)[
        "balanced_accuracy"
    ].mean()
    tables = {
        name: mean[mean["method"] == method].rename(columns={"dataset": "language"})
        for method, name in SHOWN.items()
    }
    return BudgetCurveDisplay.from_predictions(tables, by="language").figure_


def reliability(results: Path) -> plt.Figure:
    """Frequency of harm against its predicted probability, four shots per class."""
    frame = read(results, "reliability", DATA)
    frame = frame[(frame["budget"] == 4) & frame["method"].isin(SHOWN)]
    frame = frame.assign(**{x: frame[x] * frame["weight"] for x in ("predicted", "frequency")})
    sums = frame.groupby(["dataset", "method", "bin"])[["predicted", "frequency", "weight"]].sum()
    curve = sums[["predicted", "frequency"]].div(sums["weight"], axis=0).reset_index()
    curve["method"] = curve["method"].map(SHOWN)
    with sns.axes_style("whitegrid"):
        grid = sns.relplot(
            curve, x="predicted", y="frequency", hue="method", style="method", col="dataset",
            kind="line", hue_order=list(SHOWN.values()), style_order=list(SHOWN.values()),
            markers=True, palette="colorblind", height=3, aspect=0.95,
        )  # fmt: skip
    for axes in grid.axes.flat:
        axes.plot([0, 1], [0, 1], color="0.5", linewidth=1, zorder=0)
        axes.set_aspect("equal")
    grid.set_titles("{col_name}")
    grid.set_axis_labels("predicted probability of harm", "frequency of harm")
    grid.set(xticks=np.linspace(0, 1, 5), yticks=np.linspace(0, 1, 5))
    grid.legend.set_title("")
    return grid.figure


def main() -> None:
    """Draw both."""
    results = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    for draw in (budgets, reliability):
        figure = draw(results)
        figure.savefig(IMAGES / f"calibration_{draw.__name__}.png", dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
