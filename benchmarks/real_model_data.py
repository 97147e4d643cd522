"""The prompts of real_model.py: of PolyRefuse and MultiJail, and harmless Swahili ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats.qmc import Halton

from skgate.datasets import fetch_multijail, fetch_polyrefuse

SOURCES = ["en", "de", "fr", "es", "it", "nl"]
LANGUAGES = ["en", "de", "ru", "ko", "th", "yo"]
AVERAGED = ["de", "ru", "ko", "th"]  # where the headline's mean is taken
ELSEWHERE = ["en", "ko", "th", "sw", "bn"]


def evenly_spaced(prompts: pd.DataFrame, n: int) -> pd.DataFrame:
    """Take n rows of each language and class; PolyRefuse's test rows come ordered by source."""
    parts = prompts.groupby(["language", "harmful"], sort=False)
    return pd.concat(
        part.iloc[np.linspace(0, len(part) - 1, min(n, len(part))).astype(int)] for _, part in parts
    )


def spread(prompts: pd.DataFrame, n: int) -> pd.DataFrame:
    """Take n rows of each language and class, spread over them, among which are those of fewer."""
    points = Halton(1, scramble=False).random(4 * n)[:, 0]
    parts = prompts.groupby(["language", "harmful"], sort=False)
    return pd.concat(
        part.iloc[pd.unique((points * len(part)).astype(int))[:n]] for _, part in parts
    )


def load_sources(n: int) -> pd.DataFrame:
    """Load train prompts of the source languages."""
    return evenly_spaced(fetch_polyrefuse(split="train", languages=SOURCES).frame, n)


def load_shots(n: int) -> pd.DataFrame:
    """Load train prompts to draw shots from, in the languages that are reported."""
    return evenly_spaced(fetch_polyrefuse(split="train", languages=LANGUAGES).frame, n)


def load_test(n: int) -> pd.DataFrame:
    """Load test prompts; ``group`` is what a prompt and its translations share."""
    frame = spread(fetch_polyrefuse(split="test", languages=LANGUAGES).frame, n)
    return _named(frame, "polyrefuse")


def load_elsewhere(n: int) -> pd.DataFrame:
    """Load prompts of MultiJail, all of them harmful."""
    frame = fetch_multijail(languages=ELSEWHERE).frame
    return _named(spread(frame, n), "multijail")


def load_swahili(path: str) -> pd.DataFrame:
    """Load harmless Swahili prompts, one a line."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    prompts = [line for line in lines if line.strip()]
    ids = [f"harmless-sw-{number:04d}" for number in range(len(prompts))]
    frame = pd.DataFrame({"prompt": prompts, "language": "sw", "harmful": 0, "row_id": ids})
    return _named(frame, "swahili")


def _named(frame: pd.DataFrame, data: str) -> pd.DataFrame:
    """Give each row an id of its own."""
    return pd.DataFrame(
        {
            "id": frame["language"] + "-" + frame["row_id"],
            "prompt": frame["prompt"],
            "language": frame["language"],
            "harmful": frame["harmful"].astype(bool),
            "group": frame["row_id"],
            "data": data,
        }
    ).reset_index(drop=True)
