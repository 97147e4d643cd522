"""Judges, which decide whether a model's reply is a refusal."""

from __future__ import annotations

from skgate.judges._agreement import agreement
from skgate.judges._phrases import PhraseJudge
from skgate.judges._review import read_review, sample_for_review

__all__ = ["PhraseJudge", "agreement", "read_review", "sample_for_review"]
