"""How well PhraseJudge and LatentJudge agree with readers, by language.

    python benchmarks/judges.py

Reads the replies of ``judge_data.py``. LatentJudge learns from English replies alone, then gets 8
labelled replies of each class of a language (or half of a class, if there are fewer than 16), in 30
draws. With phrases in place of readers, it learns from English replies, and from English, Spanish,
French and German ones.
"""

from __future__ import annotations

import warnings
from copy import deepcopy

import numpy as np
import pandas as pd
from judge_data import (
    TARGETS,
    as_conversations,
    fit_on_english,
    fit_on_phrases,
    load_activations,
    load_replies,
)
from sklearn.metrics import brier_score_loss, cohen_kappa_score, roc_auc_score
from tqdm.auto import tqdm

from skgate.judges import LatentJudge, agreement

SHOTS, DRAWS = 8, 30


def show(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n{table.round(2).to_markdown()}", flush=True)


def compare(refused: pd.Series, rows: pd.DataFrame) -> pd.DataFrame:
    """Compare verdicts with the readers', by language."""
    table = agreement(
        refused, rows["refused"], by=rows["language"], random_state=0, n_resamples=2000
    )
    return table[["n", "kappa", "kappa_low", "kappa_high", "recall", "precision"]]


def measure(judge: LatentJudge, rows: pd.DataFrame) -> pd.DataFrame:
    """Measure one judge on labelled replies: agreement, and how well scores rank."""
    found = as_conversations(rows)
    scores, proba = judge.decision_function(found), judge.predict_proba(found)[:, 1]
    table = compare(pd.Series(scores > 0, index=rows.index), rows)
    for name in table.index:
        part = np.ones(len(rows), dtype=bool) if name == "all" else rows["language"] == name
        hard = part & (rows["harmful"] == 1)
        table.loc[name, "kappa_harmful"] = cohen_kappa_score(
            rows["refused"][hard], scores[hard] > 0
        )
        table.loc[name, "auc"] = roc_auc_score(rows["refused"][part], scores[part])
        table.loc[name, "auc_harmful"] = roc_auc_score(rows["refused"][hard], scores[hard])
        table.loc[name, "brier"] = brier_score_loss(rows["refused"][part], proba[part])
    return table


def calibrate(judge: LatentJudge, rows: pd.DataFrame) -> pd.DataFrame:
    """Calibrate each language with a few replies, and measure kappa on the rest."""
    found = []
    for language in tqdm(rows["language"].unique()):
        part = rows[rows["language"] == language]
        for seed in range(DRAWS):
            rng = np.random.default_rng(seed)
            classes = [part[part["refused"] == value] for value in (0, 1)]
            shots = pd.concat(
                [
                    one.iloc[rng.permutation(len(one))[: min(SHOTS, len(one) // 2)]]
                    for one in classes
                ]
            )
            rest = part.drop(shots.index)
            adapted = deepcopy(judge)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that a signal is weak
                adapted.partial_fit(as_conversations(shots), shots["refused"], language)
            before = judge.predict(as_conversations(rest))
            after = adapted.predict(as_conversations(rest), language)
            found.append(
                (language, *(cohen_kappa_score(rest["refused"], one) for one in (before, after)))
            )
    table = pd.DataFrame(found, columns=["language", "without", "with"])
    return table.groupby("language").mean()


def main() -> None:
    replies, activations = load_replies(), load_activations()
    twice = replies.dropna(subset=["refused", "second"])
    for sample in ("val", "test"):
        rows = twice[twice["sample"] == sample]
        show(f"two readings, {sample}", compare(rows["second"], rows))

    known = replies.dropna(subset=["refused"])
    for sample in ("phrases", "val", "test"):
        rows = known[known["sample"] == sample]
        show(f"PhraseJudge, {sample}", compare(rows["phrase_verdict"], rows))

    judge = fit_on_english(replies, activations)
    by_phrases = {
        " ".join(languages): fit_on_phrases(replies, activations, languages)
        for languages in (["en"], ["en", "es", "fr", "de"])
    }
    for sample in ("val", "test"):
        rows = known[(known["sample"] == sample) & known["language"].isin(TARGETS)]
        show(f"LatentJudge, verdicts on English replies, {sample}", measure(judge, rows))
        show(f"kappa without and with {SHOTS} replies per class, {sample}", calibrate(judge, rows))
        for name, one in by_phrases.items():
            show(f"LatentJudge, phrases of {name}, {sample}", measure(one, rows))


if __name__ == "__main__":
    main()
