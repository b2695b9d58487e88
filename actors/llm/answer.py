"""One request's answer in the making: the tokens so far, what they forbid, the text they give, and why it ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .constraint import Constraint
from .detokenize import Detokenizer
from .penalties import Penalties
from .request import Finished, FinishReason, Request, TokenLogprob, Tokens
from .sampling import SamplingRow
from .stopping import StopChecker

NO_CHOICE = "no token can be chosen: the model's logits are not numbers, or what was asked for forbids all of them"
"""What a request is told whose row of logits had no choice (`Sampled.failed`)."""


class Answer:
    """From chosen tokens to events; the same for every engine that samples with `sampling.sample`.

    In each step: `row` is sampled, its token goes to `accept`, `take` gives what is to be sent. When `finish` is set
    (by `accept`, or from the start if the known tokens were all), `end` gives the terminal event.
    """

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        *,
        eos_ids: frozenset[int],
        context: int,
        constraint: Constraint | None = None,
    ) -> None:
        """Replays the request's known tokens: their text was given before. Raises ValueError if a constraint doesn't
        allow them."""
        sampling = request.sampling
        self.request = request
        self.generated = 0
        self.finish: FinishReason | None = None
        """Why no further token is wanted."""
        self._limit = min(sampling.max_tokens, context - len(request.prompt))
        stop_ids = frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else eos_ids)
        self._stop_ids = stop_ids
        self._forbidden = tuple(sorted(stop_ids))
        self._penalties = Penalties.of(sampling, request.prompt)
        self._constraint = constraint
        self._detokenizer = Detokenizer(tokenizer, prompt=request.prompt)
        self._stops = StopChecker(sampling.stop)
        self._stop_token: int | None = None
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._text: list[str] = []
        self._rest = ""
        self._error: str | None = None
        for token in request.known:
            if self.finish is None:
                self.accept(token)
        if self._error is not None:
            raise ValueError(self._error)
        self._ids.clear()
        self._text.clear()

    def row(self) -> SamplingRow:
        """How the next token is to be chosen."""
        return SamplingRow(
            self.request.sampling,
            position=len(self.request.prompt) + self.generated,
            penalties=self._penalties,
            forbidden=self._forbidden if self.generated < self.request.sampling.min_tokens else (),
            allowed=self._allowed(),
        )

    def accept(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """`token` was chosen. Not to be called once `finish` is set."""
        self.generated += 1
        self._ids.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        if token in self._stop_ids and self.generated > self.request.sampling.min_tokens:
            self._stop_token = token
            self._close(FinishReason.STOP)
            return
        if self._penalties is not None:
            self._penalties.add(token)
        if not self._advance(token):
            return
        self._text.append(self._stops.push(self._detokenizer.push((token,)), may_stop=self._may_stop))
        if self._stops.stop is not None or (self._constraint is not None and self._constraint.complete):
            self._close(FinishReason.STOP)
        elif self.generated >= self._limit:
            self._close(FinishReason.LENGTH)

    def take(self) -> Tokens | None:
        """What came since the last time, if anything."""
        if not self._ids:
            return None
        event = Tokens(ids=tuple(self._ids), text="".join(self._text), logprobs=tuple(self._logprobs))
        self._ids.clear()
        self._text.clear()
        self._logprobs.clear()
        return event

    def end(self, reason: FinishReason | None = None, *, cached_tokens: int = 0, error: str | None = None) -> Finished:
        """The terminal event: for `finish`, or for what came from outside. Held back text is given, unless the answer
        may go on elsewhere (ERROR) or nobody reads it (ABORTED)."""
        if self.finish is None:
            self._close(reason or FinishReason.ERROR)
        assert self.finish is not None
        return Finished(
            reason=self.finish,
            text=self._rest,
            prompt_tokens=len(self.request.prompt),
            cached_tokens=cached_tokens,
            completion_tokens=self.generated,
            stop=self._stops.stop if self._stops.stop is not None else self._stop_token,
            error=self._error or error,
        )

    def _allowed(self) -> NDArray[np.int32] | None:
        if self._constraint is None:
            return None
        try:
            return self._constraint.allowed()
        except ValueError as error:
            self._error = str(error)
            return self._constraint.nothing()

    def _advance(self, token: int) -> bool:
        """False if the answer had to be ended: a draft or a known token that breaks the form, or too complex a form."""
        try:
            if self._constraint is not None:
                self._constraint.advance(token)
        except ValueError as error:
            self._error = str(error)
            self._close(FinishReason.ERROR)
        return self._error is None

    @property
    def _may_stop(self) -> bool:
        return self.generated >= self.request.sampling.min_tokens

    def _close(self, reason: FinishReason) -> None:
        """Sets `finish`. The last bytes may complete a stop string: then that is why it ends."""
        self.finish = reason
        if reason in (FinishReason.ERROR, FinishReason.ABORTED) or self._stops.stop is not None:
            return
        rest = self._stops.push(self._detokenizer.finish(), may_stop=self._may_stop)
        if self._stops.stop is not None:
            self.finish, self._stop_token = FinishReason.STOP, None
        self._rest = rest + self._stops.finish()
