"""Steering a language model by the decisions of its gate, while it generates."""

from __future__ import annotations

from skgate.steering._relocation import relocate
from skgate.steering._wrapper import SteeringWrapper

__all__ = ["SteeringWrapper", "relocate"]
