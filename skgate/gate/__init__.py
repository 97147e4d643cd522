"""Activations in, decisions out: the gate, and what it learns of each language."""

from __future__ import annotations

from skgate.gate._latent_gate import LatentGate
from skgate.gate._operating_point import OperatingPoint

__all__ = ["LatentGate", "OperatingPoint"]
