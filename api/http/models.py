"""`GET /v1/models`, and the model that a request asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from fastapi import APIRouter

from ...grid.suggest import did_you_mean
from .embedder import Readiness, ServedModel
from .errors import ApiError, unavailable

READY_FOR = 1.0
"""Seconds for which an answer of `ready` is believed, so that not every request asks the scheduler."""

PATIENCE = 5.0
"""Seconds that `ready` may take; longer means no."""


class Serves(Protocol):
    """What models need of whatever runs them: an `Embedder` or a `ChatBackend`."""

    async def models(self) -> Sequence[ServedModel]:
        """The models that can be asked for."""
        ...

    async def ready(self, model_id: str | None = None, /) -> Readiness:
        """Whether at least one worker can take this model, or, without an id, any model."""
        ...


class Models:
    """The served models of one kind, and whether somebody can run them now."""

    def __init__(self, backend: Serves, *, clock: Callable[[], float] = monotonic) -> None:
        self._backend, self._clock = backend, clock
        self._ready: dict[str | None, tuple[float, Readiness]] = {}
        self._asking = asyncio.Lock()

    async def all(self) -> list[ServedModel]:
        return list(await self._backend.models())

    async def find(self, name: str) -> ServedModel | None:
        """The model with this id or alias."""
        return (await self._by_name()).get(name.lower())

    async def served(self, name: str) -> ServedModel:
        """The model with this id or alias. Raises ApiError 404 with the nearest name."""
        by_name = await self._by_name()
        found = by_name.get(name.lower())
        if found is None:
            shown = name[:200]
            message = f"The model {shown!r} does not exist.{did_you_mean(shown, by_name)} `GET /v1/models` lists them."
            raise ApiError(404, message, param="model", code="model_not_found")
        return found

    async def _by_name(self) -> dict[str, ServedModel]:
        by_name: dict[str, ServedModel] = {}
        for model in await self.all():
            for known in (model.id, *model.aliases):
                by_name.setdefault(known.lower(), model)
        return by_name

    async def check_ready(self, model_id: str | None = None) -> None:
        """Raise ApiError 503 when nobody can take this model (or any, without an id) now."""
        async with self._asking:
            asked, answer = self._ready.get(model_id, (float("-inf"), Readiness(False)))
            if self._clock() - asked > READY_FOR or not answer.ok:
                answer = await self._ask(model_id)
                self._ready[model_id] = (self._clock(), answer)
        if not answer.ok:
            raise unavailable(f"No worker can take this now: {answer.reason}", retry_after=5.0)

    async def _ask(self, model_id: str | None) -> Readiness:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._backend.ready(model_id)
        except TimeoutError:
            return Readiness(False, f"the grid did not say within {PATIENCE:g} s who is there")


async def check_ready(kinds: Sequence[Models]) -> None:
    """Raise ApiError 503 when nobody can take a model of any kind. A kind without models says nothing to it."""
    asked = [models for models in kinds if await models.all()] or list(kinds[:1])
    for models in asked[:-1]:
        with suppress(ApiError):
            await models.check_ready()
            return
    await asked[-1].check_ready()


async def served(kinds: Sequence[Models], name: str) -> ServedModel:
    """The model of any kind with this id or alias. Raises ApiError 404."""
    for models in kinds[:-1]:
        with suppress(ApiError):
            return await models.served(name)
    return await kinds[-1].served(name)


def models_router(kinds: Sequence[Models]) -> APIRouter:
    """The routes, bound to the models of each kind."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("")
    async def list_models() -> dict[str, Any]:
        """The models that can be asked for."""
        return {"object": "list", "data": [as_document(model) for models in kinds for model in await models.all()]}

    @router.get("/{model_id:path}")
    async def get_model(model_id: str) -> dict[str, Any]:
        """One model, by its id or an alias."""
        return as_document(await served(kinds, model_id))

    return router


def as_document(model: ServedModel) -> dict[str, Any]:
    """A model as OpenAI's API shows it."""
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by}
