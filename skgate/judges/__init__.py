"""Judges, which decide whether a model's reply is a refusal, and what to do with their verdicts."""

from __future__ import annotations

from skgate.judges._agreement import agreement
from skgate.judges._chat import ChatJudge
from skgate.judges._guard import GuardModelJudge
from skgate.judges._latent import LatentJudge
from skgate.judges._phrases import PhraseJudge
from skgate.judges._review import read_review, sample_for_review

__all__ = [
    "ChatJudge",
    "GuardModelJudge",
    "LatentJudge",
    "PhraseJudge",
    "agreement",
    "read_review",
    "sample_for_review",
]
