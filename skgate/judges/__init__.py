"""Judges, which decide whether a model's reply is a refusal."""

from __future__ import annotations

from skgate.judges._chat import ChatJudge
from skgate.judges._phrases import PhraseJudge

__all__ = ["ChatJudge", "PhraseJudge"]
