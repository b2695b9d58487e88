"""A service over a small grid, and ways to read and to disturb it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from small_cluster import cluster

from idlegrid.actors.llm.request import Event, Finished, Request, Sampling
from idlegrid.pipelines.llm.deployment import Deployment, Phase
from idlegrid.pipelines.llm.reconcile import Patience
from idlegrid.pipelines.llm.service import LlmService

HERE = Path(__file__).parent
DEADLINE = 60.0
"""Seconds after which a test that waits for an event has failed."""
QUICK = Patience(start=5, load=20, silence=2, stall=20, drain=5, cool=0.5, cool_most=2)
MODEL = "chain"


def small_grid(*donors: Any, **options: Any) -> Any:
    """`small_cluster.cluster`, on any free port."""
    return cluster(*donors, dashboard_address="127.0.0.1:0", **options)


def chain(replicas: int = 1, **fields: Any) -> Deployment:
    """The light engine; what `Deployment` does not know goes to its options."""
    known = {name: fields.pop(name) for name in list(fields) if name in Deployment.__slots__}
    return Deployment(
        **{"model": MODEL, "engine": "chain_engine:make", "replicas": replicas, "options": fields, **known}
    )


def a_request(id_: str = "r", n: int = 50, **fields: Any) -> Request:
    return Request(**{"id": id_, "prompt": (1, 2, 3), "sampling": Sampling(max_tokens=n), **fields})


@asynccontextmanager
async def serving(grid: Any, *deployments: Deployment, patience: Patience = QUICK, wait: float = 20.0) -> AsyncIterator:
    """A service whose replicas are all ready."""
    async with LlmService(grid, deployments or [chain()], patience=patience, wait=wait) as service:
        for one in deployments or [chain()]:
            await ready(service, one.replicas, one.model)
        yield service


async def ready(service: LlmService, count: int, model: str = MODEL) -> list:
    """Wait until so many replicas serve: they."""
    supervisor = service._models[model].supervisor
    async with asyncio.timeout(DEADLINE):
        while True:
            there = [one for one in supervisor.replicas() if one.serving is not None]
            views = [one.view(0.0) for one in there]
            if sum(not view.leaving for view in views) >= count:
                return there
            await supervisor.changed.wait(0.5)


def donors(service: LlmService, model: str = MODEL) -> dict[str, Phase]:
    """Donor → the phase of the replica on it."""
    return {view.donor_id: view.phase for view in service._models[model].supervisor.views()}


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


class Reader:
    """Reads one answer, and can be waited for in the middle."""

    def __init__(self, service: LlmService, request: Request, model: str = MODEL) -> None:
        self.events: list[Event] = []
        self.taken_by: list[str] = []
        """The donors that computed it, in turn."""
        self._moved = asyncio.Event()
        self.done = asyncio.create_task(self._read(service, model, request))

    async def _read(self, service: LlmService, model: str, request: Request) -> None:
        async with aclosing(service.generate(model, request, taken_by=self.taken_by.append)) as events:
            async for event in events:
                self.events.append(event)
                self._moved.set()

    @property
    def tokens(self) -> list[int]:
        return [token for event in self.events if not isinstance(event, Finished) for token in event.ids]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)

    @property
    def end(self) -> Finished:
        """The end, of which there must be one, at the end."""
        ends = [event for event in self.events if isinstance(event, Finished)]
        assert ends == self.events[-1:]
        return ends[0]

    async def at_least(self, tokens: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(self.tokens) < tokens:
                self._moved.clear()
                await self._moved.wait()

    async def ended(self) -> Finished:
        await asyncio.wait_for(self.done, DEADLINE)
        return self.end


class WorkerProcess:
    """A worker in a process of its own, with nobody who would restart it."""

    def __init__(self, scheduler: str, donor: str) -> None:
        folders = [str(HERE), str(HERE.parents[1] / "actors" / "serving")]
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker_process.py"), scheduler, donor],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
