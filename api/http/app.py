"""The HTTP service, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import FastAPI

from ...grid.config import Settings
from ...grid.config.inference import Batch
from ...grid.config.service import Api
from .batcher import Batcher
from .batching import BatchLimits
from .chat import chat_router
from .completions import completions_router
from .edge import LOOPBACK, Edge
from .embedder import Embedder
from .embeddings import embeddings_router
from .errors import handle_errors
from .health import health_router
from .llm_door import LlmDoor
from .llm_face import ChatBackend
from .metrics import LlmMetrics, metrics_router
from .models import Models, models_router


def create_app(embedder: Embedder, settings: Settings, chat: ChatBackend | None = None) -> FastAPI:
    """The application. It computes with `embedder` and `chat`, which must live on the event loop that serves.

    Without `chat` there are no doors for language models.
    It has no authentication: serve it on loopback, or behind something that authenticates.
    """
    batcher = Batcher(embedder, batch_limits(settings.api, settings.inference.batch))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await batcher.close()

    app = FastAPI(
        title="idlegrid",
        summary="Language models and embeddings on a grid of donated GPUs, by OpenAI's API.",
        version="1",  # of the API: the release of the server is nobody's business
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    models = [Models(embedder)]
    app.include_router(embeddings_router(models[0], batcher, settings.api))
    if chat is not None:
        models.append(Models(chat))
        metrics = LlmMetrics()
        door = LlmDoor(chat, models[1], settings.api, metrics)
        app.include_router(chat_router(door))
        app.include_router(completions_router(door))
        app.include_router(metrics_router(metrics, chat))
    app.include_router(models_router(models))
    app.include_router(health_router(models))
    handle_errors(app)
    app.add_middleware(Edge, max_body=int(settings.api.max_body_mb * 1_000_000), hosts=known_hosts(settings.api))
    return app


def batch_limits(api: Api, batch: Batch) -> BatchLimits:
    """The limits of the queue, from the settings."""
    return BatchLimits(
        max_batch=batch.max_batch_size,
        max_wait=batch.max_wait_ms / 1000,
        max_in_flight=api.max_batches_in_flight,
        max_items=api.max_queue,
        max_chars=api.max_queue_chars,
    )


def known_hosts(api: Api) -> Collection[str] | None:
    """Host names that may be called; None: any."""
    if api.allowed_hosts is not None:
        return None if "*" in api.allowed_hosts else frozenset(name.lower() for name in api.allowed_hosts)
    return LOOPBACK | {api.host.lower()} if api.on_loopback else None
