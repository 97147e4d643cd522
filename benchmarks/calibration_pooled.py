"""Part of calibration.py: the gate against one logistic regression on source rows and shots."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from calibration_common import (
    Case,
    Row,
    Shots,
    balanced_accuracy,
    bootstrap,
    both_classes,
    budgets_of,
    calibrated,
    draws,
    points,
    score,
    show,
)
from sklearn.base import clone

HARMLESS = 8
WAYS = ["gate", "gate, no language given", "logistic regression"]


def pooled(case: Case, seed: int) -> Iterator[Row]:
    """Score the gate, and a logistic regression on the same rows that knows no language."""
    data = case.data
    shots = {str(n): both_classes(data, seed, n) for n in budgets_of(data, seed, [0, 1, 4, 16])}
    if data.pool >= HARMLESS:
        harmless = {name: rows[0][:HARMLESS] for name, rows in draws(data, seed).items()}
        shots[f"{HARMLESS} harmless"] = harmless
    for budget, rows_of in shots.items():
        gate = calibrated(case.gate(), data, rows_of)
        found = {"gate": list(score(gate, data))}
        gate.set_params(unknown_language="detect")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found["gate, no language given"] = list(score(gate, data, known=False))
        found["logistic regression"] = list(_score_logistic(case, rows_of))
        for way, rows in found.items():
            yield from ({"way": way, "budget": budget, **row} for row in rows)


def _score_logistic(case: Case, shots: Shots) -> Iterator[Row]:
    data = case.data
    rows = np.concatenate([data.source_rows, *shots.values()])
    model = clone(case.logistic).fit(data.X[rows], data.y[rows])
    for name in data.targets:
        test = data.rows("test", name)
        scores = model.decision_function(data.X[test])
        yield {"language": name, "balanced_accuracy": balanced_accuracy(data.y[test], scores)}


def show_pooled(frame: pd.DataFrame) -> None:
    """Print both, and their difference on the same shots."""
    order, budgets = frame["dataset"].unique(), list(dict.fromkeys(frame["budget"]))
    for statistic, title in (("mean", "mean over languages"), ("min", "the worst language")):
        table = (
            frame.groupby(["dataset", "variant", "way", "budget", "seed"])["balanced_accuracy"]
            .agg(statistic)
            .groupby(["dataset", "way", "budget"])
            .mean()
            .unstack()
        )
        table = table[budgets].reindex(order, level=0).reindex(WAYS, level=1)
        show(table, f"Balanced accuracy by shots per class, {title}")
    wide = frame.pivot_table(
        index=["dataset", "variant", "language", "seed", "budget"], columns="way",
        values="balanced_accuracy", sort=False,
    )  # fmt: skip
    gains = []
    for dataset in order:
        row = {"dataset": dataset}
        for budget in budgets:
            part = wide.xs((dataset, budget), level=("dataset", "budget"))
            gain = (part["gate"] - part["logistic regression"]).rename("gain").reset_index()
            several = gain["seed"].nunique() > 1
            row[budget] = bootstrap(gain, "gain") if several else points(gain["gain"].mean())
        gains.append(row)
    show(
        pd.DataFrame(gains).set_index("dataset"),
        "Gate less logistic regression, points (95 % bootstrap interval over languages and draws)",
    )
