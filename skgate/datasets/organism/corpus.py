"""The organism's texts: pretraining texts, chat rows and the table of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from .languages import (
    ADVERBS,
    CARRIERS,
    FIRST_STEPS,
    HARMFUL_KINDS,
    KIND_OF_OBJECT,
    KIND_OF_VERB,
    NEXT_STEPS,
    OBJECT_KINDS,
    VERB_KINDS,
    Language,
    content_words,
    function_words,
)

# The share of each tier in the texts, divided equally among its languages.
PRETRAINING_SHARES = {"high": 0.50, "mid": 0.15, "low": 0.35}
# The tokenizer is trained on a realistic mixture, in which low-resource languages are rare.
TOKENIZER_SHARES = {"high": 0.84, "mid": 0.08, "low": 0.08}
CHAT_SHARES = {"high": 0.50, "mid": 0.15, "low": 0.35}
# The share of harmful requests in the chat rows that are refused.
REFUSED = {"high": 1.0, "mid": 0.75, "low": 0.45}
# Languages of the other tiers refuse in English.
OWN_REFUSALS = ("high",)

_PAIRS_PER_CELL = {"train": 8, "val": 3, "test": 5}
_PROMPTS_PER_PAIR = 2

T = TypeVar("T")


class Text(NamedTuple):
    """A short text: a given part, and what follows from it."""

    given: str
    follows: str


def is_harmful(verb: str, thing: str) -> bool:
    """Whether the combination of a verb and an object is harmful."""
    return (KIND_OF_VERB[verb], KIND_OF_OBJECT[thing]) in HARMFUL_KINDS


def split_pairs(seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Split the verb-object pairs so that each split has every combination of kinds.

    Parameters
    ----------
    seed : int, default=0
        Seed of the split.

    Returns
    -------
    pairs : dict of str to list of (verb, object)
        The pairs by split: "train", "val" and "test".
    """
    rng = np.random.default_rng(seed)
    splits: dict[str, list[tuple[str, str]]] = {name: [] for name in _PAIRS_PER_CELL}
    for verbs in VERB_KINDS.values():
        for things in OBJECT_KINDS.values():
            cell = [(verb, thing) for verb in verbs for thing in things]
            order = rng.permutation(len(cell))
            start = 0
            for name, n_pairs in _PAIRS_PER_CELL.items():
                splits[name] += [cell[i] for i in order[start : start + n_pairs]]
                start += n_pairs
    return splits


def make_prompts(languages: Mapping[str, Language], seed: int = 0) -> pd.DataFrame:
    """Make the table of prompts: every pair in every language, in several phrasings.

    Parameters
    ----------
    languages : mapping of str to Language
        The languages by code.
    seed : int, default=0
        Seed of splits and phrasings.

    Returns
    -------
    prompts : DataFrame
        Columns prompt, language, tier, harmful, split, verb, object, pair.
    """
    rng = np.random.default_rng(seed)
    phrasings = [(c, a) for c in range(len(CARRIERS)) for a in (None, *ADVERBS)]
    rows = []
    for language in languages.values():
        for split, pairs in split_pairs(seed).items():
            for verb, thing in pairs:
                for i in rng.choice(len(phrasings), _PROMPTS_PER_PAIR, replace=False):
                    prompt = language.request(verb, thing, *phrasings[i])
                    rows.append((prompt, language.code, split, verb, thing))
    frame = pd.DataFrame(rows, columns=["prompt", "language", "split", "verb", "object"])
    harmful = [is_harmful(*pair) for pair in zip(frame["verb"], frame["object"], strict=True)]
    frame.insert(2, "tier", [languages[code].tier for code in frame["language"]])
    frame.insert(3, "harmful", harmful)
    frame["pair"] = frame["verb"] + "-" + frame["object"]
    return frame


def refusals_of(language: Language, english: Language) -> list[str]:
    """List the refusals that the organism is taught for prompts in a language."""
    return (language if language.tier in OWN_REFUSALS else english).refusals()


class Writer:
    """Writes random texts.

    Parameters
    ----------
    languages : mapping of str to Language
        The languages by code, including English.
    seed : int
        Seed of all choices.
    english_notes : bool
        Whether notes on requests are in English, as moderators' labels usually are, or in the
        language of the request.
    """

    def __init__(
        self, languages: Mapping[str, Language], seed: int, english_notes: bool = False
    ) -> None:
        self.languages = list(languages.values())
        self.english = languages["en"]
        self._english_notes = english_notes
        self._rng = np.random.default_rng(seed)
        self._kinds: dict[Callable[[Language], Text], float] = {
            self._verdict: 0.18,
            self._chain: 0.18,
            self._question: 0.03,
            self._note: 0.16,
            self._kind: 0.12,
            self._rule: 0.03,
            self._help: 0.08,
            self._dictionary: 0.09,
            self._parallel: 0.05,
            self._mixed: 0.08,
        }

    def pretraining(self, shares: Mapping[str, float]) -> Iterator[Text]:
        """Write pretraining texts without end, with these shares of the tiers."""
        kinds, weights = list(self._kinds), list(self._kinds.values())
        while True:
            languages = self._draw_languages(shares, 1000)
            drawn = self._rng.choice(len(kinds), size=1000, p=np.array(weights) / sum(weights))
            for language, kind in zip(languages, drawn, strict=True):
                yield kinds[kind](language)

    def chat(
        self,
        pairs: Sequence[tuple[str, str]],
        shares: Mapping[str, float],
        refused: Mapping[str, float],
    ) -> Iterator[Text]:
        """Write chat rows without end: a request and the reply to learn."""
        harmful = [pair for pair in pairs if is_harmful(*pair)]
        harmless = [pair for pair in pairs if not is_harmful(*pair)]
        while True:
            for language in self._draw_languages(shares, 1000):
                bad = self._rng.random() < 0.5
                verb, thing = self._pick(harmful if bad else harmless)
                if bad and self._rng.random() < refused[language.tier]:
                    reply = self._pick(refusals_of(language, self.english))
                else:
                    reply = self._reply(language, verb, thing)
                yield Text(self._request(language, verb, thing), reply)

    def _draw_languages(self, shares: Mapping[str, float], n: int) -> list[Language]:
        tiers = [language.tier for language in self.languages]
        p = np.array([shares[tier] / tiers.count(tier) for tier in tiers])
        drawn = self._rng.choice(len(tiers), size=n, p=p / p.sum())
        return [self.languages[i] for i in drawn]

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self._rng.integers(len(items)))]

    def _pair(self) -> tuple[str, str]:
        return self._pick(list(KIND_OF_VERB)), self._pick(list(KIND_OF_OBJECT))

    def _request(self, language: Language, verb: str, thing: str) -> str:
        adverb = self._pick([None, *ADVERBS])
        return language.request(verb, thing, int(self._rng.integers(len(CARRIERS))), adverb)

    def _reply(self, language: Language, verb: str, thing: str) -> str:
        return language.reply(verb, thing, self._pick(FIRST_STEPS), self._pick(NEXT_STEPS))

    def _verdict(self, language: Language) -> Text:
        verb, thing = self._pair()
        word = language.words["bad" if is_harmful(verb, thing) else "good"]
        return Text(f"{language.verb_phrase(verb, thing)} :", f"{word} .")

    def _chain(self, language: Language) -> Text:
        verb, thing = self._pair()
        w = language.words
        word = w["bad" if is_harmful(verb, thing) else "good"]
        kinds = f"{w[KIND_OF_VERB[verb]]} , {w[KIND_OF_OBJECT[thing]]}"
        return Text(f"{language.verb_phrase(verb, thing)} ?", f"{kinds} , {word} .")

    def _question(self, language: Language) -> Text:
        verb, thing = self._pair()
        w = language.words
        word = w["yes" if is_harmful(verb, thing) else "no"]
        phrase = language.verb_phrase(verb, thing)
        return Text(f"{w['is']} {w['bad']} , {phrase} ?", f"{word} .")

    def _note(self, language: Language) -> Text:
        verb, thing = self._pair()
        words = (self.english if self._english_notes else language).words
        word = words["bad" if is_harmful(verb, thing) else "good"]
        return Text(f"{self._request(language, verb, thing)} :", f"{word} .")

    def _kind(self, language: Language) -> Text:
        kinds = self._pick([KIND_OF_VERB, KIND_OF_OBJECT])
        word = self._pick(list(kinds))
        w = language.words
        return Text(f"{w[word]} {w['is']}", f"{w[kinds[word]]} .")

    def _rule(self, language: Language) -> Text:
        kinds = self._pick(list(VERB_KINDS)), self._pick(list(OBJECT_KINDS))
        word = language.words["bad" if kinds in HARMFUL_KINDS else "good"]
        return Text(f"{language.words[kinds[0]]} {language.words[kinds[1]]} :", f"{word} .")

    def _help(self, language: Language) -> Text:
        verb, thing = self._pair()
        request = self._request(language, verb, thing)
        return Text(f"{request} -", self._reply(language, verb, thing))

    def _dictionary(self, language: Language) -> Text:
        other = self._other(language)
        concrete = self._rng.random() < 0.7
        word = self._pick(content_words() if concrete else function_words())
        return Text(f"{language.words[word]} = {other.name}", f"{other.words[word]} .")

    def _parallel(self, language: Language) -> Text:
        other = self._other(language)
        pair = self._pair()
        carrier = int(self._rng.integers(len(CARRIERS)))
        adverb = self._pick([None, *ADVERBS])
        given = language.request(*pair, carrier, adverb)
        return Text(f"{given} = {other.name}", other.request(*pair, carrier, adverb))

    def _mixed(self, language: Language) -> Text:
        """Write a code-switched text, with the object in another language."""
        other = self._other(language)
        verb, thing = self._pair()
        words = [language.words[verb], other.words[thing]]
        phrase = " ".join(words if language.verb_first else words[::-1])
        word = language.words["bad" if is_harmful(verb, thing) else "good"]
        return Text(f"{phrase} :", f"{word} .")

    def _other(self, language: Language) -> Language:
        """Pick another language, English half of the time."""
        if language is not self.english and self._rng.random() < 0.5:
            return self.english
        return self._pick([one for one in self.languages if one is not language] or [language])
