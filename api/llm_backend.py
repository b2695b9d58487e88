"""The doors' view of the service that keeps replicas of language models on the grid."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from ..actors.llm.engine_face import EngineFacts, EngineLoad
from ..actors.llm.request import Event, Request
from ..grid import catalogue
from ..pipelines.llm.service import LlmService
from .http.embedder import Readiness, ServedModel
from .http.llm_face import Message, Taken


class ServiceBackend:
    """A `ChatBackend` over an `LlmService` of the same event loop."""

    def __init__(self, service: LlmService, elsewhere: Callable[[], Sequence[str]] = tuple) -> None:
        """`elsewhere`: models that another process of the grid serves; they are listed, and passed on before they come
        here (`api.http.passing`).
        """
        self._service, self._elsewhere = service, elsewhere

    async def models(self) -> Sequence[ServedModel]:
        here = await self.here()
        known = {model.id for model in here}
        return [*here, *(ServedModel(id=id_, aliases=aliases(id_)) for id_ in self._elsewhere() if id_ not in known)]

    async def here(self) -> list[ServedModel]:
        """The models that this process serves."""
        return [
            ServedModel(
                id=model.id,
                aliases=model.aliases,
                max_tokens=model.facts.context if model.facts is not None else None,
                vocab_size=model.facts.vocab_size if model.facts is not None else None,
            )
            for model in await self._service.models()
        ]

    async def facts(self, model: str) -> EngineFacts:
        return await self._service.facts(model)

    async def encode(self, model: str, text: str) -> Sequence[int]:
        return await self._service.encode(model, text)

    async def encode_chat(self, model: str, messages: Sequence[Message]) -> Sequence[int]:
        return await self._service.encode_chat(model, messages)

    async def decode(self, model: str, ids: Sequence[int]) -> str:
        return await self._service.decode(model, ids)

    def generate(self, model: str, request: Request, *, taken_by: Taken | None = None) -> AsyncIterator[Event]:
        return self._service.generate(model, request, taken_by=taken_by)

    async def ready(self, model: str | None = None) -> Readiness:
        answer = await self._service.ready(model)
        return Readiness(answer.ok, answer.reason)

    async def load(self) -> Mapping[str, EngineLoad]:
        return await self._service.load()


def aliases(model: str) -> tuple[str, ...]:
    """Other names of a model."""
    listed = catalogue.find(model)
    return () if listed is None else tuple(alias for alias in (listed.id, *listed.aliases) if alias != model)
