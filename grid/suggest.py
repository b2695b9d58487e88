"""Did you mean …?: the nearest known word to one that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LIKENESS = 0.72
"""How alike two words must be (difflib's ratio, 0-1) before one is offered for the other."""


def nearest(word: str, known: Iterable[str], *, likeness: float = LIKENESS) -> str | None:
    """The known word that is most like `word` (case does not matter), or None when none is near enough."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = get_close_matches(word.lower(), by_lower, n=1, cutoff=likeness)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with a leading space, to be put behind an error's sentence, or an empty string."""
    found = nearest(word, known)
    return f" Did you mean {found!r}?" if found else ""
