"""Words and their times, out of tokens and theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.models.whisper import tokenization_whisper as library

from .speech import Word


def words_of(
    tokenizer: Any, tokens: Sequence[int], starts: Sequence[float], ends: Sequence[float], language: str
) -> list[Word]:
    """The words of one segment: `tokens` of text, each with its start and end in seconds.

    Tokens are grouped as transformers' own pipeline does, by spaces or, where a language has none, by characters;
    punctuation goes with its word. The function that groups is private to transformers, whose version is bounded.
    """
    if not tokens:
        return []
    texts, _, places = library._combine_tokens_into_words(tokenizer, list(tokens), library.LANGUAGES.get(language))
    found = []
    for text, indices in zip(texts, places, strict=True):
        if text.strip() and indices:
            start = starts[indices[0]]
            found.append(Word(start, max(start, ends[indices[-1]]), text.strip()))
    return found
