"""Small real clusters in this process, for the tests of this folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from distributed import Client, Scheduler, Worker

from idlegrid.grid.donors import Donor, Limits
from idlegrid.grid.jobs import Ask
from idlegrid.scheduler_plugins.donor_plugin import DonorPlugin
from idlegrid.scheduler_plugins.scheduler import GridScheduler

EMBED = Ask(type="embedding")
DEADLINE = 20.0
"""Seconds after which a test that waits for an event has failed."""


def donor(id_: str, *, types: Iterable[str] = ("embedding",), region: str = "asia-east", **fields: Any) -> Donor:
    """A donor; names that `Limits` knows go there."""
    limits = {name: fields.pop(name) for name in list(fields) if name in Limits.__slots__}
    return Donor(id=id_, name=id_, supported_types=frozenset(types), region=region, limits=Limits(**limits), **fields)


def annotation(ask: Ask = EMBED, **changes: Any) -> dict[str, Any]:
    """Keyword arguments for `dask.annotate`."""
    return {"grid": replace(ask, **changes).to_annotation()}


class HandClock:
    """A clock that goes with real time and can be put forward."""

    def __init__(self, start: datetime) -> None:
        self._offset = start - datetime.now(start.tzinfo)
        self._zone = start.tzinfo

    def __call__(self) -> datetime:
        return datetime.now(self._zone) + self._offset

    def forward(self, **time: float) -> None:
        self._offset += timedelta(**time)


class Cluster:
    """A scheduler, a client and workers that come and go."""

    def __init__(self, scheduler: Scheduler, client: Client) -> None:
        self.scheduler, self.client = scheduler, client
        self.workers: dict[str, Worker] = {}

    async def join(self, donor: Donor | None, *, name: str | None = None, **options: Any) -> Worker:
        """Start a worker for a donor (None: one without our plugin) and wait until the scheduler gives it work."""
        name = name or (donor.id if donor else "stock")
        plugins = [DonorPlugin(donor)] if donor else []
        options = {"nthreads": 1, "dashboard": False, "plugins": plugins, "name": name, **options}
        worker = self.workers[name] = await Worker(self.scheduler.address, **options)
        await until(lambda: self.scheduler.workers[worker.address] in self.scheduler.running)
        return worker

    def plugin(self, name: str) -> DonorPlugin:
        plugin = DonorPlugin.of(self.workers[name])
        assert plugin is not None
        return plugin

    async def leave(self, name: str) -> None:
        await self.workers.pop(name).close()

    def state(self, future: Any) -> str:
        ts = self.scheduler.tasks.get(future.key)
        return "unknown" if ts is None else ts.state

    def load(self, donor_id: str) -> Any:
        return self.scheduler.grid.roster.get(donor_id).load


async def until(condition: Callable[[], Any], deadline: float = DEADLINE) -> None:
    """Wait for a condition on the scheduler's state, which only changes while its loop runs."""

    async def poll() -> None:
        while not condition():  # noqa: ASYNC110 - Dask's tables tell nobody when they change
            await asyncio.sleep(0.002)

    await asyncio.wait_for(poll(), deadline)


@asynccontextmanager
async def cluster(*donors: Donor | None, cls: Any = GridScheduler, **options: Any) -> AsyncIterator[Cluster]:
    """A cluster in this process with one worker for each donor."""
    async with AsyncExitStack() as stack:
        quiet = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # without one it takes Dask's usual port
        settings: Mapping[str, Any] = {"protocol": "inproc", "port": 0, **quiet, **options}
        scheduler = await stack.enter_async_context(cls(**settings))
        client = await stack.enter_async_context(Client(scheduler.address, asynchronous=True))
        running = Cluster(scheduler, client)
        try:
            for one in donors:
                await running.join(one)
            yield running
        finally:
            await asyncio.gather(*(worker.close() for worker in running.workers.values()))
