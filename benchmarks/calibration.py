"""Calibrating a language: how many shots, which calibration, and how sure of itself the gate is.

    python benchmarks/calibration.py --folder activations --out results    # everything: hours
    python benchmarks/calibration.py --folder activations --out results --show
    python benchmarks/calibration.py --data organism generator --part budgets --seeds 5

Gates with the default parameters are fitted on the sources' train split. Shots come from the
targets' train split, drawn anew for each seed, a larger budget adding to the smaller; the targets'
whole test split is scored. All calibrations see the same shots. Where a budget leaves no choice,
and for 64 shots, one draw is made. Figures are means over languages and draws.

Results are kept by part and data set, one draw after the other. An interrupted run continues where
it stopped. Several runs can work at once on different parts or data sets. Remove the files after a
change to skgate. Each process uses one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from calibration_budgets import budgets, show_budgets
from calibration_certainty import (
    bounds,
    intervals,
    reliability,
    show_bounds,
    show_intervals,
    show_reliability,
)
from calibration_common import Case, Row, both_classes, fit, show
from calibration_constants import constants, show_constants
from calibration_data import DATASETS, Folder
from calibration_parts import (
    detect,
    harmless,
    show_detect,
    show_harmless,
    show_suggestions,
    show_unlabelled,
    suggestions,
    unlabelled,
)
from calibration_pooled import pooled, show_pooled
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm


def speed(case: Case, seed: int) -> Iterator[Row]:
    """Time fit and partial_fit in CPU seconds."""
    data = case.data
    start = time.process_time()
    gate = fit(data)
    yield {"call": "fit", "ms": 1000 * (time.process_time() - start)}
    name = data.targets[0]
    rows = both_classes(data, seed, 4)[name]
    for call in ("partial_fit, 8 shots", "partial_fit, 8 shots, again"):
        start = time.process_time()
        gate.partial_fit(data.X[rows], data.y[rows], language=name)
        yield {"call": call, "ms": 1000 * (time.process_time() - start)}


def show_speed(frame: pd.DataFrame) -> None:
    """Print the median by data set."""
    table = frame.pivot_table(
        index="dataset", columns="call", values="ms", aggfunc="median", sort=False
    )
    show(table, "CPU time, ms, one thread")


class Part(NamedTuple):
    """A part of the benchmark."""

    measure: Callable[[Case, int], Iterator[Row]]
    show: Callable[[pd.DataFrame], None]
    most_seeds: int


PARTS = {
    "budgets": Part(budgets, show_budgets, 30),
    "pooled": Part(pooled, show_pooled, 30),
    "harmless": Part(harmless, show_harmless, 30),
    "detect": Part(detect, show_detect, 10),
    "unlabelled": Part(unlabelled, show_unlabelled, 5),
    "intervals": Part(intervals, show_intervals, 30),
    "bounds": Part(bounds, show_bounds, 30),
    "reliability": Part(reliability, show_reliability, 5),
    "suggestions": Part(suggestions, show_suggestions, 5),
    "constants": Part(constants, show_constants, 5),
    "speed": Part(speed, show_speed, 3),
}


def path_of(folder: Path, part: str, name: str) -> Path:
    """Where the results of a part on a data set are kept."""
    return folder / f"calibration_{part}_{name}.csv"


def read(folder: Path, part: str, names: list[str]) -> pd.DataFrame:
    """Read the results of a part on some data sets, as many as there are."""
    paths = [path for path in (path_of(folder, part, name) for name in names) if path.exists()]
    return pd.concat([pd.read_csv(path) for path in paths]) if paths else pd.DataFrame()


def measure(case: Case, part: str, path: Path, seeds: int) -> None:
    """Append the draws that a file lacks, each as a whole."""
    of = {"dataset": case.data.dataset, "variant": case.data.variant}
    done: set[tuple[str, int]] = set()
    if path.exists():
        found = pd.read_csv(path, usecols=["variant", "seed"])
        done = set(found.itertuples(index=False, name=None))
    todo = [seed for seed in range(min(seeds, PARTS[part].most_seeds))
            if (case.data.variant, seed) not in done]  # fmt: skip
    for seed in tqdm(todo, desc=f"{part}: {case.data.dataset}, {case.data.variant}", mininterval=5):
        rows = pd.DataFrame([of | {"seed": seed} | row for row in PARTS[part].measure(case, seed)])
        if len(rows):
            rows.to_csv(path, mode="a", header=not path.exists(), index=False)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", default=list(DATASETS), choices=DATASETS)
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seeds", type=int, default=30, help="draws; some parts make fewer")
    parser.add_argument("--folder", type=Path, default=Path("activations"), help="activations")
    parser.add_argument("--qwen", help="folder of Qwen2.5-Coder-1.5B-Instruct")
    parser.add_argument("--gemma", help="folder of Gemma-3-270M")
    parser.add_argument("--out", type=Path, help="folder of the results; if none, they are lost")
    parser.add_argument("--show", action="store_true", help="print what is in --out, no more")
    options = parser.parse_args()
    if options.show and options.out is None:
        parser.error("--show needs --out")
    folder = Folder(options.folder, options.qwen, options.gemma)
    with tempfile.TemporaryDirectory() as temporary, threadpool_limits(1):
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        for name in [] if options.show else options.data:
            for data in DATASETS[name](folder):
                case = Case(data)
                for part in options.part:
                    measure(case, part, path_of(out, part, name), options.seeds)
        for part in options.part:
            frame = read(out, part, options.data)
            if len(frame):
                PARTS[part].show(frame)


if __name__ == "__main__":
    main()
