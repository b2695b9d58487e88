"""Long-running parts of a grid and how they end: each a coroutine that serves until `stop` is set."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from distributed import Client, Nanny, Scheduler
from distributed.core import rpc

from ..grid.config import Settings
from ..grid.donors import Donor
from ..scheduler_plugins.donor_plugin import DonorPlugin
from ..scheduler_plugins.scheduler import GridScheduler
from .dask_embedder import DaskEmbedder
from .http import create_app
from .local import ONE_THREAD, local_cluster

Say = Callable[[str], None]
DRAIN_POLL = 0.5
"""Seconds between two looks at what a draining worker still runs."""


def stop_on_signals(say: Say) -> asyncio.Event:
    """An event that SIGINT and SIGTERM set; a second signal ends the process at once, as usual."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def first(number: int) -> None:
        say("stopping: what runs is finished first; once more to stop now")
        stop.set()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, first, name)
    return stop


async def serve_scheduler(settings: Settings, stop: asyncio.Event, say: Say) -> None:
    """A scheduler with our plugins, until `stop`."""
    place = settings.scheduler
    async with GridScheduler(
        host=place.host,
        port=place.port,
        dashboard=True,
        dashboard_address=f"{place.host}:{place.dashboard_port}",
    ) as scheduler:
        say(f"scheduler at {scheduler.address}")
        say(f"page      at {page_of(scheduler)}")
        await stop.wait()


def page_of(scheduler: Scheduler) -> str:
    """Address of the `/grid` page of a scheduler that runs in this process."""
    host, _, _ = scheduler.address.removeprefix("tcp://").partition(":")
    return f"http://{host}:{scheduler.http_server.port}/grid"


async def serve_worker(address: str, donor: Donor, stop: asyncio.Event, say: Say, *, drain_timeout: float) -> None:
    """One worker process for the scheduler at `address`, until `stop`: then it finishes what runs, and leaves.

    A worker that dies is started again. After `drain_timeout` seconds it leaves even if something still runs.
    """
    async with Nanny(
        address,
        name=donor.name,
        nthreads=1,
        env=ONE_THREAD,
        plugins=(DonorPlugin(donor),),
        dashboard=False,
    ) as nanny:
        say(f"{donor.name} works for {address} in {donor.region}")
        await stop.wait()
        await leave(address, donor.id, nanny.worker_address, patience=drain_timeout)


async def leave(address: str, donor_id: str, worker: str, *, patience: float) -> None:
    """Have nothing more sent, wait until nothing runs (at most `patience` s), then retire the worker."""
    async with rpc(address) as scheduler:
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(patience):
                await scheduler.grid_control(donor=donor_id, action="drain")
                while await _running(scheduler, donor_id):  # noqa: ASYNC110 - what it waits for is in another process
                    await asyncio.sleep(DRAIN_POLL)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(10):
                await scheduler.retire_workers(workers=[worker])


async def _running(scheduler: Any, donor_id: str) -> int:
    state = await scheduler.grid_state()
    return sum(worker["running"] for worker in state["workers"] if worker["id"] == donor_id)


async def serve_api(address: str, settings: Settings, stop: asyncio.Event, say: Say) -> None:
    """The HTTP service in front of the grid at `address`, until `stop`; open requests are answered first."""
    async with Client(address, asynchronous=True, set_as_default=False) as client:
        app = create_app(DaskEmbedder(client), settings)
        config = uvicorn.Config(
            app, host=settings.api.host, port=settings.api.port, log_level="warning", server_header=False
        )
        server = _Server(config)
        socket = config.bind_socket()
        host, port = socket.getsockname()[:2]
        say(f"API       at http://{host}:{port}/v1 (docs at http://{host}:{port}/docs)")
        serving = asyncio.create_task(server.serve(sockets=[socket]))
        await asyncio.wait((serving, asyncio.create_task(stop.wait())), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """uvicorn that leaves the signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_all(
    settings: Settings, stop: asyncio.Event, say: Say, *, workers: int | None, regions: Sequence[str] | None
) -> None:
    """Scheduler, workers and HTTP service on this machine, until `stop`."""
    place = settings.scheduler
    async with local_cluster(
        workers=workers,
        regions=regions,
        settings=settings,
        scheduler_port=place.port,
        dashboard_address=f"{place.host}:{place.dashboard_port}",
        asynchronous=True,
    ) as cluster:
        say(f"scheduler at {cluster.scheduler_address} with {len(cluster.workers)} workers")
        say(f"page      at {page_of(cluster.scheduler)}")
        await serve_api(cluster.scheduler_address, settings, stop, say)
