"""Text from tokens as they come: only what no later token can change, and all of it in the end.

`tokenizers.decoders.DecodeStream` is close to this, but loses what it holds back at the end, and its text of bytes that
are no UTF-8 is not that of the whole (a test shows it).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache

from tokenizers import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_CONTEXT = 8
"""Tokens of the prompt that the first ones are decoded with: more than a character or a word's pieces can need."""
_WINDOW = 16
"""The window is cut after so many tokens: a longer one costs more to decode, a shorter one is cut more often."""


class Detokenizer:
    """The text that follows the prompt's, as in vLLM: a leading space is kept where the text goes on from a word.

    All that `push` gave and then `finish`, joined, is the text of prompt and tokens less the text of the prompt;
    without a prompt it is ``tokenizer.decode(tokens)``. What was given after n tokens depends on these tokens alone,
    not on how they were split into pushes, so that a stream can be taken over in the middle.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._traits = traits(tokenizer)
        self._skip_special = skip_special
        # what precedes the window matters only as "there was a token", which the window's first one stands for
        self._window = self._context(prompt)
        self._given = len(self._decode(self._window))

    def push(self, ids: Sequence[int]) -> str:
        """The text that became certain by these tokens: may be empty."""
        visible = self._visible(ids)
        if not visible:
            return ""
        self._window += visible
        settled = self._settled()
        text = self._decode(self._window[:settled])
        # the bytes of an unfinished character decode to one replacement character
        certain = text.removesuffix(_REPLACEMENT)
        new, self._given = certain[self._given :], max(self._given, len(certain))
        if len(certain) == len(text) and settled == len(self._window) >= _WINDOW:
            self._window = self._window[-1:]
            self._given = len(self._decode(self._window))
        return new

    def finish(self) -> str:
        """The rest: an unfinished character's bytes are told as replacement characters."""
        text = self._decode(self._window)
        new, self._given = text[self._given :], len(text)
        return new

    def _visible(self, ids: Sequence[int]) -> list[int]:
        hidden = self._traits.special if self._skip_special else frozenset()
        return [i for i in ids if i not in hidden and self._tokenizer.id_to_token(i) is not None]

    def _context(self, prompt: Sequence[int]) -> list[int]:
        """The end of the prompt, back to where a character begins for sure."""
        context: list[int] = []
        for token in reversed(prompt):
            context += self._visible((token,))
            if len(context) >= _CONTEXT and context[-1] not in self._traits.bytes:
                break
        return context[::-1]

    def _settled(self) -> int:
        """How much of the window to decode: less a run of byte tokens, which are decoded, or replaced, as a whole."""
        settled = len(self._window)
        while settled and self._window[settled - 1] in self._traits.bytes:
            settled -= 1
        return settled

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=self._skip_special))


class _Traits:
    """What one tokenizer's decoding depends on."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        added = tokenizer.get_added_tokens_decoder()
        self.special = frozenset(i for i, token in added.items() if token.special)
        self.bytes: frozenset[int] = frozenset()
        decoder = tokenizer.decoder
        if decoder is not None and '"ByteFallback"' in json.dumps(json.loads(decoder.__getstate__())):
            self.bytes = frozenset(i for token, i in tokenizer.get_vocab().items() if _BYTE.fullmatch(token))


@lru_cache(maxsize=16)
def traits(tokenizer: Tokenizer) -> _Traits:
    """Reads the vocabulary, once for each tokenizer."""
    return _Traits(tokenizer)
