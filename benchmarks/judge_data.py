"""Replies of Qwen2.5-Coder-1.5B-Instruct: ids, verdicts of readers and of PhraseJudge, activations.

``judge_replies.py`` made the replies and the activations. The texts are not here. Columns:

- ``sample``: "train" and "val" prompts of PolyRefuse; "test" prompts, whose verdicts somebody else
  gave; "phrases", other val prompts at other strengths, to measure PhraseJudge on
- ``harmful``: whether the prompt is
- ``block``, ``strength``: where and how strongly the model was steered; empty if not at all
- ``all_steered``: whether harmless prompts were steered towards refusal, too
- ``verdict``, ``second_verdict``: "refused", "answered", "garbled", or "not understood" for replies
  that ask what a prompt means, which readers disagree on
- ``phrase_verdict``: of PhraseJudge
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from skgate.judges import LatentJudge

DATA = Path(__file__).with_name("data")
TARGETS = ["de", "es", "ru", "ja", "ko", "th", "yo"]


def load_replies() -> pd.DataFrame:
    """Load the table; ``refused`` is 1, 0 or missing, ``row`` the number of a reply."""
    replies = pd.read_csv(DATA / "qwen_replies.csv", keep_default_na=False)
    codes = {"refused": 1.0, "answered": 0.0, "garbled": 0.0}
    return replies.assign(
        refused=replies["verdict"].map(codes),
        second=replies["second_verdict"].map(codes),
        row=range(len(replies)),
    )


def load_activations() -> np.ndarray:
    """Load block 15 at the last token, of all replies but the sample "phrases"."""
    stored = np.load(DATA / "qwen_replies.npz")
    return stored["scaled"] * stored["scale"] + stored["offset"]


class StoredReader:
    """Looks up activations, for replies that are numbers of rows."""

    def __init__(self, activations: np.ndarray) -> None:
        self.activations = activations

    def transform(self, conversations: list) -> np.ndarray:
        return self.activations[[int(one[-1]["content"]) for one in conversations]]


def as_conversations(replies: pd.DataFrame) -> pd.DataFrame:
    """Make what LatentJudge reads; a reply is the number of its row."""
    numbers = replies["row"].astype(str)
    return pd.DataFrame({"prompt": "?", "reply": numbers, "harmful": replies["harmful"] == 1})


class StoredPhrases:
    """Looks up PhraseJudge's verdicts, for replies that are numbers of rows."""

    def __init__(self, verdicts: pd.Series) -> None:
        self.verdicts = verdicts

    def is_refusal(self, replies: list, prompts: object = None, language: object = None) -> object:
        return self.verdicts.to_numpy()[[int(one) for one in replies]] == 1


def fit_on_english(replies: pd.DataFrame, activations: np.ndarray) -> LatentJudge:
    """Fit a judge to the verdicts on English replies to train prompts."""
    english = replies.query("language == 'en' and sample == 'train'")
    judge = LatentJudge(StoredReader(activations))
    return judge.fit(as_conversations(english), english["refused"], language="en")


def fit_on_phrases(
    replies: pd.DataFrame, activations: np.ndarray, languages: list[str]
) -> LatentJudge:
    """Fit a judge to PhraseJudge's verdicts on replies in some languages."""
    rows = replies.query("sample == 'train' and language in @languages")
    judge = LatentJudge(
        StoredReader(activations), labeller=StoredPhrases(replies["phrase_verdict"])
    )
    return judge.fit(as_conversations(rows), language=rows["language"])
