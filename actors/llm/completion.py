"""An answer as a whole: what the events of one request add up to. Torch-free."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from .request import Event, Finished, FinishReason

_NATURAL = (FinishReason.STOP, FinishReason.LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What one request gave."""

    text: str
    finish_reason: str
    """``stop`` or ``length``."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Of the prompt, found in the prefix cache."""

    def __str__(self) -> str:
        return self.text


class GenerationFailed(RuntimeError):
    """The answer did not come to its natural end; the message says why."""


async def collected(events: AsyncIterator[Event], tell: Callable[[str], None] | None = None) -> Completion:
    """The whole answer; `tell` hears each piece of its text. Raises GenerationFailed, and what the events raise."""
    parts = []
    async for event in events:
        parts.append(event.text)
        if tell is not None and event.text:
            tell(event.text)
        if isinstance(event, Finished):
            return whole("".join(parts), event)
    raise GenerationFailed("the engine ended the answer without saying how")


def whole(text: str, end: Finished) -> Completion:
    """The completion with this text and end. Raises GenerationFailed for an end that is none of an answer."""
    if end.reason not in _NATURAL:
        raise GenerationFailed(end.error or f"the generation ended by {end.reason}")
    return Completion(
        text=text,
        finish_reason=end.reason.value,
        prompt_tokens=end.prompt_tokens,
        completion_tokens=end.completion_tokens,
        cached_tokens=end.cached_tokens,
    )
