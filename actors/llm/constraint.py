"""Output that must be JSON of a schema or match an expression: which tokens may come next, by llguidance."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .request import RequestRefused, Sampling

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_WHITESPACE = r"[ \n\t]{0,32}"
"""Between the parts of JSON: room to indent, but no endless run of blanks, which small models like too much."""
_KEPT_GRAMMARS = 64


class ConstraintCompiler:
    """Makes constraints for one tokenizer. Keeps the grammars it compiled last: `n` answers and bulk rows share one.

    The first constraint reads the vocabulary (about a second for 100k tokens), and a complex schema takes up to a
    second: call `compile` off the event loop. Thread-safe.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: frozenset[int]) -> None:
        """`vocab_size`: columns of the logits, which may be more than the tokenizer has tokens."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = sorted(eos_ids)
        self._vocabulary = lru_cache(maxsize=1)(self._read_vocabulary)
        self._compiled = lru_cache(maxsize=_KEPT_GRAMMARS)(self._compile)

    def compile(self, sampling: Sampling) -> Constraint | None:
        """The constraint that `sampling` asks for, or None. Raises RequestRefused: what can't be compiled, and why."""
        if sampling.json_schema is not None and sampling.regex is not None:
            raise RequestRefused("json_schema and regex were both given; an answer can follow only one of them")
        if sampling.json_schema is None and sampling.regex is None:
            return None
        return Constraint(self._compiled(sampling.json_schema, sampling.regex).deep_copy(), self._vocab_size)

    def _read_vocabulary(self) -> LLTokenizer:
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            raise RequestRefused(
                f"answers in a given form need the package llguidance on the worker: {error}"
            ) from error
        if not self._eos_ids:
            raise RequestRefused("answers in a given form need a tokenizer with an end-of-sequence token")
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return LLTokenizer(tokenizer.to_str(), n_vocab=self._vocab_size, eos_token=self._eos_ids)

    def _compile(self, json_schema: str | None, regex: str | None) -> LLMatcher:
        vocabulary = self._vocabulary()
        from llguidance import LLMatcher, LLParserLimits

        name, text = ("json_schema", json_schema) if json_schema is not None else ("regex", regex or "")
        try:
            grammar = _schema_grammar(text) if json_schema is not None else LLMatcher.grammar_from_regex(text)
        except ValueError as error:
            raise RequestRefused(f"{name} can't be compiled: {error}") from error
        matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
        if matcher.is_error():
            raise RequestRefused(f"{name} can't be compiled: {matcher.get_error()}")
        return matcher


def _schema_grammar(text: str) -> str:
    from llguidance import LLMatcher

    schema = json.loads(text)
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ValueError(f"a JSON schema is an object, not {type(schema).__name__}")
    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _WHITESPACE})


class Constraint:
    """How far one answer got in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._words = (vocab_size + 31) // 32

    def allowed(self) -> NDArray[np.int32]:
        """The tokens that may come next, as the bitmask of `SamplingRow.allowed`: (ceil(V / 32),).

        Raises ValueError if the form has become too complex to follow.
        """
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.int32)[: self._words]
        if self._matcher.is_error():
            raise ValueError(f"the required form can't be followed further: {self._matcher.get_error()}")
        return mask

    def nothing(self) -> NDArray[np.int32]:
        """A mask that allows no token."""
        return np.zeros(self._words, np.int32)

    def advance(self, token: int) -> None:
        """`token` came. Raises ValueError if the grammar doesn't allow it (or became too complex to follow)."""
        if not self._matcher.consume_token(token):
            raise ValueError(f"token {token} doesn't fit the required form: {self._matcher.get_error()}")

    @property
    def complete(self) -> bool:
        """Whether the text has the required form and nothing can follow."""
        return self._matcher.is_stopped()
