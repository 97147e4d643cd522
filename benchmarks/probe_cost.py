"""What fitting and calibrating a gate costs, beside scikit-learn's logistic regression.

    python benchmarks/probe_cost.py --qwen FOLDER      # SKGATE_DATA names the data

Ten languages of 460 rows and 3,584 dimensions: activations of Qwen2.5-Coder-1.5B-Instruct, drawn
anew with noise. The fits take turns, on as many threads as OMP_NUM_THREADS says.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from probe import QWEN_TARGETS
from probe_data import language_model
from sklearn.linear_model import LogisticRegression

from skgate import LatentGate

WIDTH, N_ROWS, NOISE = 3584, 230, 0.3  # dimensions, rows of each class, standard deviations
N_SHOTS = 4  # of each class


def draw_rows(checkpoint: str | None, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw rows, labels and languages."""
    data = language_model("Qwen", checkpoint, folder, QWEN_TARGETS)
    frame = data.frame
    X = data.read([(17, "last"), (17, "mean"), (15, "last")], np.ones(len(frame), dtype=bool))
    X = X[:, :WIDTH]
    rng = np.random.default_rng(0)
    groups = frame.groupby(["language", "harmful"]).indices.values()
    rows = np.concatenate([rng.choice(group, N_ROWS) for group in groups])
    drawn = X[rows] + NOISE * X.std(axis=0) * rng.normal(size=(len(rows), WIDTH))
    picked = frame.iloc[rows]
    return (
        drawn.astype(np.float32),
        picked["harmful"].to_numpy().astype(int),
        picked["language"].to_numpy(dtype=object),
    )


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--qwen", help="folder of Qwen2.5-Coder-1.5B-Instruct")
    parser.add_argument("--activations", type=Path, default=Path("activations"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    X, y, language = draw_rows(options.qwen, options.activations)
    plain = X.astype(float)
    standardized = (plain - plain.mean(axis=0)) / plain.std(axis=0)
    gate = LatentGate().fit(X, y, language=language)
    shots = np.concatenate([np.flatnonzero(y == label)[:N_SHOTS] for label in (0, 1)])

    def calibrate() -> None:
        gate.partial_fit(X[shots], y[shots], language="another")

    work: dict[str, Callable[[], object]] = {
        "LogisticRegression, C=0.1, standardized rows": lambda: LogisticRegression(
            C=0.1, max_iter=1000
        ).fit(standardized, y),
        "LogisticRegression, C=1, standardized rows": lambda: LogisticRegression(max_iter=1000).fit(
            standardized, y
        ),
        "LogisticRegression, C=1, rows as they are": lambda: LogisticRegression(max_iter=1000).fit(
            plain, y
        ),
        "LatentGate()": lambda: LatentGate().fit(X, y, language=language),
        "LatentGate(rank=10, C=1.0)": lambda: LatentGate(rank=10, C=1.0).fit(
            X, y, language=language
        ),
    }
    times = pd.DataFrame(
        [{name: seconds(one) for name, one in work.items()} for _ in range(options.rounds)]
    )
    found = []
    for _ in range(20):
        found.append(seconds(calibrate))
        gate.forget("another")
    table = times.median().to_frame("seconds")
    for name in list(work)[:3]:
        table[f"over {name}"] = times.div(times[name], axis=0).median()
    print(table.round(2).to_markdown())
    print(f"\npartial_fit with {len(shots)} examples: {1000 * np.median(found):.1f} ms")
    tracemalloc.start()
    LatentGate().fit(X, y, language=language)
    peak = tracemalloc.get_traced_memory()[1]
    print(f"Peak memory of LatentGate().fit: {peak / X.nbytes:.1f} times the float32 input")


if __name__ == "__main__":
    main()
