"""The tiers of languages, by their share of Common Crawl."""

from __future__ import annotations

# The tiers of the paper. Those of vi, bn and jv are from Deng et al., arXiv 2310.06474, who agree
# with the paper on zh, it, ar, ko, th and sw.
_TIERS = {
    "high": ("en", "de", "fr", "es", "it", "nl", "pl", "ru", "zh", "ja", "vi"),
    "mid": ("ar", "ko", "th", "el", "he", "hi", "fa"),
    "low": ("sw", "am", "my", "km", "si", "yo", "bn", "jv"),
}

LANGUAGE_TIERS = {language: tier for tier, languages in _TIERS.items() for language in languages}
