"""Baselines: what a :class:`skgate.SteeringWrapper` is compared with, under the same protocol."""

from __future__ import annotations

from skgate.baselines._activation_addition import ActivationAddition
from skgate.baselines._directional_ablation import DirectionalAblation
from skgate.baselines._random_direction import RandomDirection
from skgate.baselines._shared_threshold import SharedThreshold
from skgate.baselines._target_direction import TargetDirection

__all__ = [
    "ActivationAddition",
    "DirectionalAblation",
    "RandomDirection",
    "SharedThreshold",
    "TargetDirection",
]
