"""What is asked of an LLM engine, and what it answers. Torch-free: the doors and the wire use these too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The defaults are SPEC's for the job type `llm`."""

    max_tokens: int = 512
    """Tokens to generate at most."""
    min_tokens: int = 0
    """No stop, neither by token nor by string, before this many."""
    temperature: float = 0.7
    """0: greedy."""
    top_k: int = 0
    """0: off."""
    top_p: float = 0.9
    min_p: float = 0.0
    """Keep tokens at least this share as likely as the likeliest. 0: off."""
    repetition_penalty: float = 1.0
    """Over prompt and output, as in transformers. 1: off."""
    presence_penalty: float = 0.0
    """Over the output, as in OpenAI's API; the same for the next one."""
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id → added to its logit."""
    seed: int = 0
    """Randomness is keyed by (seed, position): the same request gives the same tokens whatever shares its batch."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these; none of it is ever given out."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """Give the log-probability of each token and of so many most likely ones. None: none."""
    json_schema: str | None = None
    """The text must be JSON of this schema (JSON text)."""
    regex: str | None = None
    """The text must match this expression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate."""

    id: str
    """Unique within the engine."""
    prompt: tuple[int, ...]
    """Token ids, at least one."""
    sampling: Sampling = Sampling()
    known: tuple[int, ...] = ()
    """Tokens that were generated and given out before (by a replica that died): generation goes on after them, and the
    events start with the first token that is not known."""
    priority: int = 0
    """Higher first."""
    background: bool = False
    """Only in room that nobody else wants: it gives way to every other request within a step, and may starve."""
    timeout: float | None = None
    """Seconds from acceptance to the terminal event."""
    salt: str = ""
    """Whose it is: prefix blocks are shared only between requests with the same salt."""

    @property
    def urgency(self) -> int:
        """Higher first, for engines that know only numbers: in the background is below every priority."""
        return self.priority - BELOW_ALL if self.background else self.priority


BELOW_ALL = 1_000_000


class RequestRefused(ValueError):
    """The request can never be served here; the message says why. It was not accepted and has no terminal event."""


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    """A stop string, a stop token or the end-of-sequence token."""
    LENGTH = "length"
    """max_tokens, or the model's context."""
    ABORTED = "aborted"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability (natural logarithm) of a token that was given out, and of the most likely ones at its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Something was generated."""

    ids: tuple[int, ...]
    """New tokens, in order; may be several, and may come with no text yet (part of a character or of a stop string)."""
    text: str
    """Text that is certain now; all texts joined are the answer."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of `ids`, if they were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The terminal event: exactly one for every accepted request, and nothing after it."""

    reason: FinishReason
    text: str = ""
    """What was held back and is certain now."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, found in the prefix cache."""
    completion_tokens: int = 0
    """Generated, `known` ones included."""
    stop: str | int | None = None
    """The stop string or token id that ended it."""
    error: str | None = None
    """For ERROR: what happened, fit for a client."""


Event = Tokens | Finished
