"""Measures of decisions and of refusals, per language."""

from __future__ import annotations

from skgate.metrics._adjusted_rate import adjusted_refusal_rate
from skgate.metrics._language_report import language_report
from skgate.metrics._language_scorer import LanguageScorer
from skgate.metrics._refusal import refusal_rate, refusal_selectivity

__all__ = [
    "LanguageScorer",
    "adjusted_refusal_rate",
    "language_report",
    "refusal_rate",
    "refusal_selectivity",
]
