"""One request's text in the making: what its next row needs, and what a chosen token means for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .detokenize import Detokenizer
from .penalties import Penalties
from .request import Finished, FinishReason, Request, TokenLogprob, Tokens
from .sampling import SamplingRow
from .sequence import Outcome
from .stopping import StopChecker


class TokenMask(Protocol):
    """A constraint on the text: which tokens may come next."""

    def mask(self) -> NDArray[np.int32] | None:
        """Bitmask (ceil(V / 32),) of the allowed tokens; None: all are."""

    def advance(self, token: int) -> None:
        """`token` was chosen."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a chosen token gave."""

    event: Tokens
    finish: FinishReason | None
    """STOP if the text ends with it."""


class Generation:
    """From the tokens of one request to its events. Tokens that are `known` are replayed: their text was given before.

    Its events depend on the tokens alone, so that another replica that knows them goes on where this one stopped.
    """

    def __init__(
        self, request: Request, tokenizer: Tokenizer, end_ids: Collection[int], constraint: TokenMask | None
    ) -> None:
        """`end_ids`: the model's end-of-sequence tokens. `constraint`: fresh, nothing advanced."""
        sampling = request.sampling
        self.request = request
        self.generated = 0
        """Tokens of the output, known ones included."""
        self.stop: str | int | None = None
        """What ended the text, once something did."""
        ends = set() if sampling.ignore_eos else set(end_ids)
        self._stop_ids = frozenset(ends | set(sampling.stop_token_ids))
        self._penalties = Penalties.of(sampling, request.prompt)
        self._constraint = constraint
        self._detokenizer = Detokenizer(tokenizer, prompt=request.prompt)
        self._stops = StopChecker(sampling.stop)
        for token in request.known:
            self._push(token)

    def row(self, position: int) -> SamplingRow:
        """What the choice of the next token needs; `position` is that token's place in the sequence."""
        early = self.generated < self.request.sampling.min_tokens
        return SamplingRow(
            sampling=self.request.sampling,
            position=position,
            penalties=self._penalties,
            forbidden=tuple(self._stop_ids) if early else (),
            allowed=None if self._constraint is None else self._constraint.mask(),
        )

    def take(self, token: int, logprob: TokenLogprob | None) -> Taken:
        """`token` was chosen as the next one."""
        text = self._push(token)
        event = Tokens(ids=(token,), text=text, logprobs=() if logprob is None else (logprob,))
        return Taken(event, None if self.stop is None else FinishReason.STOP)

    def finished(self, outcome: Outcome, error: str | None = None) -> Finished:
        """The terminal event, with the text that was held back until now."""
        rest = ""
        if not isinstance(self.stop, str):
            rest = self._stops.push(self._detokenizer.finish()) + self._stops.finish()
        return Finished(
            reason=outcome.reason,
            text=rest,
            prompt_tokens=outcome.prompt_tokens,
            cached_tokens=outcome.cached_tokens,
            completion_tokens=outcome.completion_tokens,
            stop=self.stop,
            error=error,
        )

    def _push(self, token: int) -> str:
        """The text that is certain with this token."""
        self.generated += 1
        if self._penalties is not None:
            self._penalties.add(token)
        if self._constraint is not None:
            self._constraint.advance(token)
        may_stop = self.generated > self.request.sampling.min_tokens
        if may_stop and token in self._stop_ids:
            self.stop = token
            return ""
        text = self._stops.push(self._detokenizer.push((token,)), may_stop=may_stop)
        self.stop = self._stops.stop
        return text
