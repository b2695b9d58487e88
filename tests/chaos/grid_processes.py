"""A whole grid as `idlegrid up` starts it, each part a process that can be killed, and clients that never give up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import httpx

from idlegrid.api.local import Crew
from idlegrid.api.supervision import Supervised
from idlegrid.api.up import Parts, Places, _ready, parts, reserve, running
from idlegrid.grid.config import load_settings
from idlegrid.grid.jobs import JobRecord
from idlegrid.grid.store import Attempt, Store, StoreUnavailable, open_store

T = TypeVar("T")

DEADLINE = 90.0
"""Seconds after which a test that waits for something has failed."""


class Grid:
    """The parts of one grid. Its settings come from the environment, as for every process of it."""

    def __init__(self, grid: Parts, places: Places, store: Store) -> None:
        self.places, self.store = places, store
        self.api, self.scheduler = grid.api[0], grid.scheduler[0]
        self.dispatcher, *self.workers = grid.work
        self.killed: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return self.places.url

    def kill(self, part: Supervised, number: signal.Signals = signal.SIGKILL) -> bool:
        """Whether it was there to be killed."""
        pid = part.pid
        if pid is None:
            return False
        os.kill(pid, number)
        self.killed[part.part.name] += 1
        return True

    def job(self, job_id: str) -> JobRecord:
        found = patiently(lambda: self.store.jobs.get(job_id, with_result=True))
        assert found is not None, "a job that was accepted is gone"
        return found

    def attempts(self, job_id: str) -> list[Attempt]:
        return patiently(lambda: self.store.jobs.attempts(job_id))


def patiently(read: Callable[[], T]) -> T:
    """What the store says, however often the database goes."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return read()
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextlib.asynccontextmanager
async def grid(workers: int = 2) -> AsyncIterator[Grid]:
    settings = load_settings().settings
    places = reserve(settings, print)
    crew = Crew.of(workers, None, settings)
    crew = Crew(crew.regions, crew.gpus, 4_000_000_000)
    store = open_store(settings.database.url, timeout=30.0)
    with contextlib.closing(places), contextlib.closing(store):
        store.upgrade()
        made = parts(settings, places, crew)
        async with running(made) as failed:
            ready = asyncio.create_task(_ready(places, workers))
            await asyncio.wait([ready, failed], return_when=asyncio.FIRST_COMPLETED)
            assert ready.done(), "a part did not start"
            for part in (*made.api, *made.work, *made.scheduler):
                part.settled = True
            yield Grid(made, places, store)


class Client:
    """Hands in jobs until they are acknowledged, by the same key each time, and remembers what was promised."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v1/jobs"
        self._http = httpx.AsyncClient(trust_env=False, timeout=5)
        self.acked: list[str] = []
        self.answers: Counter[int] = Counter()
        self.headers: list[tuple[int, str | None]] = []

    async def submit(self, **params: Any) -> str:
        key = uuid.uuid4().hex
        deadline = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self._http.post(
                    self._url, json={"type": "trial", "params": params}, headers={"Idempotency-Key": key}
                )
                self.answers[answer.status_code] += 1
                if answer.status_code in (200, 201):
                    job_id: str = answer.json()["job_id"]
                    self.acked.append(job_id)
                    return job_id
                self.headers.append((answer.status_code, answer.headers.get("Retry-After")))
                assert answer.status_code in (409, 429, 502, 503, 504), answer.text
            assert time.monotonic() < deadline, "a client was never answered"
            await asyncio.sleep(0.1)

    async def keep_on(self, stop: asyncio.Event, every: float, **params: Any) -> None:
        """A job now and then until `stop`."""
        number = 0
        while not stop.is_set():
            await self.submit(value=number, **params)
            number += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), random.expovariate(1 / every))

    async def close(self) -> None:
        await self._http.aclose()


async def drained(grid: Grid, jobs: list[str], within: float) -> float:
    """Wait until all these jobs have ended. How long that took; fails after `within` seconds."""
    began, left = time.monotonic(), set(jobs)
    while left:
        left = {job_id for job_id in left if not grid.job(job_id).status.final}
        took = time.monotonic() - began
        assert not left or took < within, told(grid, left)
        if left:
            await asyncio.sleep(0.1)
    return time.monotonic() - began


def told(grid: Grid, left: set[str]) -> str:
    """What is known of some jobs that did not end."""
    lines = [f"{len(left)} jobs did not end; killed: {dict(grid.killed)}"]
    for job_id in sorted(left)[:10]:
        job = grid.job(job_id)
        lines.append(f"{job_id} {job.status} fence {job.fence} lease until {job.lease_until} holder {job.holder}")
        lines += [f"    {attempt}" for attempt in grid.attempts(job_id)]
    return "\n".join(lines)


async def until(condition: Any, within: float = DEADLINE) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


class GridThread:
    """The same for tests in plain threads: a grid for a whole module."""

    def __init__(self, workers: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._context = grid(workers)
        self.grid: Grid = self._call(self._context.__aenter__())
        self.http = httpx.Client(base_url=f"{self.grid.url}/api/v1", trust_env=False, timeout=30)

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(240)

    def close(self) -> None:
        self.http.close()
        self._call(self._context.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def submit(self, *, job: dict[str, Any] | None = None, **params: Any) -> str:
        answer = self.http.post("/jobs", json={"type": "trial", "params": params} | (job or {}))
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    def wait(self, condition: Any, within: float = DEADLINE) -> Any:
        """What the condition gives, once it gives something."""
        deadline = time.monotonic() + within
        while not (found := condition()):
            assert time.monotonic() < deadline, "what was waited for never came"
            time.sleep(0.02)
        return found

    def running(self, job_id: str) -> JobRecord:
        """The job, once a worker has begun it."""
        return self.wait(lambda: job if (job := self.grid.job(job_id)).worker_id else None)  # type: ignore[no-any-return]

    def final(self, job_id: str) -> JobRecord:
        return self.wait(lambda: job if (job := self.grid.job(job_id)).status.final else None)  # type: ignore[no-any-return]

    def worker(self, donor_id: str) -> Supervised:
        return next(part for part in self.grid.workers if part.part.name == f"worker {donor_id}")

    def here(self) -> dict[str, dict[str, Any]]:
        """The workers that the scheduler knows, by id; none while it is away."""
        answer = self.http.get("/state").json()
        return {row["id"]: row for row in (answer["scheduler"] or {"workers": []})["workers"]}
