"""The HTTP side of `job_queue.py`: one process that serves the doors for jobs and nothing else, and its clients."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any

from job_queue_sides import PARAMS, TYPE, obey

from idlegrid.api import GridClient
from idlegrid.api.http.embedder import EmbedAnswer, Input, Readiness, ServedModel, Unavailable

SPAWN = multiprocessing.get_context("spawn")


class NoEmbedder:
    """Nobody asks for vectors here."""

    async def models(self) -> Sequence[ServedModel]:
        return []

    async def embed(
        self, model_id: str, inputs: Sequence[Input], *, normalize: bool = True, background: bool = False
    ) -> EmbedAnswer:
        raise Unavailable("nothing is computed here")

    async def ready(self, model_id: str | None = None) -> Readiness:
        return Readiness(True)


def serve(database: str, listening: socket.socket, stop: Event) -> None:
    """A process that serves, as `idlegrid api` does."""
    import uvicorn

    from idlegrid.api.garbage import leave_startup_alone
    from idlegrid.api.http import create_app
    from idlegrid.api.http.jobs_door import JobDoor
    from idlegrid.api.logs import configure
    from idlegrid.grid.config import Settings
    from idlegrid.grid.store import open_store

    configure("warning")
    settings = Settings.model_validate({"api": {"max_body_mb": 1}})
    secret = b"a secret of a benchmark, alone.."
    store = open_store(database, secret=lambda: secret)
    app = create_app(NoEmbedder(), settings, jobs=JobDoor(store, settings, secret=secret))

    leave_startup_alone()

    async def run() -> None:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False, proxy_headers=False))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        await asyncio.to_thread(stop.wait)
        server.should_exit = True
        await serving

    asyncio.run(run())
    store.close()


@contextmanager
def service(database: str) -> Iterator[str]:
    """A process that serves over this database; its address."""
    stop = SPAWN.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as api/serving.py does
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        process = SPAWN.Process(target=serve, args=(database, listening, stop))
        process.start()
    try:
        yield url  # what connects before it serves waits
    finally:
        stop.set()
        process.join(10)
        if process.is_alive():
            process.kill()


def http_client(url: str, orders: Any) -> None:
    """A client's process over HTTP."""
    with GridClient(url) as grid:
        obey(orders, lambda: grid.submit(TYPE, PARAMS))
