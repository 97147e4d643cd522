"""Part of calibration.py: the gate of now against the one of 0.1.0, in languages held back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from calibration_common import both_classes, calibrated, fit, harm_scores, points, show
from calibration_data import Languages
from tqdm.auto import tqdm

# As in probe.py. (The prior of the calibration that was the default in 0.1.0 is gone.)
OLD = {"rank": 10, "C": 1.0, "calibration": "refit"}


def right(
    data: Languages, seeds: list[int], budget: int, **params: object
) -> dict[str, np.ndarray]:
    """Find what is decided rightly by language: (n_draws, n_test_prompts) each."""
    gate = fit(data, **params)
    found: dict[str, list[np.ndarray]] = {name: [] for name in data.targets}
    for seed in tqdm(seeds, desc=f"{data.variant}, {budget} shots"):
        known = calibrated(gate, data, both_classes(data, seed, budget))
        for name in data.targets:
            y = data.y[data.rows("test", name)]
            found[name].append((harm_scores(known, data, name) > 0) == (y == 1))
    return {name: np.array(rows, dtype=float) for name, rows in found.items()}


def by_class(rights: np.ndarray, y: np.ndarray) -> float:
    """Compute the balanced accuracy, averaged over draws."""
    return float((rights[:, y == 1].mean() + rights[:, y == 0].mean()) / 2)


def gain(
    now: dict[str, np.ndarray], old: dict[str, np.ndarray], labels: dict[str, np.ndarray],
    n_draws: int = 2000,
) -> str:  # fmt: skip
    """Difference in points, 95 % interval over the prompts of each language and the draws."""
    rng = np.random.default_rng(0)
    differences = {name: now[name] - old[name] for name in now}
    whole = np.mean([by_class(d, labels[name]) for name, d in differences.items()])
    resampled = []
    for _ in range(n_draws):
        means = []
        for name, difference in differences.items():
            seeds = rng.integers(len(difference), size=len(difference))
            prompts = difference[seeds].mean(axis=0)
            classes = [prompts[labels[name] == label] for label in (0, 1)]
            means.append(np.mean([rng.choice(one, len(one)).mean() for one in classes]))
        resampled.append(np.mean(means))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{points(whole)} [{points(low)}, {points(high)}]"


def compare(pairs: Iterable[tuple[Languages, Languages]], seeds: int) -> None:
    """Compare gates on the same prompts and shots, read as now and read as in 0.1.0."""
    rows = []
    for now, old in pairs:
        labels = {name: now.y[now.rows("test", name)] for name in now.targets}
        for budget in (0, 4):
            of = list(range(seeds if budget else 1))
            rights = right(now, of, budget), right(old, of, budget, **OLD)
            measured = {
                f"{name}, {which}": by_class(one[name], labels[name])
                for name in now.targets
                for which, one in zip(("now", "0.1.0"), rights, strict=True)
            }
            of_means = [
                np.mean([by_class(one[name], labels[name]) for name in labels]) for one in rights
            ]
            rows.append(
                {"dataset": now.dataset, "budget": budget, "now": of_means[0], "0.1.0": of_means[1],
                 "difference, points": gain(*rights, labels), **measured}
            )  # fmt: skip
    show(
        pd.DataFrame(rows).set_index(["dataset", "budget"]),
        "Held-back languages: balanced accuracy of now and of 0.1.0 (95 % bootstrap interval over "
        "the prompts of each language and the draws, paired)",
    )
