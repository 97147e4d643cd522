"""The tiers of languages in the paper, by their share of Common Crawl."""

from __future__ import annotations

_TIERS = {
    "high": ("en", "de", "fr", "es", "it", "nl", "pl", "ru", "zh", "ja"),
    "mid": ("ar", "ko", "th", "el", "he", "hi", "fa"),
    "low": ("sw", "am", "my", "km", "si", "yo"),
}

LANGUAGE_TIERS = {language: tier for tier, languages in _TIERS.items() for language in languages}
