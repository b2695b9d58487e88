"""The HTTP service, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from ...grid.config import Settings
from ..fetching import Fetched, Fetcher
from .areas import Area, areas_of, endpoints_of
from .audio_face import Transcriber
from .auth import Gate, Gatekeeper, Guard, KeyRing
from .durable import Durable, durable
from .edge import Edge
from .embedder import Embedder
from .errors import handle_errors
from .health import health_router
from .images_face import Painter
from .jobs_door import JobDoor
from .limits import known_hosts, largest_body
from .llm_face import ChatBackend
from .models import Models, models_router
from .openapi import describe
from .problems import handle_problems
from .sight import Sight
from .sight_face import Viewer
from .trace import Trace

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    embedder: Embedder,
    settings: Settings,
    chat: ChatBackend | None = None,
    jobs: JobDoor | None = None,
    passing: Callable[[ASGIApp], ASGIApp] | None = None,
    *,
    speech: Transcriber | None = None,
    painter: Painter | None = None,
    viewer: Viewer | None = None,
    fetcher: Fetched | None = None,
    may_batch: Callable[[], bool] = lambda: True,
) -> FastAPI:
    """The application. It computes with `embedder`, `chat`, `speech`, `painter` and `viewer`, which must live on the
    event loop that serves.

    Without `chat` there are no doors for language models, without `speech` none for recordings, without `painter` none
    for pictures, without `viewer` no chat about any, without `jobs` none for durable jobs, files and batches.
    `passing` is put behind the gate: it passes on what another process serves. `fetcher`: who fetches pictures that a
    chat names; None: the one of `jobs`, or as the settings say. `may_batch`: whether this process works on batches.
    Raises ValueError when the settings want API keys and there is no store (`jobs`) that has them.
    """
    ring = key_ring(jobs, settings)
    fetcher = fetcher or fetcher_of(jobs, settings)
    sight = None if viewer is None else Sight(viewer, Models(viewer), settings.api, fetcher)
    salts = None if jobs is None else jobs.salts
    areas = list(areas_of(embedder, settings, chat=chat, speech=speech, painter=painter, sight=sight, salts=salts))
    kept = None if jobs is None else durable(jobs, settings, ring, endpoints_of(areas), may_batch)
    app = bare_app(lifespan_of(areas, kept))
    for router in routers_of(areas, kept):
        app.include_router(router)
    handle_errors(app)
    handle_problems(app)
    describe(app)
    add_middlewares(app, settings, gatekeeper(ring, settings, kept), passing)
    return app


def bare_app(lifespan: Lifespan) -> FastAPI:
    """The application before it has any routes."""
    return FastAPI(
        title="idlegrid",
        summary="Language models and embeddings on a grid of donated GPUs, by OpenAI's API.",
        version="1",  # of the API: the release of the server is nobody's business
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )


def lifespan_of(areas: Sequence[Area], kept: Durable | None) -> Lifespan:
    """Batches are worked on as long as the service serves; then whatever waits is ended."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if kept is not None:
            kept.runner.start()
        yield
        if kept is not None:
            await kept.runner.close()
        for area in areas:
            if area.queue is not None:
                await area.queue.close()

    return lifespan


def routers_of(areas: Sequence[Area], kept: Durable | None) -> Iterator[APIRouter]:
    """All routes. The order counts: where two match, the first one answers."""
    for area in areas:
        yield from area.routers
    yield models_router([area.models for area in areas])
    if kept is not None:
        yield from kept.routers
    yield health_router([area.models for area in areas if area.makes_ready], kept.check if kept is not None else None)


def add_middlewares(
    app: FastAPI, settings: Settings, guard: Guard, passing: Callable[[ASGIApp], ASGIApp] | None
) -> None:
    """What every request goes through, the innermost first."""
    if passing is not None:
        app.add_middleware(passing)
    app.add_middleware(Gate, guard=guard)
    app.add_middleware(Trace)
    app.add_middleware(Edge, max_body=largest_body(settings), hosts=known_hosts(settings.api))


def gatekeeper(ring: KeyRing | None, settings: Settings, kept: Durable | None) -> Gatekeeper:
    """Who lets requests in."""
    secret, checkpoint = (None, None) if kept is None else (kept.secret, kept.checkpoint)
    return Gatekeeper(ring, secret, settings.api.worker_token, checkpoint)


def key_ring(jobs: JobDoor | None, settings: Settings) -> KeyRing | None:
    """The API keys; None where none is wanted."""
    if not settings.api.needs_keys:
        return None
    if jobs is None:
        raise ValueError(
            f"a service on {settings.api.host} wants API keys (setting api.auth), and there is no store that has them"
        )
    return KeyRing(jobs.find_key, settings.jobs.requests_per_minute)


def fetcher_of(jobs: JobDoor | None, settings: Settings) -> Fetched:
    """Who fetches what clients name."""
    return jobs.fetcher if jobs is not None else Fetcher.from_settings(settings.fetch)
