"""The gate of one version against that of another, in languages kept for the end.

    python benchmarks/calibration_held_back.py decide now.csv --folder activations
    PYTHONPATH=OLD python benchmarks/calibration_held_back.py decide old.csv --folder activations \
        --position last
    python benchmarks/calibration_held_back.py compare now.csv old.csv

OLD is a checkout of the other version. Arabic, Russian and Thai of PolyRefuse through
Qwen2.5-Coder-1.5B-Instruct, gates with the default parameters of their version, without shots and
with four per class, the same shots for both. To be run once, when nothing is left to be chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from calibration_common import Row, both_classes, calibrated, fit, harm_scores, points, show
from calibration_data import Folder, at_places, last, last_and_mean
from probe_data import HELD_BACK
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

PLACES = {"last": last, "last+mean": last_and_mean}
BUDGETS = (0, 4)
KEY = ["block", "budget", "language", "seed", "prompt"]


def decide(folder: Folder, position: str, seeds: int) -> Iterator[Row]:
    """Tell which test prompts the installed skgate decides rightly, one row each."""
    held_back = folder.read_qwen(HELD_BACK["Qwen"])
    for block in (15, 17):
        data = at_places(held_back, PLACES[position](block), "Qwen")
        gate = fit(data)
        for budget in BUDGETS:
            for seed in tqdm(range(seeds if budget else 1), desc=f"block {block}, {budget} shots"):
                known = calibrated(gate, data, both_classes(data, seed, budget))
                for name in data.targets:
                    harmful = data.y[data.rows("test", name)] == 1
                    right = (harm_scores(known, data, name) > 0) == harmful
                    for prompt, (label, correct) in enumerate(zip(harmful, right, strict=True)):
                        yield {
                            "block": block, "budget": budget, "language": name, "seed": seed,
                            "prompt": prompt, "harmful": label, "right": float(correct),
                        }  # fmt: skip


def compare(now: pd.DataFrame, old: pd.DataFrame) -> None:
    """Print balanced accuracies and their paired difference."""
    both = now.merge(old, on=[*KEY, "harmful"], suffixes=("_now", "_old"), validate="1:1")
    if not len(both) == len(now) == len(old):
        raise ValueError("Got decisions on other prompts or shots, expected the same in both.")
    rows = []
    for (block, budget), part in both.groupby(["block", "budget"]):
        means = part.groupby(["language", "harmful"])[["right_now", "right_old"]].mean()
        by_language = means.groupby("language").mean()
        rows.append(
            {"block": block, "budget": budget, "now": by_language["right_now"].mean(),
             "before": by_language["right_old"].mean(), "difference, points": _gain(part)}
            | {f"{name}, {which}": by_language.loc[name, f"right_{column}"]
               for name in by_language.index
               for which, column in {"now": "now", "before": "old"}.items()}
        )  # fmt: skip
    show(
        pd.DataFrame(rows).set_index(["block", "budget"]),
        "Languages held back: balanced accuracy (95 % bootstrap interval over the prompts of each "
        "language and the draws, paired)",
    )


def _gain(part: pd.DataFrame, n_draws: int = 2000) -> str:
    """Mean difference in points, over classes, then languages; draws and prompts resampled."""
    rng = np.random.default_rng(0)
    part = part.assign(difference=part["right_now"] - part["right_old"])
    tables = {
        name: [
            rows.pivot_table(index="seed", columns="prompt", values="difference").to_numpy()
            for _, rows in of_language.groupby("harmful")
        ]
        for name, of_language in part.groupby("language")
    }
    resampled = []
    for _ in range(n_draws):
        means = []
        for classes in tables.values():
            seeds = rng.integers(len(classes[0]), size=len(classes[0]))
            for table in classes:
                prompts = rng.integers(table.shape[1], size=table.shape[1])
                means.append(table[seeds].mean(axis=0)[prompts].mean())
        resampled.append(np.mean(means))
    whole = np.mean([table.mean() for classes in tables.values() for table in classes])
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{points(whole)} [{points(low)}, {points(high)}]"


def main() -> None:
    """Run a step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    deciding = steps.add_parser("decide", help="write the decisions of the installed skgate")
    deciding.add_argument("out", type=Path)
    deciding.add_argument("--folder", type=Path, default=Path("activations"))
    deciding.add_argument("--qwen", help="folder of Qwen2.5-Coder-1.5B-Instruct")
    deciding.add_argument("--position", choices=PLACES, default="last+mean")
    deciding.add_argument("--seeds", type=int, default=30, help="draws of shots")
    comparing = steps.add_parser("compare", help="print the comparison")
    comparing.add_argument("files", type=Path, nargs=2, help="of now, of before")
    options = parser.parse_args()
    if options.step == "compare":
        compare(*(pd.read_csv(file) for file in options.files))
        return
    with threadpool_limits(1):
        folder = Folder(options.folder, options.qwen)
        rows = pd.DataFrame(decide(folder, options.position, options.seeds))
    rows.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
