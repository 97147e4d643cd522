"""Parts of calibration.py: intervals, bounds and probabilities against what comes true."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from calibration_common import (
    BUDGETS,
    CALIBRATIONS,
    Case,
    Row,
    balanced_accuracy,
    best_bias,
    bias_of,
    both_classes,
    budgets_of,
    calibrated,
    show,
)

TARGETS = {8: 0.3, 16: 0.2, 32: 0.1, 64: 0.05}  # error rates by shots per class
MEASURES = ["dataset", "variant", "language", "seed"]


def intervals(case: Case, seed: int) -> Iterator[Row]:
    """Whether intervals cover what the test split asks for, and the train prompts not shown."""
    data, gate = case.data, case.gate()
    for budget in budgets_of(data, seed, BUDGETS[1:]):
        shots = both_classes(data, seed, budget)
        known = calibrated(gate, data, shots)
        diagnosis = known.diagnose()
        for name in data.targets:
            _, low, high = bias_of(known, name)
            of = diagnosis.loc[name]
            unused = np.setdiff1d(data.rows("train", name), shots[name])
            for on, rows in {"test": data.rows("test", name), "train": unused}.items():
                if len(np.unique(data.y[rows])) < 2:
                    continue
                scores = known.harm_score(data.X[rows], language=name)
                error = 1 - balanced_accuracy(data.y[rows], scores)
                best = best_bias(known, data, name, on)
                yield {
                    "budget": budget, "language": name, "best on": on,
                    "bias covered": float(low <= best <= high),
                    "stated error": of["error"], "error": error, "verdict": of["verdict"][:9],
                    "error covered": float(of["error_low"] <= error <= of["error_high"]),
                }  # fmt: skip


def show_intervals(frame: pd.DataFrame) -> None:
    """Print coverage by data set and budget, errors, and verdicts."""
    frame = frame[frame["budget"] < BUDGETS[-1]]
    order = frame["dataset"].unique()
    for value, title in {
        "bias covered": "Share of 90 % intervals of the bias that cover the best one",
        "error covered": "Share of 90 % intervals of diagnose that cover the error",
        "stated error": "Error that diagnose states, mean",
        "error": "Error at the boundary, mean",
    }.items():
        table = frame.pivot_table(index=["dataset", "best on"], columns="budget", values=value)
        table = table.drop("train", level=1) if value == "stated error" else table
        show(table.reindex(order, level=0), title)
    verdicts = frame[(frame["best on"] == "test") & (frame["budget"] == 8)]
    table = pd.crosstab(
        [verdicts["dataset"], verdicts["language"]], verdicts["verdict"], normalize="index"
    )
    show(table, "Verdicts at 8 shots per class, shares of draws")


def bounds(case: Case, seed: int) -> Iterator[Row]:
    """Whether the error rates of operating points stay below their bounds."""
    data = case.data
    for budget, target in TARGETS.items():
        if budget > data.pool:
            continue
        shots = both_classes(data, seed, budget)
        known = calibrated(case.gate(), data, shots)
        for name in data.targets:
            unused = np.setdiff1d(data.rows("train", name), shots[name])
            for drawn, rows in {"test": data.rows("test", name), "train": unused}.items():
                if len(np.unique(data.y[rows])) < 2:
                    continue
                scores, y = known.harm_score(data.X[rows], language=name), data.y[rows]
                for rate in ("fpr", "fnr"):
                    point = known.operating_point(name, **{f"target_{rate}": target})
                    errors = {
                        "fpr": (scores[y == 0] > point.threshold).mean(),
                        "fnr": (scores[y == 1] <= point.threshold).mean(),
                    }
                    for bounded, error in errors.items():
                        bound = getattr(point, f"{bounded}_bound")
                        yield {
                            "budget": budget, "language": name, "on": drawn,
                            "bounds": "targeted" if bounded == rate else "other rate",
                            "target": target, "bound": bound, "error": error,
                            "holds": float(error <= bound),
                        }  # fmt: skip


def show_bounds(frame: pd.DataFrame) -> None:
    """Print how often the bounds hold, by shots per class and target."""
    table = frame.pivot_table(
        index=["dataset", "on", "bounds"], columns=["budget", "target"], values="holds"
    )
    table.columns = [f"{budget} shots, {target:.0%}" for budget, target in table.columns]
    show(
        table.reindex(frame["dataset"].unique(), level=0),
        "Operating points at 90 % confidence: share of draws in which a bound holds",
    )


def reliability(case: Case, seed: int) -> Iterator[Row]:
    """Predicted probability against frequency, both classes weighing the same."""
    data = case.data
    for calibration in CALIBRATIONS:
        for budget in budgets_of(data, seed, [0, 1, 4, 16, 64]):
            known = calibrated(case.gate(calibration), data, both_classes(data, seed, budget))
            for name in data.targets:
                rows, given = data.rows("test", name), name if budget else None
                p, y = known.predict_proba(data.X[rows], language=given)[:, 1], data.y[rows]
                weight = np.where(y == 1, 0.5 / y.sum(), 0.5 / (1 - y).sum())
                bins = np.minimum((p * 10).astype(int), 9)
                for k in np.unique(bins):
                    of = bins == k
                    yield {
                        "method": calibration, "budget": budget, "language": name, "bin": k,
                        "weight": weight[of].sum(),
                        "predicted": np.average(p[of], weights=weight[of]),
                        "frequency": np.average(y[of], weights=weight[of]),
                    }  # fmt: skip


def show_reliability(frame: pd.DataFrame) -> None:
    """Print the expected calibration error by data set and budget."""
    frame = frame.assign(ece=frame["weight"] * (frame["predicted"] - frame["frequency"]).abs())
    error = frame.groupby(["method", "budget", *MEASURES])["ece"].sum().reset_index()
    table = error.pivot_table(index=["dataset", "method"], columns="budget", values="ece")
    show(
        table.reindex(frame["dataset"].unique(), level=0),
        "Expected calibration error (10 bins, classes weighing the same)",
    )
