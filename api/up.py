"""`idlegrid up`: a whole grid on this machine, each part a process of its own, each started again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from distributed.core import rpc
from distributed.utils import format_dashboard_link

from ..grid.config import Settings
from ..grid.peers import Role
from ..scheduler_plugins.security import VARIABLE as CERTIFICATE
from .agent import worker_part
from .links import page_of
from .local import Crew, local_donor_of, local_name, worker_environment
from .ports import CannotStart, Reserved, obstacle
from .signals import Say
from .supervision import Part, Supervised, run_all
from .tls import SCHEME, certificate, kept_fresh, own_security, scheme_of, speak_as, via

READY_WITHIN = 180.0
"""Seconds that all parts have to answer for the first time."""
LOOK_EVERY = 0.1
DRAIN = 10.0
"""Seconds that jobs which run get to finish when the grid stops; after that they are run again when it starts."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts listen: ports that are kept while what listens on them is started again."""

    scheduler: Reserved
    dashboard: Reserved
    api: Reserved
    scheme: str = "tcp://"
    """Of the Dask network."""

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return f"{self.scheme}{self.scheduler.host}:{self.scheduler.port}"

    @property
    def url(self) -> str:
        """Of the HTTP service."""
        return f"http://{self.api.host}:{self.api.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The same, for the parts."""
        return {
            "IDLEGRID_SCHEDULER_ADDRESS": self.address,
            "IDLEGRID_SCHEDULER_PORT": str(self.scheduler.port),
            "IDLEGRID_SCHEDULER_DASHBOARD_PORT": str(self.dashboard.port),
            "IDLEGRID_API_PORT": str(self.api.port),
            "IDLEGRID_SCHEDULER_TLS": str(self.scheme == SCHEME),
        }

    def close(self) -> None:
        """Give the ports up."""
        for place in (self.scheduler, self.dashboard, self.api):
            place.close()


def reserve(settings: Settings, say: Say) -> Places:
    """Keep the configured ports. Raises CannotStart when one is taken; the page moves to another one."""
    place = settings.scheduler
    scheduler = Reserved(place.host, place.port, "IDLEGRID_SCHEDULER_PORT")
    api = Reserved(settings.api.host, settings.api.port, "--port or IDLEGRID_API_PORT")
    port = place.dashboard_port
    if obstacle(place.host, port) is not None:
        say(f"port {port} is taken, so the page is at another one")
        port = 0
    dashboard = Reserved(place.host, port, "IDLEGRID_SCHEDULER_DASHBOARD_PORT")
    return Places(scheduler, dashboard, api, scheme_of(settings))


@dataclass(frozen=True, slots=True)
class Parts:
    """All processes, in the order in which they are stopped."""

    api: list[Supervised]
    work: list[Supervised]
    """Dispatcher and workers."""
    scheduler: list[Supervised]


def parts(
    settings: Settings, places: Places, crew: Crew, *, llms: Sequence[str] = (), config: Path | None = None
) -> Parts:
    """What a grid consists of."""

    def command(name: str, *words: str) -> tuple[str, ...]:
        file = ("--config", str(config)) if config is not None else ()
        return (sys.executable, "-m", "idlegrid.api.cli", name, *words, *file)

    told = places.environment
    served = [word for model in llms for word in ("--llm", model)]
    workers = [
        worker_part(
            places.address,
            local_donor_of(index, region, settings),
            drain_timeout=DRAIN,
            environment=worker_environment(index, crew.gpus) | _certificate(settings, index),
            memory_limit=crew.memory_limit,
            host=places.scheduler.host,
        )
        for index, region in enumerate(crew.regions)
    ]
    return Parts(
        api=[Supervised(Part("HTTP service", command("api", *served), told, grace=60.0))],
        work=[Supervised(Part("dispatcher", command("dispatcher"), told)), *map(Supervised, workers)],
        scheduler=[Supervised(Part("scheduler", command("scheduler"), told))],
    )


async def serve_all(
    settings: Settings,
    stop: asyncio.Event,
    say: Say,
    *,
    workers: int | None,
    regions: Sequence[str] | None,
    llms: Sequence[str] = (),
    config: Path | None = None,
) -> None:
    """Scheduler, workers, dispatcher and HTTP service on this machine, until `stop`; says where they are once all
    answer. Raises ValueError and UnknownRegionError for a crew that can't be, CannotStart when a port is taken or a
    part does not come up, NoCertificate when TLS is wanted and there is none.
    """
    crew = Crew.of(workers, regions, settings)
    speak_as(Role.API, settings)
    if settings.scheduler.tls:
        certificate(settings, Role.API, Role.API)  # and with it the CA, which all the others need
    places = reserve(settings, say)
    names = [(Role.WORKER, local_name(index)) for index in range(len(crew.regions))]
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(contextlib.closing(places))
        await stack.enter_async_context(kept_fresh(settings, *names))
        grid = parts(settings, places, crew, llms=llms, config=config)
        async with running(grid) as failed:
            ready = asyncio.create_task(_ready(places, len(crew.regions)))
            if not await _first(stop, ready, failed):
                return
            for part in (*grid.api, *grid.work, *grid.scheduler):
                part.settled = True
            count = len(crew.regions)
            page = page_of(format_dashboard_link(places.dashboard.host, places.dashboard.port))
            say(f"scheduler at {places.address} with {count} worker{'' if count == 1 else 's'}")
            say(f"page      at {page}")
            say(f"API       at {places.url}/v1 (docs at {places.url}/docs)")
            await _first(stop, failed)


@contextlib.asynccontextmanager
async def running(grid: Parts) -> AsyncIterator[asyncio.Future[Any]]:
    """Runs all parts; yields what fails when one of them can't start. Stops them in order: doors, work, scheduler."""
    stages = [(stage, asyncio.Event()) for stage in (grid.api, grid.work, grid.scheduler)]
    runs = [asyncio.create_task(run_all(stage, stop)) for stage, stop in stages]
    failed = asyncio.gather(*runs)
    try:
        yield failed
    finally:
        for (_, stop), run in zip(stages, runs, strict=True):
            stop.set()
            await asyncio.wait([run])
        failed.cancel()
        with contextlib.suppress(asyncio.CancelledError, CannotStart):
            await failed


async def _first(stop: asyncio.Event, *others: asyncio.Future[Any]) -> bool:
    """Wait for `stop` or for the first of the others. False: it was `stop`. Raises what the other one raises."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *others], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for other in others:
        if other in done:
            other.result()
    return stopping not in done


async def _ready(places: Places, workers: int) -> None:
    """Return when everybody answers. Raises CannotStart."""
    try:
        async with asyncio.timeout(READY_WITHIN):
            while await _workers(places.address) < workers:  # noqa: ASYNC110 - in other processes, as is the next
                await asyncio.sleep(LOOK_EVERY)
            while not await _answers(f"{places.url}/healthz"):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_EVERY)
    except TimeoutError:
        raise CannotStart(f"not all parts of the grid answered within {READY_WITHIN:g} s") from None


def _certificate(settings: Settings, index: int) -> dict[str, str]:
    """Environment of worker number `index`: where its certificate lies, made now. Raises NoCertificate."""
    if not settings.scheduler.tls:
        return {}
    return {CERTIFICATE: str(certificate(settings, Role.WORKER, local_name(index)).file)}


async def _workers(address: str) -> int:
    """How many workers take work or could."""
    try:
        async with asyncio.timeout(5), rpc(address, **via(own_security(address))) as scheduler:
            return len((await scheduler.grid_state())["workers"])
    except (OSError, TimeoutError):
        return 0


async def _answers(url: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False
