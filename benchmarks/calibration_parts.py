"""Parts of calibration.py: other ways to calibrate a language than shots of both classes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from calibration_common import (
    Case,
    Row,
    best_bias,
    bias_of,
    both_classes,
    calibrated,
    draws,
    score,
    show,
)

UNLABELLED, FEWEST_UNLABELLED = 64, 32
MIN_GAIN = 0.02  # of the shots, to compare with
SUGGESTED_FROM, FEWEST_SUGGESTED_FROM = 150, 60


def harmless(case: Case, seed: int) -> Iterator[Row]:
    """Harmless shots alone, against as many labelled ones of both classes."""
    data, order = case.data, draws(case.data, seed)
    for n in (8, 32):
        if n > data.pool:
            continue
        ways = {
            "harmless alone": {name: rows[0][:n] for name, rows in order.items()},
            "as many of both": both_classes(data, seed, n // 2),
        }
        for way, shots in ways.items():
            for row in score(calibrated(case.gate(), data, shots), data):
                yield {"way": way, "shots": n, **row}


def show_harmless(frame: pd.DataFrame) -> None:
    """Print a table by data set."""
    show(
        frame.pivot_table(
            index=["dataset", "way"], columns="shots", values="balanced_accuracy", sort=False
        ),
        "Harmless shots alone: balanced accuracy by total shots",
    )


def detect(case: Case, seed: int) -> Iterator[Row]:
    """The language given, against told from the activation."""
    data = case.data
    for budget in (1, 4, 16):
        known = calibrated(case.gate(), data, both_classes(data, seed, budget))
        for row in score(known, data):
            yield {"way": "given", "budget": budget, **row}
        known.set_params(unknown_language="detect")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = list(score(known, data, known=False))
        for row in found:
            rows = data.rows("test", row["language"])
            posterior = known.predict_language_proba(data.X[rows])
            names = np.array([*known.languages_, "unseen"])
            right = names[posterior.argmax(axis=1)] == row["language"]
            yield {"way": "detected", "budget": budget, "recognised": right.mean(), **row}


def show_detect(frame: pd.DataFrame) -> None:
    """Print a table by data set and budget."""
    of = ["dataset", "budget"]
    table = frame.pivot_table(index=of, columns="way", values="balanced_accuracy", sort=False)
    table["language recognised"] = frame.groupby(of)["recognised"].mean()
    show(table, "Balanced accuracy, the language given or detected")


def unlabelled(case: Case, seed: int) -> Iterator[Row]:
    """Prompts without labels, by the share of harmful ones, against shots."""
    data, gate, order = case.data, case.gate(), draws(case.data, seed)
    total = min(UNLABELLED, data.pool - 4)
    if total < FEWEST_UNLABELLED:
        return
    ways = {
        "zero-shot": gate,
        "4 shots per class": calibrated(gate, data, both_classes(data, seed, 4)),
    }
    for share in (0.5, 0.25, 0.1, 0.0):
        n = round(total * share)
        rows = {k: np.r_[v[0][4 : 4 + total - n], v[1][4 : 4 + n]] for k, v in order.items()}
        ways[f"{share:.0%} harmful"] = calibrated(gate, data, rows, labels=False)
    for way, one in ways.items():
        for row in score(one, data):
            yield {"way": way, "prompts": total, **row}


def show_unlabelled(frame: pd.DataFrame) -> None:
    """Print a table by data set, and the share of the shots' gain."""
    table = frame.pivot_table(
        index=["dataset", "prompts"], columns="way", values="balanced_accuracy", sort=False
    )
    gain = table["50% harmful"] - table["zero-shot"]
    of_shots = table["4 shots per class"] - table["zero-shot"]
    table["share of the shots' gain (at 50%)"] = gain / of_shots.where(of_shots > MIN_GAIN)
    show(table, "Balanced accuracy, adapting to unlabelled prompts")


def suggestions(case: Case, seed: int) -> Iterator[Row]:
    """Label the prompts that the gate suggests, or as many at random, out of 150."""
    data, gate, order = case.data, case.gate(), draws(case.data, seed)
    total = min(SUGGESTED_FROM, int(data.pool / 0.9))
    if total < FEWEST_SUGGESTED_FROM:
        return
    rng = np.random.default_rng([3, seed])
    for share in (0.5, 0.1):
        n = round(total * share)
        pools = {k: np.r_[v[0][: total - n], v[1][:n]] for k, v in order.items()}
        for labels in (4, 8, 16):
            ways = {
                "suggested": {
                    k: pool[gate.suggest(data.X[pool], k, n=labels)] for k, pool in pools.items()
                },
                "random": {k: rng.choice(pool, labels, False) for k, pool in pools.items()},
            }
            for way, shots in ways.items():
                known = calibrated(gate, data, shots)
                for row in score(known, data):
                    bias, low, high = bias_of(known, row["language"])
                    error = abs(bias - best_bias(known, data, row["language"]))
                    yield {
                        "way": way, "prompts": total, "share": share, "labels": labels,
                        "width": high - low, "bias error": error, **row,
                    }  # fmt: skip


def show_suggestions(frame: pd.DataFrame) -> None:
    """Print a table by data set, share and labels."""
    frame = frame.assign(share=frame["share"].map("{:.0%}".format))
    table = frame.groupby(["dataset", "prompts", "share", "labels", "way"], sort=False)[
        ["balanced_accuracy", "width", "bias error"]
    ]
    show(table.mean().rename(columns={"width": "width of the interval"}), "Which prompts to label")
