"""The HTTP service, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI
from platformdirs import user_data_path
from starlette.types import ASGIApp

from ...grid.config import Settings
from ...grid.config.inference import Batch
from ...grid.config.service import Api
from ..batches.embedding_lines import EmbeddingLines
from ..batches.endpoints import Endpoint
from ..batches.folder import FileFolder
from ..batches.llm_lines import llm_endpoints
from ..batches.runner import BatchRunner
from ..fetching import Fetched, Fetcher
from .admin_deployments import deployments_router
from .admin_keys import keys_router
from .admin_workers import enrolments_router, workers_router
from .audio import PATH as AUDIO
from .audio import audio_router
from .audio_batcher import AudioBatcher
from .audio_face import Transcriber
from .audio_params import MARGIN, MIB
from .auth import Gate, Gatekeeper, KeyRing
from .batcher import Batcher
from .batches import batches_router
from .batching import BatchLimits
from .chat import chat_router
from .client_address import address_reader
from .completions import completions_router
from .edge import LOOPBACK, Edge
from .embedder import Embedder
from .embeddings import embeddings_router
from .errors import handle_errors
from .files import PATH as FILES
from .files import FileLimits, files_router
from .health import health_router
from .image_batcher import ImageBatcher
from .images import images_router
from .images_face import Painter
from .jobs import Intake, jobs_router
from .jobs_direct import direct_router
from .jobs_door import JobDoor
from .jobs_events import events_router
from .jobs_queue import Lookout
from .jobs_stats import stats_router
from .jobs_sync import sync_router
from .jobs_why import Witness, why_router
from .llm_door import LlmDoor
from .llm_face import ChatBackend
from .metrics import LlmMetrics, metrics_router
from .models import Models, models_router
from .openapi import describe
from .problems import handle_problems
from .sight import Sight
from .sight_face import Viewer
from .state import state_router
from .trace import Trace
from .worker_auth import Checkpoint
from .worker_config import config_router
from .worker_doors import RESULT_MARGIN, attempts_router
from .worker_heartbeat import heartbeat_router
from .worker_pull import pull_router
from .worker_register import register_router
from .worker_tokens import tokens_router

RESULTS = "/api/v1/workers/"
EMBEDDINGS = "/v1/embeddings"
WITH_MEDIA = ("/api/v1/jobs", "/api/v1/jobs/sync", "/v1/chat/completions")
"""Where sound and pictures come in Base64."""
WAITING_AUDIO = 512 * MIB
"""Bytes of recordings that may wait in one process; beyond it 429."""
IMAGES_TOGETHER = 4
"""Pictures in one task."""
WAITING_PIXELS = 1024 * 1024 * 1024
"""Pixels of pictures that may wait to be drawn; beyond it 429."""


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
    batcher = Batcher(embedder, batch_limits(settings.api, settings.inference.batch))
    hearing = None if speech is None else AudioBatcher(speech, speech_limits(settings))
    drawing = None if painter is None else ImageBatcher(painter, image_limits(settings))

    runner: BatchRunner | None = None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if runner is not None:
            runner.start()
        yield
        if runner is not None:
            await runner.close()
        for one in (batcher, hearing, drawing):
            if one is not None:
                await one.close()

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
    endpoints: dict[str, Endpoint] = {EMBEDDINGS: EmbeddingLines(embedder, models[0], settings.api)}
    seen = None if viewer is None else Models(viewer)
    if chat is not None:
        models.append(Models(chat))
        metrics = LlmMetrics()
        door = LlmDoor(chat, models[1], settings.api, metrics)
        sees = Sight(viewer, seen, settings.api, fetcher or own_fetcher(jobs, settings)) if viewer and seen else None
        app.include_router(chat_router(door, sees))
        app.include_router(completions_router(door))
        app.include_router(metrics_router(metrics, chat))
        endpoints |= llm_endpoints(door)
    listed = list(models)
    if speech is not None and hearing is not None:
        listed.append(Models(speech))
        app.include_router(audio_router(listed[-1], hearing, settings.api))
    if painter is not None and drawing is not None:
        listed.append(Models(painter))
        app.include_router(images_router(listed[-1], drawing, settings.api))
    if seen is not None:
        listed.append(seen)
    app.include_router(models_router(listed))
    checkpoint = None
    if jobs is not None:
        checkpoint = Checkpoint(jobs, address_reader(settings.api.trusted_proxies))
        for router in (*donor_routers(jobs, checkpoint), *job_routers(jobs, ring)):  # heartbeats are the most frequent
            app.include_router(router)
        folder, limits = FileFolder(files_folder(settings)), file_limits(settings)
        app.include_router(files_router(jobs.store, folder, limits))
        lines = settings.jobs.max_batch_lines
        runner = BatchRunner(jobs.store, folder, endpoints, most_lines=lines, lives=limits.lives, may_run=may_batch)
        app.include_router(batches_router(jobs.store, endpoints, runner.wake))
    app.include_router(health_router(models, jobs.check if jobs is not None else None))
    handle_errors(app)
    handle_problems(app)
    describe(app)
    secret = jobs.secret if jobs is not None else None
    if passing is not None:
        app.add_middleware(passing)
    app.add_middleware(Gate, guard=Gatekeeper(ring, secret, settings.api.worker_token, checkpoint))
    app.add_middleware(Trace)
    app.add_middleware(Edge, max_body=largest_body(settings), hosts=known_hosts(settings.api))
    return app


def key_ring(jobs: JobDoor | None, settings: Settings) -> KeyRing | None:
    """The API keys; None where none is wanted."""
    if not settings.api.needs_keys:
        return None
    if jobs is None:
        raise ValueError(
            f"a service on {settings.api.host} wants API keys (setting api.auth), and there is no store that has them"
        )
    return KeyRing(jobs.find_key, settings.jobs.requests_per_minute)


def job_routers(jobs: JobDoor, ring: KeyRing | None) -> Iterator[APIRouter]:
    """The doors for durable jobs. The order matters: `/jobs/sync` and `/jobs/stats/…` are no ids."""
    address_of, lookout = address_reader(jobs.settings.api.trusted_proxies), Lookout(jobs)
    intake, witness = Intake(jobs, lookout, address_of), Witness(jobs)
    yield stats_router(jobs, lookout, address_of)
    yield sync_router(jobs, intake, witness)
    yield direct_router(jobs, address_of)
    yield events_router(jobs)
    yield why_router(jobs, intake, witness)
    yield jobs_router(jobs, intake)
    yield attempts_router(jobs)
    yield pull_router(jobs, address_of)
    yield keys_router(jobs, ring)
    yield deployments_router(jobs, address_of)
    yield state_router(jobs, lookout)


def donor_routers(jobs: JobDoor, checkpoint: Checkpoint) -> Iterator[APIRouter]:
    """The doors for donors and for those who let them in."""
    address_of = address_reader(jobs.settings.api.trusted_proxies)
    yield register_router(jobs, address_of)
    yield heartbeat_router(jobs)
    yield config_router(jobs, address_of)
    yield tokens_router(jobs, address_of)
    yield enrolments_router(jobs, address_of)
    yield workers_router(jobs, address_of, checkpoint)


def files_folder(settings: Settings) -> Path:
    """Where clients' files lie."""
    return settings.jobs.files_folder or user_data_path("idlegrid", appauthor=False) / "files"


def file_limits(settings: Settings) -> FileLimits:
    """What a client may keep, from the settings."""
    jobs = settings.jobs
    return FileLimits(
        file_bytes=int(jobs.max_file_mb * 1_000_000),
        client_bytes=int(jobs.max_files_gb * 1_000_000_000),
        lives=jobs.retention_days * 86_400,
    )


def largest_body(settings: Settings) -> Callable[[str], int]:
    """How large a request may be at a path: results and recordings are larger than what clients send else."""
    usual = int(settings.api.max_body_mb * 1_000_000)
    result = max(usual, int(settings.jobs.max_result_mb * 1_000_000) + RESULT_MARGIN)
    audio = int(settings.api.max_audio_mb * MIB) + MARGIN
    file = file_limits(settings).file_bytes + MARGIN

    media = usual + int(settings.fetch.max_mb * 1_000_000 * 4 / 3)  # in Base64

    def at(path: str) -> int:
        if path.startswith(AUDIO):
            return audio
        if path == FILES:
            return file
        if path in WITH_MEDIA:
            return media
        return result if path.startswith(RESULTS) and path.endswith("/complete") else usual

    return at


def speech_limits(settings: Settings) -> BatchLimits:
    """The limits of recordings that wait: as many as of texts may be on their way, of a bounded size."""
    return BatchLimits(
        max_batch=settings.inference.batch.max_batch_size,
        max_wait=settings.inference.batch.max_wait_ms / 1000,
        max_in_flight=settings.api.max_batches_in_flight,
        max_items=settings.api.max_queue,
        max_chars=WAITING_AUDIO,
    )


def image_limits(settings: Settings) -> BatchLimits:
    """The limits of pictures that wait: few in a task, so that those of one request go to several workers."""
    return BatchLimits(
        max_batch=min(IMAGES_TOGETHER, settings.inference.batch.max_batch_size),
        max_wait=settings.inference.batch.max_wait_ms / 1000,
        max_in_flight=settings.api.max_batches_in_flight,
        max_items=settings.api.max_queue,
        max_chars=WAITING_PIXELS,
    )


def own_fetcher(jobs: JobDoor | None, settings: Settings) -> Fetched:
    """Who fetches what clients name."""
    return jobs.fetcher if jobs is not None else Fetcher.from_settings(settings.fetch)


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
