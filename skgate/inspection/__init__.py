"""Displays of what a gate detects and what a model refuses; matplotlib is imported by plotting."""

from __future__ import annotations

from skgate.inspection._budget_curve import BudgetCurveDisplay
from skgate.inspection._layer_sweep import LayerSweepDisplay
from skgate.inspection._projection import ProjectionDisplay
from skgate.inspection._refusal_gap import RefusalGapDisplay
from skgate.inspection._separability import SeparabilityDisplay
from skgate.inspection._strength_sweep import StrengthSweepDisplay

__all__ = [
    "BudgetCurveDisplay",
    "LayerSweepDisplay",
    "ProjectionDisplay",
    "RefusalGapDisplay",
    "SeparabilityDisplay",
    "StrengthSweepDisplay",
]
