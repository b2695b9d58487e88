"""Long-running parts of a grid and how they end: each a coroutine that serves until `stop` is set."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import uvicorn
from distributed import Nanny, SpecCluster
from distributed.core import rpc

from ..grid import catalogue
from ..grid.config import Settings
from ..grid.config.service import Scheduler as Place
from ..grid.donors import Donor
from ..pipelines.llm.deployment import Deployment
from ..pipelines.llm.service import LlmService
from ..scheduler_plugins.donor_plugin import DonorPlugin
from ..scheduler_plugins.scheduler import GridScheduler
from .dask_embedder import DaskEmbedder
from .http import create_app
from .links import PATIENCE, page_at, unreachable
from .llm_backend import ServiceBackend
from .local import ONE_THREAD, ChildManners, local_cluster, not_ready
from .ports import check_free, obstacle

Say = Callable[[str], None]
DRAIN_POLL = 0.2
"""Seconds between two looks at what a leaving worker still runs."""
RETRY = 5.0
"""Seconds between two tries to find a scheduler that went away."""


def stop_on_signals(say: Say, promise: str) -> asyncio.Event:
    """An event that SIGINT and SIGTERM set; a second signal ends the process at once.

    `promise` says what is done before the end.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def first() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()
        say(f"stopping: {promise}; once more to stop now")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, first)
    return stop


def quiet() -> None:
    """Dask tells of every connection: warnings are enough for a terminal."""
    logging.getLogger("distributed").setLevel(logging.WARNING)


# -- scheduler ----------------------------------------------------------------------------------------------------


async def serve_scheduler(settings: Settings, stop: asyncio.Event, say: Say) -> None:
    """A scheduler with our plugins, until `stop`. Raises CannotStart when its port is taken."""
    place = settings.scheduler
    check_free(place.host, place.port, "--port or IDLEGRID_SCHEDULER_PORT")
    async with GridScheduler(
        host=place.host, port=place.port, dashboard=True, dashboard_address=_dashboard_address(place, say)
    ) as scheduler:
        say(f"scheduler at {scheduler.address}")
        say(f"page      at {page_at(scheduler)}")
        await stop.wait()


def _dashboard_address(place: Place, say: Say) -> str:
    """Where the dashboard listens: another grid's dashboard on the usual port is no reason not to start."""
    port = place.dashboard_port
    if obstacle(place.host, port) is not None:
        say(f"port {port} is taken, so the page is at another one")
        port = 0
    return f"{place.host}:{port}"


# -- worker -------------------------------------------------------------------------------------------------------


async def serve_worker(address: str, donor: Donor, stop: asyncio.Event, say: Say, *, drain_timeout: float) -> None:
    """One worker process for the scheduler at `address`, until `stop`: then it finishes what runs, and leaves.

    A worker that dies is started again; a scheduler that goes away is waited for. After `drain_timeout` seconds it
    leaves even if something still runs. Raises ConnectionError when no scheduler answers at first.
    """
    await _find(address)
    while not stop.is_set():
        with contextlib.suppress(OSError, RuntimeError):  # the scheduler went while the worker came up
            async with _nanny(address, donor) as nanny:
                say(f"{donor.name} works for {address} in {donor.region}")
                await _first_of(stop.wait(), nanny.finished())
                if stop.is_set():
                    await leave(address, donor.id, nanny.worker_address, patience=drain_timeout)
                    return
        say(f"the scheduler at {address} is gone: looking for it every {RETRY:g} s")
        await _first_of(stop.wait(), _find_again(address))


def _nanny(address: str, donor: Donor) -> Nanny:
    return Nanny(
        address,
        name=donor.name,
        nthreads=donor.limits.max_concurrent_jobs,
        env=ONE_THREAD,
        plugins=(DonorPlugin(donor), ChildManners()),
        dashboard=False,
        silence_logs=logging.WARNING,
    )


async def _find(address: str) -> None:
    """Return when a scheduler answers at `address`; raises ConnectionError after `PATIENCE` seconds."""
    try:
        async with asyncio.timeout(PATIENCE), rpc(address) as scheduler:
            await scheduler.identity(n_workers=0)
    except (OSError, TimeoutError, ValueError) as error:
        raise unreachable(address, PATIENCE, error) from None


async def _find_again(address: str) -> None:
    while True:
        await asyncio.sleep(RETRY)
        with contextlib.suppress(ConnectionError):
            return await _find(address)


async def _first_of(*things: Awaitable[Any]) -> None:
    """Wait for the first of some things; the others are given up."""
    tasks = [asyncio.ensure_future(thing) for thing in things]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def leave(address: str, donor_id: str, worker: str | None, *, patience: float) -> None:
    """Have nothing more sent, wait until nothing runs (at most `patience` s), then retire the worker."""
    if worker is None:
        return
    async with rpc(address) as scheduler:
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(patience):
                await scheduler.grid_control(donor=donor_id, action="drain")
                while (await scheduler.processing(workers=[worker]))[worker]:  # noqa: ASYNC110 - another process's
                    await asyncio.sleep(DRAIN_POLL)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(10):
                await scheduler.retire_workers(workers=[worker])


# -- HTTP service -------------------------------------------------------------------------------------------------


async def serve_api(
    address: str, settings: Settings, stop: asyncio.Event, say: Say, *, llms: Sequence[str] = ()
) -> None:
    """The HTTP service in front of the grid at `address`, until `stop`; open requests are answered first.

    It keeps a replica of each of the language models `llms` on the grid.
    Raises ConnectionError when no scheduler answers, CannotStart when the port is taken.
    """
    async with _http(address, settings, llms) as url:
        say(_told(url))
        await stop.wait()


def _told(url: str) -> str:
    return f"API       at {url}/v1 (docs at {url}/docs)"


@contextlib.asynccontextmanager
async def _http(address: str, settings: Settings, llms: Sequence[str]) -> AsyncIterator[str]:
    """Serves as long as the context is open; yields its base URL once it answers."""
    place = settings.api
    check_free(place.host, place.port, "--port or IDLEGRID_API_PORT")
    async with DaskEmbedder(address) as embedder, _llms(address, llms) as chat:
        app = create_app(embedder, settings, chat)
        server = _Server(
            uvicorn.Config(
                app, host=place.host, port=place.port, log_level="warning", server_header=False, proxy_headers=False
            )
        )
        socket = server.config.bind_socket()
        host, port = socket.getsockname()[:2]
        serving = asyncio.create_task(server.serve(sockets=[socket]))
        try:
            await server.answers.wait()
            yield f"http://{host}:{port}"
        finally:
            server.should_exit = True
            await serving


@contextlib.asynccontextmanager
async def _llms(address: str, models: Sequence[str]) -> AsyncIterator[ServiceBackend | None]:
    """Replicas of language models, on their way; None without any. Clients are told while there is none yet."""
    if not models:
        yield None
        return
    names = dict.fromkeys(catalogue.canonical(model, "llm") for model in models)
    # on a donor without a GPU a model takes no memory of one, so that its need can't be told beforehand
    wanted = [Deployment(model=name, device="auto", gpu_memory_gb=0.0) for name in names]
    async with LlmService(address, wanted) as service:
        yield ServiceBackend(service)


class _Server(uvicorn.Server):
    """uvicorn that leaves the signals to us and tells when it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answers = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.answers.set()


# -- all of it ----------------------------------------------------------------------------------------------------


async def serve_all(
    settings: Settings,
    stop: asyncio.Event,
    say: Say,
    *,
    workers: int | None,
    regions: Sequence[str] | None,
    llms: Sequence[str] = (),
) -> None:
    """Scheduler, workers and HTTP service on this machine, until `stop`; says where they are once all answer.

    Raises what `local_cluster` raises, and CannotStart when a port is taken.
    """
    place = settings.scheduler
    check_free(settings.api.host, settings.api.port, "--port or IDLEGRID_API_PORT")
    check_free(place.host, place.port, "IDLEGRID_SCHEDULER_PORT")
    cluster = local_cluster(
        workers=workers,
        regions=regions,
        settings=settings,
        host=place.host,
        scheduler_port=place.port,
        dashboard_address=_dashboard_address(place, say),
        asynchronous=True,
    )
    async with _started(cluster), _http(cluster.scheduler_address, settings, llms) as url:
        count = len(cluster.workers)
        say(f"scheduler at {cluster.scheduler_address} with {count} worker{'' if count == 1 else 's'}")
        say(f"page      at {page_at(cluster.scheduler)}")
        say(_told(url))
        await stop.wait()


@contextlib.asynccontextmanager
async def _started(cluster: SpecCluster) -> AsyncIterator[None]:
    try:
        await cluster
    except RuntimeError as error:
        await cluster.close()
        raise not_ready(error) from None
    async with cluster:
        yield
