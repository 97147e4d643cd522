"""How models answer sets of prompts: reading prompts, counting refusals, comparing models."""

from __future__ import annotations

from skgate.evaluation._compare import compare
from skgate.evaluation._load_prompts import load_prompts
from skgate.evaluation._refusal import evaluate_refusal
from skgate.evaluation._reply_drift import reply_drift

__all__ = ["compare", "evaluate_refusal", "load_prompts", "reply_drift"]
