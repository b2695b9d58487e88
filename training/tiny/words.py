"""What the questions are about: words, names and cities, real ones and ones that are made up.

Made-up words are as many as there are syllables to combine: a model that spells, sorts and copies them can't know them
by heart. The tokenizer is trained on made-up words alone (`Vocabulary(real=0.0)`), so that a real word falls into the
same pieces as any other word would. Names and cities are never spelled: the real ones are a token each.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
WORDS = (_HERE / "words.txt").read_text(encoding="utf-8").split()
NAMES = (_HERE / "names.txt").read_text(encoding="utf-8").split()
CITIES = (_HERE / "cities.txt").read_text(encoding="utf-8").split()

_STARTS = ("b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "j", "z", "", "")
_CLUSTERS = ("bl", "br", "ch", "cl", "cr", "dr", "fl", "fr", "gl", "gr", "pl", "pr", "sh", "sl", "sp", "st", "th", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "ea", "oo", "ou", "ai", "y")
_ENDS = ("", "", "", "n", "r", "l", "s", "t", "m", "d", "ck", "ll", "ng", "nt", "rd", "st", "x", "p", "w")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Draws words, names and cities."""

    real: float = 0.6
    """Share of words that come from the list of real ones, 0 to 1."""
    named: float = 0.7
    """Share of names and cities that come from the lists of real ones, 0 to 1."""

    def word(self, rng: random.Random) -> str:
        """A word in lower case, 2 to 10 letters."""
        return rng.choice(WORDS) if rng.random() < self.real else made_up(rng)

    def words(self, rng: random.Random, count: int) -> list[str]:
        """`count` different words."""
        return _different(self.word, rng, count)

    def name(self, rng: random.Random) -> str:
        """A first name."""
        return rng.choice(NAMES) if rng.random() < self.named else made_up(rng).capitalize()

    def names(self, rng: random.Random, count: int) -> list[str]:
        """`count` different first names."""
        return _different(self.name, rng, count)

    def city(self, rng: random.Random) -> str:
        """A city."""
        return rng.choice(CITIES) if rng.random() < self.named else made_up(rng).capitalize()


def made_up(rng: random.Random) -> str:
    """A word that could be pronounced, 2 to 9 letters."""
    while True:
        syllables = rng.choices((1, 2, 3), (4, 5, 1))[0]
        word = "".join(_syllable(rng) for _ in range(syllables))
        if 2 <= len(word) <= 9:
            return word


def _syllable(rng: random.Random) -> str:
    starts = _CLUSTERS if rng.random() < 0.25 else _STARTS
    return rng.choice(starts) + rng.choice(_VOWELS) + rng.choice(_ENDS)


def _different(draw: Callable[[random.Random], str], rng: random.Random, count: int) -> list[str]:
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[draw(rng)] = None
    return list(drawn)
