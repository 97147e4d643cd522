"""Whether diagnose tells languages that a threshold helps from those that none does.

    python benchmarks/diagnosis.py FOLDER

FOLDER holds ``qwen15b_polyrefuse.npz`` and ``qwen15b_multijail.npz``: activations of
Qwen2.5-Coder-1.5B-Instruct at the last token, with language, split, label and the blocks' numbers.
Gates learn from six languages of PolyRefuse. Japanese, Korean, Polish and Yoruba give shots from
the train split, and errors are measured on the test split and on the train prompts that were no
shots. Swahili has MultiJail's harmful prompts and 40 harmless ones: shots are drawn from these, and
errors measured on the rest. Eight shots of each class, 30 draws.
"""

from __future__ import annotations

import sys
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
from calibration_common import balanced_accuracy, show
from tqdm.auto import tqdm

from skgate import LatentGate

SOURCES = ["en", "de", "es", "fr", "it", "nl"]
SHOTS, DRAWS = 8, 30


def draw(y: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Draw as many rows of each class."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(rows[y[rows] == label])[:SHOTS] for label in (0, 1)])


def measure(folder: Path, block: int) -> pd.DataFrame:
    """Diagnose each language after each draw: a row for each set of prompts that errors are of."""
    refuse, jail = (np.load(folder / f"qwen15b_{name}.npz") for name in ("polyrefuse", "multijail"))
    swahili = jail["language"] == "sw"
    X = np.concatenate(
        [one["activations"][rows, list(one["layers"]).index(block)].astype(float)
         for one, rows in ((refuse, slice(None)), (jail, swahili))]
    )  # fmt: skip
    y = np.concatenate([refuse["harmful"], jail["harmful"][swahili]]).astype(int)
    language = np.concatenate([refuse["language"], jail["language"][swahili]]).astype(object)
    train = np.concatenate([refuse["split"] == "train", np.ones(swahili.sum(), dtype=bool)])
    is_source = train & np.isin(language, SOURCES)
    fitted = LatentGate().fit(X[is_source], y[is_source], language=language[is_source])
    found = []
    for seed in tqdm(range(DRAWS), desc=f"block {block}"):
        for name in ("ja", "ko", "pl", "yo", "sw"):
            pool = np.flatnonzero(train & (language == name))
            shots = draw(y, pool, seed)
            gate = deepcopy(fitted)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that the signal is weak
                gate.partial_fit(X[shots], y[shots], language=name)
            of = gate.diagnose(name).loc[name]
            test = np.flatnonzero(~train & (language == name))
            for on, rows in {"test": test, "train": np.setdiff1d(pool, shots)}.items():
                if len(rows):
                    error = 1 - balanced_accuracy(y[rows], gate.harm_score(X[rows], language=name))
                    found.append(
                        {"block": block, "language": name, "errors of": on, "error": error,
                         "stated error": of["error"],
                         "covered": float(of["error_low"] <= error <= of["error_high"]),
                         "separable": float(of["verdict"] == "separable"),
                         "weak signal": float(of["verdict"].startswith("weak"))}
                    )  # fmt: skip
    return pd.DataFrame(found)


def main() -> None:
    """Measure at two blocks."""
    folder = Path(sys.argv[1])
    frame = pd.concat([measure(folder, block) for block in (15, 17)])
    table = frame.groupby(["block", "language", "errors of"], sort=False).mean()
    show(table, "Verdicts (shares of draws) and errors, 8 shots per class")


if __name__ == "__main__":
    main()
