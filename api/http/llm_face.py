"""What the doors for language models need of whatever generates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from ...actors.llm.engine_face import Engine, EngineClosed, EngineFacts, EngineLoad
from ...actors.llm.request import Event, Request
from .embedder import Readiness, ServedModel

Message = Mapping[str, str]
"""One message of a conversation: `role` and `content`, as chat templates take them."""


Taken = Callable[[str], None]
"""Hears who computes a request."""


class ChatBackend(Protocol):
    """Generates. Called from one event loop; calls may overlap.

    Every method raises `RequestRefused` for what can never be done here, with a sentence for the client, and
    `EngineClosed` or `Unavailable` when nobody can do the work now.
    """

    async def models(self) -> Sequence[ServedModel]:
        """The models that can be asked for; the first is the default."""
        ...

    async def facts(self, model: str) -> EngineFacts:
        """What the model with this id (a `ServedModel.id`) is."""
        ...

    async def encode(self, model: str, text: str) -> Sequence[int]:
        """Token ids of a text, with what the tokenizer puts before it."""
        ...

    async def encode_chat(self, model: str, messages: Sequence[Message]) -> Sequence[int]:
        """Token ids of a conversation, by the model's chat template, up to where its answer begins."""
        ...

    async def decode(self, model: str, ids: Sequence[int]) -> str:
        """How tokens read, special ones included: for lists of log-probabilities."""
        ...

    def generate(self, model: str, request: Request, *, taken_by: Taken | None = None) -> AsyncIterator[Event]:
        """The events of one request: any number of `Tokens`, then exactly one `Finished`.

        `taken_by` is told the public id of the worker that computes it, again whenever that is another one.
        Ending the iteration early, by `aclose` or by cancelling, aborts the generation at once. Raises `QueueFull`
        before the first event when the request has no room.
        """
        ...

    async def ready(self, model: str | None = None) -> Readiness:
        """Whether at least one replica of this model, or, without an id, of any, can take a request."""
        ...

    async def load(self) -> Mapping[str, EngineLoad]:
        """How busy each model is, its replicas taken together: for metrics."""
        ...


class EngineBackend:
    """A `ChatBackend` over one engine of this process, started on this event loop."""

    def __init__(self, engine: Engine, *, aliases: Sequence[str] = ()) -> None:
        self._engine, self._aliases = engine, tuple(aliases)

    async def models(self) -> Sequence[ServedModel]:
        facts = self._engine.facts
        return [
            ServedModel(id=facts.model, aliases=self._aliases, max_tokens=facts.context, vocab_size=facts.vocab_size)
        ]

    async def facts(self, model: str) -> EngineFacts:
        return self._engine.facts

    async def encode(self, model: str, text: str) -> Sequence[int]:
        return self._engine.encode(text)

    async def encode_chat(self, model: str, messages: Sequence[Message]) -> Sequence[int]:
        return self._engine.encode_chat(messages)

    async def decode(self, model: str, ids: Sequence[int]) -> str:
        return self._engine.decode(ids)

    def generate(self, model: str, request: Request, *, taken_by: Taken | None = None) -> AsyncIterator[Event]:
        return self._engine.generate(request)

    async def ready(self, model: str | None = None) -> Readiness:
        try:
            self._engine.load()
        except EngineClosed as error:
            return Readiness(ok=False, reason=str(error))
        return Readiness(ok=True)

    async def load(self) -> Mapping[str, EngineLoad]:
        return {self._engine.facts.model: self._engine.load()}
