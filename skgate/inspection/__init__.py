"""Pictures of what a gate sees and a model does; matplotlib is imported when they are drawn."""

from __future__ import annotations

from skgate.inspection._projection import ProjectionDisplay
from skgate.inspection._refusal_gap import RefusalGapDisplay
from skgate.inspection._separability import SeparabilityDisplay

__all__ = ["ProjectionDisplay", "RefusalGapDisplay", "SeparabilityDisplay"]
