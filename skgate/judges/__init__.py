"""Judges, which decide whether a model's reply is a refusal, and what to do with their verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skgate.judges._agreement import agreement
from skgate.judges._chat import ChatJudge
from skgate.judges._guard import GuardModelJudge
from skgate.judges._phrases import PhraseJudge
from skgate.judges._review import read_review, sample_for_review

if TYPE_CHECKING:
    from skgate.judges._latent import LatentJudge

__all__ = [
    "ChatJudge",
    "GuardModelJudge",
    "LatentJudge",
    "PhraseJudge",
    "agreement",
    "read_review",
    "sample_for_review",
]


def __getattr__(name: str) -> Any:
    if name == "LatentJudge":  # it imports torch
        from skgate.judges._latent import LatentJudge

        return LatentJudge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
