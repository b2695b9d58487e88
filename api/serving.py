"""`idlegrid api`: the HTTP service in front of a grid, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from functools import partial

import uvicorn
from fastapi import FastAPI

from ..actors.pauses import keep_pauses_short
from ..grid.config import Settings
from ..grid.config.service import Api
from ..grid.peers import Role
from ..grid.secret import load_secret
from .dask_embedder import DaskEmbedder
from .dask_painter import DaskPainter
from .dask_transcriber import DaskTranscriber
from .dask_viewer import DaskViewer
from .http import create_app
from .http.jobs_door import JobDoor
from .llm_serving import LanguageModels, language_models, place_of
from .oracle import SchedulerOracle
from .parent import supervised
from .patient_http import PatientProtocol
from .ports import check_free
from .quiet_server import QuietServer
from .signals import Say
from .storing import opened
from .tls import kept_fresh, speak_as


async def serve_api(
    address: str, settings: Settings, stop: asyncio.Event, say: Say, *, llms: Sequence[str] = ()
) -> None:
    """The HTTP service in front of the grid at `address`, until `stop`; open requests are answered first.

    It serves the language models of the store's deployments, if no other process does, and beside them `llms`.
    Raises ConnectionError when no scheduler answers, CannotStart when the port is taken.
    """
    speak_as(Role.API, settings)
    async with kept_fresh(settings, (Role.API, Role.API)), _http(address, settings, stop, llms) as url:
        if url:
            say(_told(url))
        await stop.wait()


def _told(url: str) -> str:
    return f"API       at {url}/v1 (docs at {url}/docs)"


@contextlib.asynccontextmanager
async def _http(address: str, settings: Settings, stop: asyncio.Event, llms: Sequence[str]) -> AsyncIterator[str]:
    """Serves as long as the context is open; yields its base URL once it answers. Stopped before that: an empty one."""
    place = settings.api
    check_free(place.host, place.port, "--port or IDLEGRID_API_PORT")
    must_answer = not supervised()  # who is started again comes up without a scheduler: jobs are accepted meanwhile
    async with (
        DaskEmbedder(address, must_answer=must_answer) as embedder,
        _jobs(address, settings, stop) as jobs,
        contextlib.AsyncExitStack() as stack,
    ):
        if jobs is None:
            yield ""
            return
        llm = await stack.enter_async_context(language_models(address, llms, jobs, must_answer=must_answer))
        server = _server(_app(embedder, settings, llm, jobs), place)
        listener = _listening(server)
        host, port = listener.getsockname()[:2]
        keep_pauses_short()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await server.answers.wait()
            url = f"http://{host}:{port}"
            llm.follower.start(place_of(settings, url))
            yield url
        finally:
            jobs.end_waits()  # who waits for work or for a result may wait for a minute: what answers now is let finish
            server.should_exit = True
            await serving


def _app(embedder: DaskEmbedder, settings: Settings, llm: LanguageModels, jobs: JobDoor) -> FastAPI:
    """The application over the grid: everything but language models is computed by tasks."""
    engines = settings.engines
    return create_app(
        embedder,
        settings,
        llm.chat,
        jobs,
        partial(llm.passing, settings),
        speech=DaskTranscriber(embedder, model=engines.whisper.model_id),
        painter=DaskPainter(embedder, model=engines.image_gen.model_id),
        viewer=DaskViewer(embedder, model=engines.vision.model_id),
        may_batch=lambda: llm.follower.settled,
    )


def _server(app: FastAPI, place: Api) -> QuietServer:
    return QuietServer(
        uvicorn.Config(
            app,
            http=PatientProtocol,
            host=place.host,
            port=place.port,
            log_config=None,  # as everything else logs
            log_level="warning",
            server_header=False,
            proxy_headers=False,
        )
    )


def _listening(server: QuietServer) -> socket.socket:
    """Its socket."""
    found = server.config.bind_socket()
    # asyncio leaves Nagle's algorithm on for such a socket: each answer would wait 40 ms for an acknowledgement
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


@contextlib.asynccontextmanager
async def _jobs(address: str, settings: Settings, stop: asyncio.Event) -> AsyncIterator[JobDoor | None]:
    """The doors for durable jobs, with their store; None when `stop` came first."""
    async with opened(settings, stop) as store:
        if store is None:
            yield None
            return
        secret = await asyncio.to_thread(load_secret, settings.database.secret_file)
        oracle = SchedulerOracle(address)
        door = JobDoor(store, settings, secret=secret, oracle=oracle, scheduler=address)
        try:
            yield door
        finally:
            door.close()
            await oracle.close()
