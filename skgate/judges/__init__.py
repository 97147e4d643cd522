"""Judges, which decide whether a model's reply is a refusal."""

from __future__ import annotations

from skgate.judges._guard import GuardModelJudge
from skgate.judges._phrases import PhraseJudge

__all__ = ["GuardModelJudge", "PhraseJudge"]
