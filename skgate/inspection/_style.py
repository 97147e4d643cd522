"""Colours, lines and words that the Displays have in common."""

from __future__ import annotations

from typing import Any

HARMFUL, HARMLESS = "harmful", "harmless"

# Kinds of prompts differ in colour, hatch and line.
HATCHES = {HARMFUL: "", HARMLESS: "////"}
DASHES: dict[str, Any] = {HARMFUL: "-", HARMLESS: "--"}

_PLACES = {HARMFUL: 3, HARMLESS: 0, "own": 2}


def color(name: str) -> Any:
    """Return the colour of a kind of prompts, or of a language's own boundary."""
    import seaborn as sns

    return sns.color_palette("colorblind")[_PLACES[name]]


def group_title(name: str) -> str:
    """Name a tier or a language in full."""
    return f"{name}-resource" if name in ("high", "mid", "low") else name
