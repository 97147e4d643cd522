"""Calibrating a language: how many shots, which calibration, and how sure of itself the gate is.

    python benchmarks/calibration.py                    # everything: about an hour on one core
    python benchmarks/calibration.py --quick            # one variant per data set, 5 draws
    python benchmarks/calibration.py --part budgets detect

Three data sets (see calibration_data.py). Gates are fitted on the sources' train split, shots come
from the targets' train split, drawn anew for each seed, a larger budget adding to the smaller;
the targets' whole test split is scored. All calibrations see the same shots. Figures are means over
languages, seeds and variants (layers, blocks, worlds); intervals are 95 % bootstrap intervals over
languages and seeds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from calibration_data import Languages, every_dataset
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from skgate import LatentGate
from skgate.gate import _shift_prior

BUDGETS = [0, 1, 2, 4, 8, 16, 32, 64]
CALIBRATIONS = ["shrinkage", "refit", "threshold"]
KEYS = ["dataset", "variant", "language", "seed"]


def fit(data: Languages, calibration: str = "shrinkage", **params: object) -> LatentGate:
    """Fit a gate on the source languages."""
    rows = data.source_rows
    gate = LatentGate(calibration=calibration, unknown_language="source", **params)
    return gate.fit(data.X[rows], data.y[rows], language=data.language[rows])


def draws(data: Languages, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The targets' train rows in random order: harmless ones, harmful ones."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in data.targets:
        rows = data.rows("train", name)
        found[name] = tuple(rng.permutation(rows[data.y[rows] == label]) for label in (0, 1))
    return found


def calibrated(
    gate: LatentGate, data: Languages, shots: dict[str, np.ndarray], labels: bool = True
) -> LatentGate:
    """A copy of a gate that has seen rows of several languages."""
    gate, rows = deepcopy(gate), np.concatenate(list(shots.values()))
    if not len(rows):
        return gate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if labels:
            return gate.partial_fit(data.X[rows], data.y[rows], language=data.language[rows])
        return gate.adapt(data.X[rows], language=data.language[rows])


def balanced_accuracy(y: np.ndarray, scores: np.ndarray) -> float:
    """Mean of the two classes' recalls."""
    return float(((scores[y == 1] > 0).mean() + (scores[y == 0] <= 0).mean()) / 2)


def score(gate: LatentGate, data: Languages, known: bool = True) -> Iterator[dict[str, object]]:
    """Score the test rows of every target language; ``known``: tell the gate the language."""
    for name in data.targets:
        rows = data.rows("test", name)
        given = name if known and name in gate.languages_ else None
        scores, y = gate.harm_score(data.X[rows], language=given), data.y[rows]
        yield {
            "language": name,
            "balanced_accuracy": balanced_accuracy(y, scores),
            "f1": f1_score(y, scores > 0, zero_division=0),
        }


def bootstrap(frame: pd.DataFrame, value: str) -> str:
    """Mean and 95 % interval, resampling languages and seeds."""
    rng = np.random.default_rng(0)
    table = frame.pivot_table(index=["dataset", "language"], columns="seed", values=value)
    cells = table.to_numpy()
    means = [
        np.nanmean(
            cells[rng.integers(len(cells), size=len(cells))][
                :, rng.integers(cells.shape[1], size=cells.shape[1])
            ]
        )
        for _ in range(1000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{np.nanmean(cells):.3f} ({low:.3f} to {high:.3f})"


def show(table: pd.DataFrame, title: str) -> None:
    """Print a table as Markdown."""
    table = table.reset_index()
    print(
        f"\n### {title}\n\n| {' | '.join(map(str, table.columns))} |\n|{' --- |' * table.shape[1]}"
    )
    for row in table.itertuples(index=False):
        cells = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row]
        print(f"| {' | '.join(cells)} |", flush=True)


def budgets(data: Languages, seeds: int) -> Iterator[dict[str, object]]:
    """Score every calibration at every budget, and what the subspace allows at best."""
    for name in data.targets:
        train, test = data.rows("train", name), data.rows("test", name)
        gate = fit(data, rank=10, C=1.0)
        z = [data.X[rows] @ gate.basis_ for rows in (train, test)]
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        scores = model.fit(z[0], data.y[train]).decision_function(z[1])
        full = balanced_accuracy(data.y[test], scores)
        yield {"method": "logistic, all", "language": name, "seed": 0, "balanced_accuracy": full}
    for calibration in CALIBRATIONS:
        gate = fit(data, calibration)
        for seed in range(seeds):
            order = draws(data, seed)
            for budget in BUDGETS:
                shots = {k: np.concatenate([c[:budget] for c in v]) for k, v in order.items()}
                for row in score(calibrated(gate, data, shots), data):
                    yield {"method": calibration, "budget": budget, "seed": seed, **row}


def show_budgets(frame: pd.DataFrame) -> None:
    """Tables by data set and budget, and the targets."""
    full = frame[frame["method"] == "logistic, all"]
    frame = frame[frame["method"] != "logistic, all"].astype({"budget": int})
    for value in ("balanced_accuracy", "f1"):
        table = frame.pivot_table(index=["dataset", "method"], columns="budget", values=value)
        show(table, f"{value}, mean by shots per class")
    worst = frame.groupby(["dataset", "method", "budget", "seed"])["balanced_accuracy"].mean()
    show(
        worst.groupby(["dataset", "method", "budget"]).quantile(0.1).unstack(),
        "balanced accuracy, worst decile of the seeds (means over languages and variants)",
    )
    worst = frame.groupby(["dataset", "method", "budget"])["balanced_accuracy"].quantile(0.1)
    show(worst.unstack(), "balanced accuracy, worst decile of seeds, languages and variants")
    show(full.groupby("dataset")[["balanced_accuracy"]].mean(), "logistic of all train prompts")
    wide = frame.pivot_table(
        index=[*KEYS, "budget"], columns="method", values="balanced_accuracy"
    ).reset_index()
    rows = []
    for (dataset, budget), part in wide.groupby(["dataset", "budget"]):
        row = {"dataset": dataset, "budget": budget}
        for other in ("refit", "threshold"):
            gain = part.assign(gain=part["shrinkage"] - part[other])
            row[f"over {other}"] = bootstrap(gain, "gain")
        rows.append(row)
    show(pd.DataFrame(rows).set_index("dataset"), "balanced accuracy of shrinkage less others'")


def harmless(data: Languages, seeds: int) -> Iterator[dict[str, object]]:
    """Harmless shots alone, against as many labelled ones of both classes."""
    gate = fit(data)
    for seed in range(seeds):
        order = draws(data, seed)
        for n in (8, 32):
            ways = {
                "harmless alone": {k: v[0][:n] for k, v in order.items()},
                "as many of both": {
                    k: np.concatenate([c[: n // 2] for c in v]) for k, v in order.items()
                },
            }
            for way, shots in ways.items():
                for row in score(calibrated(gate, data, shots), data):
                    yield {"way": way, "shots": n, "seed": seed, **row}


def show_harmless(frame: pd.DataFrame) -> None:
    """Table by data set."""
    show(
        frame.pivot_table(index=["dataset", "way"], columns="shots", values="balanced_accuracy"),
        "balanced accuracy by total shots",
    )


def detect(data: Languages, seeds: int) -> Iterator[dict[str, object]]:
    """The language given, against told from the activation."""
    gate = fit(data)
    for seed in range(min(seeds, 10)):
        order = draws(data, seed)
        for budget in (1, 4, 16):
            shots = {k: np.concatenate([c[:budget] for c in v]) for k, v in order.items()}
            known = calibrated(gate, data, shots)
            for row in score(known, data):
                yield {"way": "given", "budget": budget, "seed": seed, **row}
            known.set_params(unknown_language="detect")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                found = list(score(known, data, known=False))
            for row in found:
                rows = data.rows("test", row["language"])
                posterior = known.predict_language_proba(data.X[rows])
                names = np.array([*known.languages_, "unseen"])
                right = names[posterior.argmax(axis=1)] == row["language"]
                yield {
                    "way": "detected", "budget": budget, "seed": seed,
                    "recognised": right.mean(), **row,
                }  # fmt: skip


def show_detect(frame: pd.DataFrame) -> None:
    """Table by data set and budget."""
    table = frame.pivot_table(
        index=["dataset", "budget"], columns="way", values="balanced_accuracy"
    )
    table["language recognised"] = frame.groupby(["dataset", "budget"])["recognised"].mean()
    show(table, "balanced accuracy, the language given or detected")


def unlabelled(data: Languages, seeds: int) -> Iterator[dict[str, object]]:
    """64 prompts without labels, by the share of harmful ones, against shots."""
    gate = fit(data)
    for seed in range(min(seeds, 5)):
        order = draws(data, seed)
        shots = {k: np.concatenate([c[:4] for c in v]) for k, v in order.items()}
        ways = {"zero-shot": gate, "4 shots per class": calibrated(gate, data, shots)}
        for share in (0.5, 0.25, 0.1, 0.0):
            n = round(64 * share)
            rest = {k: np.r_[v[0][4 : 68 - n], v[1][4 : 4 + n]] for k, v in order.items()}
            ways[f"64 unlabelled, {share:.0%} harmful"] = calibrated(gate, data, rest, labels=False)
        for way, one in ways.items():
            for row in score(one, data):
                yield {"way": way, "seed": seed, **row}


def show_unlabelled(frame: pd.DataFrame) -> None:
    """Table by data set; the share of the shots' gain."""
    table = frame.pivot_table(
        index="dataset", columns="way", values="balanced_accuracy", sort=False
    )
    gain = table["64 unlabelled, 50% harmful"] - table["zero-shot"]
    table["share of the shots' gain (at 50%)"] = gain / (
        table["4 shots per class"] - table["zero-shot"]
    )
    show(table, "balanced accuracy, adapting to unlabelled prompts")


def best_bias(gate: LatentGate, data: Languages, name: str, split: str = "test") -> float:
    """The bias that a split asks for: known in the generator, else that of least log loss."""
    if name in data.middle:
        return -float(gate.decision_function(data.middle[name][None])[0])
    rows = data.rows(split, name)
    scores = gate.decision_function(data.X[rows])[:, None]
    model = LogisticRegression(class_weight="balanced", C=1e6).fit(scores, data.y[rows])
    return float(model.intercept_[0] / model.coef_[0, 0])


def intervals(data: Languages, seeds: int) -> Iterator[dict[str, object]]:
    """Whether the intervals of the bias cover what the test split, or all of train, asks for."""
    gate = fit(data)
    splits = ("test", "train")
    truth = {(n, s): best_bias(gate, data, n, s) for n in data.targets for s in splits}
    for seed in range(seeds):
        order = draws(data, seed)
        for budget in BUDGETS[1:]:
            shots = {k: np.concatenate([c[:budget] for c in v]) for k, v in order.items()}
            known = calibrated(gate, data, shots)
            for name, split in truth:
                low, high = known.bias_interval_[known.languages_ == name][0]
                yield {
                    "budget": budget, "seed": seed, "language": name, "best on": split,
                    "covered": low <= truth[name, split] <= high, "width": high - low,
                }  # fmt: skip


def show_intervals(frame: pd.DataFrame) -> None:
    """Coverage and width by data set and budget."""
    frame = frame.astype({"covered": float})
    for value, title in {"covered": "share of 90 % intervals of the bias that cover",
                         "width": "their mean width"}.items():  # fmt: skip
        show(frame.pivot_table(index=["dataset", "best on"], columns="budget", values=value), title)


def bounds(data: Languages, seeds: int) -> Iterator[dict[str, object]]:
    """Whether the error rates of operating points stay below their bounds."""
    gate = fit(data)
    targets = {8: 0.3, 16: 0.2, 32: 0.1, 64: 0.05}
    for seed in range(seeds):
        order = draws(data, seed)
        for budget, target in targets.items():
            shots = {k: np.concatenate([c[:budget] for c in v]) for k, v in order.items()}
            known = calibrated(gate, data, shots)
            for name in data.targets:
                unused = np.setdiff1d(data.rows("train", name), shots[name])
                for drawn, rows in {"test": data.rows("test", name), "train": unused}.items():
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
                                "budget": budget, "seed": seed, "language": name, "on": drawn,
                                "bounds": "targeted" if bounded == rate else "other rate",
                                "target": target, "bound": bound, "error": error,
                                "holds": error <= bound,
                            }  # fmt: skip


def show_bounds(frame: pd.DataFrame) -> None:
    """How often the bounds hold, and how high they are."""
    frame = frame.astype({"holds": float})
    table = frame.groupby(["dataset", "on", "bounds", "budget", "target"])[
        ["holds", "bound", "error"]
    ]
    show(table.mean(), "operating points at 90 % confidence: share of draws in which a bound holds")


def reliability(data: Languages, seeds: int) -> Iterator[dict[str, object]]:
    """Predicted probability against frequency, both classes weighing the same."""
    for calibration in CALIBRATIONS:
        gate = fit(data, calibration)
        for seed in range(min(seeds, 5)):
            order = draws(data, seed)
            for budget in (0, 1, 4, 16, 64):
                shots = {k: np.concatenate([c[:budget] for c in v]) for k, v in order.items()}
                known = calibrated(gate, data, shots)
                for name in data.targets:
                    rows, given = data.rows("test", name), name if budget else None
                    p, y = known.predict_proba(data.X[rows], language=given)[:, 1], data.y[rows]
                    weight = np.where(y == 1, 0.5 / y.sum(), 0.5 / (1 - y).sum())
                    bins = np.minimum((p * 10).astype(int), 9)
                    for k in np.unique(bins):
                        of = bins == k
                        yield {
                            "method": calibration, "budget": budget, "seed": seed,
                            "language": name, "bin": k, "weight": weight[of].sum(),
                            "predicted": np.average(p[of], weights=weight[of]),
                            "frequency": np.average(y[of], weights=weight[of]),
                        }  # fmt: skip


def show_reliability(frame: pd.DataFrame) -> None:
    """Expected calibration error by data set and budget."""
    frame = frame.assign(ece=frame["weight"] * (frame["predicted"] - frame["frequency"]).abs())
    error = frame.groupby(["method", "budget", *KEYS])["ece"].sum().reset_index()
    show(
        error.pivot_table(index=["dataset", "method"], columns="budget", values="ece"),
        "expected calibration error (10 bins, classes weighing the same)",
    )


def suggestions(data: Languages, seeds: int) -> Iterator[dict[str, object]]:
    """Label the prompts that the gate suggests, or as many at random, out of 150."""
    gate = fit(data)
    truth = {name: best_bias(gate, data, name) for name in data.targets}
    for seed in range(min(seeds, 5)):
        rng, order = np.random.default_rng([3, seed]), draws(data, seed)
        for share in (0.5, 0.1):
            n = round(150 * share)
            pools = {k: np.r_[v[0][: 150 - n], v[1][:n]] for k, v in order.items()}
            for labels in (4, 8, 16):
                ways = {
                    "suggested": {
                        k: pool[gate.suggest(data.X[pool], k, n=labels)]
                        for k, pool in pools.items()
                    },
                    "random": {k: rng.choice(pool, labels, False) for k, pool in pools.items()},
                }
                for way, shots in ways.items():
                    known = calibrated(gate, data, shots)
                    for row in score(known, data):
                        at = known.languages_ == row["language"]
                        low, high = known.bias_interval_[at][0]
                        error = abs(known.language_bias_[at][0] - truth[row["language"]])
                        yield {
                            "way": way, "share": share, "labels": labels, "seed": seed,
                            "width": high - low, "bias error": error, **row,
                        }  # fmt: skip


def show_suggestions(frame: pd.DataFrame) -> None:
    """Table by data set, share and labels."""
    frame = frame.assign(share=frame["share"].map("{:.0%}".format))
    table = frame.groupby(["dataset", "share", "labels", "way"])[
        ["balanced_accuracy", "width", "bias error"]
    ]
    show(table.mean().rename(columns={"width": "width of the interval"}), "which prompts to label")


def among_sources(data: Languages) -> list[Languages]:
    """Half of the sources as sources, the other half as targets, and the other way round."""
    halves = data.sources[::2], data.sources[1::2]
    return [replace(data, sources=a, targets=b, middle={}) for a, b in (halves, halves[::-1])]


def sensitivity(data: Languages, seeds: int) -> Iterator[dict[str, object]]:
    """What the assumed constants of shrinkage matter: each halved and doubled."""
    roles = {"targets": [data], "sources held out": among_sources(data)}
    names = ["_SHIFT", "_SQUEEZE", "_SQUEEZE_SPREAD", "WIDTH_ROWS", "TAILS"]
    for role, name, factor in product(roles, names, (0.5, 1.0, 2.0)):
        usual = getattr(_shift_prior, name)
        setattr(_shift_prior, name, usual * factor)
        for one in roles[role]:
            gate = fit(one)
            for seed in range(min(seeds, 5)):
                order = draws(one, seed)
                ways = {
                    "1 shot per class": {k: np.r_[v[0][:1], v[1][:1]] for k, v in order.items()},
                    "8 harmless": {k: v[0][:8] for k, v in order.items()},
                }
                for way, shots in ways.items():
                    for row in score(calibrated(gate, one, shots), one):
                        yield {
                            "on": role, "constant": name, "factor": factor, "way": way,
                            "seed": seed, **row,
                        }  # fmt: skip
        setattr(_shift_prior, name, usual)


def show_sensitivity(frame: pd.DataFrame) -> None:
    """Table by data set and constant."""
    table = frame.pivot_table(
        index=["dataset", "on", "way", "constant"], columns="factor", values="balanced_accuracy"
    )
    show(table, "balanced accuracy with each assumed constant halved and doubled")


def show_speed() -> None:
    """Time fit and partial_fit at the width of a 7B model; best of 7, CPU seconds."""
    rng = np.random.default_rng(0)
    y, language = np.tile([0, 1], 2300), np.repeat([f"l{i}" for i in range(10)], 460)
    X = rng.normal(size=(4600, 3584)) + 0.1 * y[:, None] * rng.normal(size=3584)
    seconds = {"fit, 10 x 460 x 3,584": [], "partial_fit, 8 shots": []}
    for _ in range(7):
        start = time.process_time()
        gate = LatentGate().fit(X, y, language=language)
        seconds["fit, 10 x 460 x 3,584"].append(time.process_time() - start)
        start = time.process_time()
        gate.partial_fit(X[:8], y[:8], language="sw")
        seconds["partial_fit, 8 shots"].append(time.process_time() - start)
    table = pd.DataFrame({"median, ms": {k: 1000 * np.median(v) for k, v in seconds.items()},
                          "least, ms": {k: 1000 * min(v) for k, v in seconds.items()}})  # fmt: skip
    show(table.rename_axis("call"), "CPU time, float64, one thread")


PARTS = {
    "budgets": (budgets, show_budgets),
    "harmless": (harmless, show_harmless),
    "detect": (detect, show_detect),
    "unlabelled": (unlabelled, show_unlabelled),
    "intervals": (intervals, show_intervals),
    "bounds": (bounds, show_bounds),
    "reliability": (reliability, show_reliability),
    "suggestions": (suggestions, show_suggestions),
    "sensitivity": (sensitivity, show_sensitivity),
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one variant per data set, 5 seeds")
    parser.add_argument("--part", nargs="+", default=[*PARTS, "speed"], choices=[*PARTS, "speed"])
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder of the CSVs")
    parser.add_argument("--store", help="folder of an ActivationStore for MiniLM's activations")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    seeds = 5 if options.quick else 30
    rows: dict[str, list[dict[str, object]]] = {part: [] for part in options.part}
    for data in every_dataset(options.store, options.quick):
        for part in tqdm(set(options.part) - {"speed"}, desc=f"{data.dataset}, {data.variant}"):
            of = {"dataset": data.dataset, "variant": data.variant}
            rows[part] += [of | row for row in PARTS[part][0](data, seeds)]
    for part, (_, present) in PARTS.items():
        if part in options.part:
            frame = pd.DataFrame(rows[part])
            frame.to_csv(options.output / f"calibration_{part}.csv", index=False)
            present(frame)
    if "speed" in options.part:
        show_speed()


if __name__ == "__main__":
    main()
