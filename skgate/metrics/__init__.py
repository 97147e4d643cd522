"""Measures of decisions and of refusals, per language."""

from __future__ import annotations

from skgate.metrics._language_report import language_report
from skgate.metrics._language_scorer import LanguageScorer
from skgate.metrics._refusal import refusal_rate, refusal_selectivity

__all__ = ["LanguageScorer", "language_report", "refusal_rate", "refusal_selectivity"]
