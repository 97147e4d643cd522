"""Finding phrases in texts of any script."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_APOSTROPHES = "\u2018\u2019\u201b\u02bb\u02bc\u2032\u00b4\u0060"
_QUOTES = "\u201c\u201d\u201e\u201f\u00ab\u00bb"
_PAUSES = ",\u060c\u1363\u104a\u3001\uff0c\u2013\u2014"  # commas of many scripts, and dashes
_PLAIN = str.maketrans(
    {
        **dict.fromkeys(_APOSTROPHES, "'"),
        **dict.fromkeys(_QUOTES, '"'),
        **dict.fromkeys(_PAUSES, " "),
        **dict.fromkeys("*_\u0640", ""),  # emphasis: Markdown's, and Arabic's long line
        "\u064a": "\u06cc",  # Arabic yeh and kaf, often used for the Persian letters
        "\u0649": "\u06cc",
        "\u0643": "\u06a9",
    }
)
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_STACKERS = "\u1039\u17d2"  # Burmese and Khmer: the next consonant belongs to this syllable


def normalise(text: str) -> str:
    """Simplify a text, so that spellings which look or read alike become equal.

    It applies NFKC and case folding; removes invisible characters, accents, vowel points and
    emphasis; makes apostrophes and quotes plain; and turns white space, commas and dashes into
    single spaces. The vowel signs of Indic and similar scripts stay, because they distinguish
    words.
    """
    text = unicodedata.normalize("NFKC", text.translate(_PLAIN)).casefold()
    text = "".join(c for c in unicodedata.normalize("NFD", text) if not _is_dropped(c))
    return " ".join(unicodedata.normalize("NFC", text).translate(_PLAIN).split())


def begins_with_any(phrases: Iterable[str], text: str, opening: int | None) -> bool:
    """Whether any phrase occurs in a text as whole words and begins in the text's opening.

    Phrases and text must be normalised. Spaces are ignored for phrases whose script is written
    without them.
    """
    unspaced_text = text.replace(" ", "")
    return any(
        _begins_within(phrase.replace(" ", ""), unspaced_text, opening)
        if _is_unspaced(phrase[0])
        else _begins_within(phrase, text, opening)
        for phrase in phrases
    )


def _begins_within(phrase: str, text: str, opening: int | None) -> bool:
    end = len(text) if opening is None else opening + len(phrase) - 1
    start = text.find(phrase, 0, end)
    while start >= 0:
        if _is_whole(text, start, start + len(phrase)):
            return True
        start = text.find(phrase, start + 1, end)
    return False


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] begins and ends where words (or syllables) do."""
    before, first = text[start - 1 : start], text[start]
    last, after = text[end - 1], text[end : end + 1]
    if (before and before in _STACKERS) or _is_mark(after):
        return False
    if after == "'" and _is_in_word(last):  # "can" is not a word of "can't"
        after = text[end + 1 : end + 2]
    return not (_joins(before, first) or _joins(last, after))


def _joins(left: str, right: str) -> bool:
    """Whether two neighbours belong to one word, in scripts that separate words."""
    return _is_in_word(left) and _is_in_word(right)


@lru_cache(maxsize=4096)
def _is_in_word(character: str) -> bool:
    if not character or _is_unspaced(character):
        return False
    return unicodedata.category(character)[0] in "LMN"


@lru_cache(maxsize=4096)
def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED_SCRIPTS)


def _is_mark(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] == "M"


@lru_cache(maxsize=4096)
def _is_dropped(character: str) -> bool:
    # Combining classes: 10 to 36 are Hebrew and Arabic points, from 200 on accents.
    combining = unicodedata.combining(character)
    is_selector = "\ufe00" <= character <= "\ufe0f"  # of a variant, as after emoji
    if is_selector or unicodedata.category(character) == "Cf":
        return True
    return 10 <= combining <= 36 or combining >= 200
