"""Whether a request can be served at all by an engine: a pure rule, the same for all of them. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Collection

from .engine_face import EngineFacts, QueueFull
from .request import Request, RequestRefused, Sampling

MOST_LOGPROBS = 20
"""As OpenAI and vLLM."""

_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, math.inf),
    "min_tokens": (0, math.inf),
    "temperature": (0, 2),
    "top_k": (0, math.inf),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "logprobs": (0, MOST_LOGPROBS),
}
"""SPEC's and OpenAI's ranges, both ends included."""


def admit(request_id: str, alive: Collection[str], slots: int, queue_limit: int) -> None:
    """Raises RequestRefused for an id that lives, QueueFull if `slots` are taken and as many as may wait do so."""
    if request_id in alive:
        raise RequestRefused(f"a request with id {request_id!r} is alive already; ids must be unique")
    if len(alive) >= slots + queue_limit:
        raise QueueFull(f"{len(alive) - slots} requests wait already, and no more than {queue_limit} may")


def check(request: Request, facts: EngineFacts) -> None:
    """Raises RequestRefused with the field, its value and what is allowed."""
    _check_tokens(request, facts)
    check_sampling(request.sampling, facts.vocab_size)
    if request.timeout is not None and not request.timeout > 0:
        raise RequestRefused(f"timeout must be more than 0 seconds, not {request.timeout}")


def _check_tokens(request: Request, facts: EngineFacts) -> None:
    if not request.prompt:
        raise RequestRefused("the prompt is empty; it needs at least one token")
    if len(request.prompt) >= facts.context:
        raise RequestRefused(
            f"the prompt has {len(request.prompt)} tokens, and {facts.model} takes {facts.context} in all, "
            "so that there is no room for an answer; shorten it"
        )
    for name, ids in (("prompt", request.prompt), ("known", request.known)):
        if ids and not 0 <= min(ids) <= max(ids) < facts.vocab_size:
            raise RequestRefused(f"{name} has a token id outside of the model's 0 to {facts.vocab_size - 1}")
    if len(request.known) > min(request.sampling.max_tokens, facts.context - len(request.prompt)):
        raise RequestRefused(f"{len(request.known)} tokens are known already, more than the answer may have")


def check_sampling(sampling: Sampling, vocab_size: int) -> None:
    """Raises RequestRefused for a value that means nothing."""
    for name, (least, most) in _RANGES.items():
        value = getattr(sampling, name)
        if value is not None and not least <= value <= most:
            limit = f"between {least} and {most}" if most < math.inf else f"at least {least}"
            raise RequestRefused(f"{name} must be {limit}, not {value}")
    if not 0 < sampling.top_p <= 1:
        raise RequestRefused(f"top_p must be more than 0 and at most 1, not {sampling.top_p}")
    if not 0 < sampling.repetition_penalty < math.inf:
        raise RequestRefused(f"repetition_penalty must be more than 0, not {sampling.repetition_penalty}")
    if sampling.min_tokens > sampling.max_tokens:
        raise RequestRefused(f"min_tokens ({sampling.min_tokens}) is more than max_tokens ({sampling.max_tokens})")
    if not all(sampling.stop):
        raise RequestRefused("a stop string must not be empty")
    for token, bias in sampling.logit_bias.items():
        if not 0 <= token < vocab_size or not -100 <= bias <= 100:
            raise RequestRefused(
                f"logit_bias wants ids from 0 to {vocab_size - 1} and values from -100 to 100, not {token}: {bias}"
            )
    for token in sampling.stop_token_ids:
        if not 0 <= token < vocab_size:
            raise RequestRefused(f"stop_token_ids must be from 0 to {vocab_size - 1}, not {token}")
