"""What the parts of calibration.py share: gates, draws of shots, scores and tables."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from calibration_data import Languages
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skgate import LatentGate

BUDGETS = [0, 1, 2, 4, 8, 16, 64]
CALIBRATIONS = ["shrinkage", "refit", "threshold"]

Row = dict[str, Any]
Shots = dict[str, np.ndarray]  # rows by language


@dataclass
class Case:
    """A data set, and the gates that were fitted on its source languages, each once."""

    data: Languages
    learned: list[Any] = field(default_factory=list)  # from the sources, see calibration_constants
    _gates: dict[str, LatentGate] = field(default_factory=dict)

    def gate(self, calibration: str = "shrinkage") -> LatentGate:
        """Fit a gate on the source languages, or return the one that was fitted."""
        if calibration not in self._gates:
            self._gates[calibration] = fit(self.data, calibration=calibration)
        return self._gates[calibration]

    @cached_property
    def logistic(self) -> Pipeline:
        """A plain logistic regression, with the C that does best on sources left out."""
        model = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
        )
        grid = {"logisticregression__C": [1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0]}
        search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=LeaveOneGroupOut())
        rows = self.data.source_rows
        search.fit(self.data.X[rows], self.data.y[rows], groups=self.data.language[rows])
        return search.best_estimator_


def fit(data: Languages, **params: object) -> LatentGate:
    """Fit a gate on the source languages."""
    rows = data.source_rows
    gate = LatentGate(unknown_language="source", **(data.params | params))
    return gate.fit(data.X[rows], data.y[rows], language=data.language[rows])


def draws(data: Languages, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Shuffle the targets' train rows: harmless ones, harmful ones."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in data.targets:
        rows = data.rows("train", name)
        found[name] = tuple(rng.permutation(rows[data.y[rows] == label]) for label in (0, 1))
    return found


def both_classes(data: Languages, seed: int, budget: int) -> Shots:
    """Draw as many shots of each class; a larger budget adds to a smaller one."""
    return {
        name: np.concatenate([rows[:budget] for rows in classes])
        for name, classes in draws(data, seed).items()
    }


def budgets_of(data: Languages, seed: int, budgets: list[int] = BUDGETS) -> list[int]:
    """Budgets that a draw is made for: those without a choice, and the largest, in the first."""
    possible = [budget for budget in budgets if budget <= data.pool]
    return [b for b in possible if seed == 0 or 0 < b < min(data.pool, BUDGETS[-1])]


def calibrated(gate: LatentGate, data: Languages, shots: Shots, labels: bool = True) -> LatentGate:
    """Copy a gate and show it rows of several languages."""
    gate, rows = deepcopy(gate), np.concatenate(list(shots.values()))
    if not len(rows):
        return gate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if labels:
            return gate.partial_fit(data.X[rows], data.y[rows], language=data.language[rows])
        return gate.adapt(data.X[rows], language=data.language[rows])


def balanced_accuracy(y: np.ndarray, scores: np.ndarray) -> float:
    """Compute the mean of the two classes' recalls."""
    return float(((scores[y == 1] > 0).mean() + (scores[y == 0] <= 0).mean()) / 2)


def harm_scores(gate: LatentGate, data: Languages, name: str, known: bool = True) -> np.ndarray:
    """Score the test rows of a language; ``known``: tell the gate the language, if it knows it."""
    given = name if known and name in gate.languages_ else None
    return gate.harm_score(data.X[data.rows("test", name)], language=given)


def score(gate: LatentGate, data: Languages, known: bool = True) -> Iterator[Row]:
    """Measure the decisions about the test rows of every target language."""
    for name in data.targets:
        y, scores = data.y[data.rows("test", name)], harm_scores(gate, data, name, known)
        yield {"language": name, "balanced_accuracy": balanced_accuracy(y, scores)}


def bias_of(gate: LatentGate, name: str) -> tuple[float, float, float]:
    """A language's bias, and its 90 % interval."""
    at = gate.languages_ == name
    return float(gate.language_bias_[at][0]), *map(float, gate.bias_interval_[at][0])


def best_bias(gate: LatentGate, data: Languages, name: str, split: str = "test") -> float:
    """Find the bias of a known language that a split asks for.

    It is known in the generator, else that of least log loss.
    """
    if name in data.middle:
        shift = -float(gate.decision_function(data.middle[name][None], language=name)[0])
    else:
        rows = data.rows(split, name)
        scores = gate.decision_function(data.X[rows], language=name)[:, None]
        model = LogisticRegression(class_weight="balanced", C=1e6).fit(scores, data.y[rows])
        shift = float(model.intercept_[0] / model.coef_[0, 0])
    scale = float(gate.language_scale_[gate.languages_ == name][0])
    return bias_of(gate, name)[0] + shift / scale


def bootstrap(frame: pd.DataFrame, value: str, n_draws: int = 1000) -> str:
    """Mean and 95 % interval in points, resampling languages and draws."""
    rng = np.random.default_rng(0)
    cells = frame.pivot_table(index=["variant", "language"], columns="seed", values=value)
    cells = cells.to_numpy()
    means = [
        cells[rng.integers(len(cells), size=len(cells))][
            :, rng.integers(cells.shape[1], size=cells.shape[1])
        ].mean()
        for _ in range(n_draws)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{points(cells.mean())} [{points(low)}, {points(high)}]"


def show(table: pd.DataFrame, title: str) -> None:
    """Print a table as Markdown; missing cells are empty."""
    cells = table.reset_index().map(_cell)
    print(f"\n### {title}\n\n{cells.to_markdown(index=False, disable_numparse=True)}", flush=True)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return str(value)


def points(difference: float) -> str:
    """Write a difference in points."""
    return "" if np.isnan(difference) else f"{round(100 * difference, 1) + 0.0:+.1f}"
