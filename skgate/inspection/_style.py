"""Colours, lines and names that the Displays share."""

from __future__ import annotations

from typing import Any

HARMFUL, HARMLESS = "harmful", "harmless"

# Harmful and harmless prompts differ in colour, hatch and line.
HATCHES = {HARMFUL: "", HARMLESS: "////"}
DASHES: dict[str, Any] = {HARMFUL: "-", HARMLESS: "--"}

_PLACES = {HARMFUL: 3, HARMLESS: 0, "own": 2}


def color(name: str) -> Any:
    """Return the colour of "harmful" or "harmless" prompts, or of a language's "own" boundary."""
    import seaborn as sns

    return sns.color_palette("colorblind")[_PLACES[name]]


def group_title(name: str) -> str:
    """Return the title of a tier ("low-resource") or of a language (its code)."""
    return f"{name}-resource" if name in ("high", "mid", "low") else name
