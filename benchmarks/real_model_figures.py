"""Draw what real_model.py measured: ``python benchmarks/real_model_figures.py CSV``."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from real_model_tables import load_results

from skgate.inspection import RefusalGapDisplay

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CONDITIONS = {
    "unsteered": "unsteered",
    "ours, 0 shots": "steered, no examples",
    "ours, 4 shots": "steered, 4 per class",
}


def refusals(results: pd.DataFrame) -> plt.Figure:
    """Share of prompts refused in each language."""
    test = results[results["data"] == "polyrefuse"]
    arms = {
        name: test[test["arm"] == arm].sort_values(["language", "id", "draw"])
        for arm, name in CONDITIONS.items()
    }
    prompts = next(iter(arms.values()))
    return RefusalGapDisplay.from_predictions(
        prompts["harmful"],
        {name: rows["refused"].to_numpy() for name, rows in arms.items()},
        language=prompts["language"],
        by="language",
        judge="LatentJudge",
    ).figure_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path)
    figure = refusals(load_results(parser.parse_args().csv))
    figure.savefig(IMAGES / "real_model.png", dpi=200, bbox_inches="tight")


if __name__ == "__main__":
    main()
