"""Scores outlive the scheduler that uses them: counted by the store, told over every new link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from distributed import Worker
from service import SECRET, URL
from small_cluster import cluster, donor

from idlegrid.grid.config import Settings
from idlegrid.grid.reliability import NEUTRAL, History
from idlegrid.grid.store import By, NewJob, Store, WorkerFacts
from idlegrid.grid.store.donor_values import Beat
from idlegrid.pipelines.dispatch.dispatcher import Dispatcher, Terms
from idlegrid.pipelines.dispatch.historian import Historian
from idlegrid.pipelines.dispatch.link import linked
from idlegrid.scheduler_plugins.donor_plugin import DonorPlugin

pytestmark = pytest.mark.slow

DEADLINE = 90.0


def past(store: Store, jobs: int = 25) -> None:
    """Jobs that "bad" lost and "good" did."""
    for _ in range(jobs):
        id_ = store.jobs.accept(NewJob(type="trial")).job.id
        for worker in ("bad", "good"):
            [claim] = store.jobs.claim(types=["trial"], limit=1, lease=30, holder="d", only=id_, bind=(worker, "i"))
            who = {"worker_id": worker, "incarnation": "i"}
            if worker == "bad":
                store.jobs.fail(id_, claim.fence, code="worker_died", message="m", retry=True, death=True, **who)
            else:
                store.jobs.complete(id_, claim.fence, result={}, usage=None, seconds=1.0, **who)


class Scheduler:
    """`idlegrid scheduler`, a process of its own; started again at the same address."""

    def __init__(self, folder) -> None:
        self._folder, self._process, self.address, self._port = folder, None, "", 0

    def start(self) -> None:
        environ = os.environ | {
            "IDLEGRID_SCHEDULER_PORT": str(self._port),
            "IDLEGRID_SCHEDULER_DASHBOARD_PORT": "0",
        }
        command = [sys.executable, "-m", "idlegrid.api.cli", "scheduler"]
        with (self._folder / "scheduler.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environ, stdout=subprocess.PIPE, stderr=log, cwd=self._folder, text=True
            )
        while "scheduler at" not in (line := self._process.stdout.readline()):
            assert line, (self._folder / "scheduler.log").read_text()
        self.address = line.split()[-1]
        self._port = int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


@contextlib.asynccontextmanager
async def workers(address: str):
    """The donors "bad" and "good" at a scheduler."""
    joined = [
        await Worker(
            address, name=id_, nthreads=1, dashboard=False, plugins=[DonorPlugin(donor(id_, types=("trial",)))]
        )
        for id_ in ("bad", "good")
    ]
    try:
        yield
    finally:
        for worker in joined:
            with contextlib.suppress(Exception):
                await worker.close(timeout=2)


async def scores(address: str) -> dict[str, float]:
    async with linked(address) as link:
        return {row["id"]: row["score"] for row in (await link.state())["workers"]}


@pytest.mark.parametrize("told", [True, False], ids=["told", "control: never told"])
async def test_scores_survive_a_scheduler_that_is_killed(told, store, tmp_path, monkeypatch):
    past(store)
    if not told:

        async def silent(self, link):
            del self, link

        monkeypatch.setattr(Historian, "look", silent)
    scheduler, stop = Scheduler(tmp_path), asyncio.Event()
    await asyncio.to_thread(scheduler.start)
    terms = Terms(secret=SECRET, api=(URL,), jobs=Settings().jobs)
    dispatcher = Dispatcher(store, scheduler.address, terms, say=lambda _: None)
    running = asyncio.create_task(dispatcher.run(stop))
    try:
        for _ in range(2):
            async with workers(scheduler.address):
                seen = await settled(dispatcher, scheduler.address, told)
                if told:
                    assert seen["bad"] < NEUTRAL - 0.1 < NEUTRAL < seen["good"]
                else:
                    assert seen == {"bad": NEUTRAL, "good": NEUTRAL}
                scheduler.kill()
            await asyncio.to_thread(scheduler.start)
    finally:
        stop.set()
        await asyncio.wait_for(running, DEADLINE)
        scheduler.kill()


async def settled(dispatcher: Dispatcher, address: str, told: bool) -> dict[str, float]:
    """The scores at a scheduler, when its dispatcher has found it and both donors are there."""
    async with asyncio.timeout(DEADLINE):
        ticks = dispatcher.ticks
        while True:
            seen = await scores(address)
            found = dispatcher.ticks > ticks + 20  # a lost scheduler is looked for every few seconds, a found one often
            if len(seen) == 2 and (seen["bad"] < NEUTRAL if told else found):
                return seen
            await asyncio.sleep(0.05)


async def test_what_the_scheduler_saw_itself_counts_beside_what_it_is_told(store):
    past(store)
    store.sessions.count()
    async with cluster(donor("bad"), donor("seen")) as c:
        ledger = c.scheduler.grid.ledger
        for _ in range(10):
            ledger.finished("seen", ("embedding", None), 1.0)
        before = ledger.score("seen", datetime.now(UTC)).total
        async with linked(c.scheduler.address) as link:
            for _ in range(3):  # again and again: nothing is counted twice
                await link.tell(
                    store.sessions.histories() | {"seen": History(jobs_done=5, recent_done=5.0)}, {"llm": 9.0}
                )
        assert ledger.score("seen", datetime.now(UTC)).total > before
        assert ledger.account("seen").past.jobs_done == 15
        assert ledger.usual(("llm", "any")) == 9.0
        seat = c.scheduler.grid.roster.get("bad")
        assert seat.donor.reliability < NEUTRAL - 0.1, "placement uses it at once"


async def test_the_scheduler_hears_who_is_blocked(store):
    store.workers.upsert(WorkerFacts(id="bad", name="bad"))
    async with cluster(donor("bad"), donor("good")) as c, linked(c.scheduler.address) as link:
        historian = Historian(store, heartbeat=30.0, every=0.05)
        await historian.look(link)
        assert {seat.donor.id for seat in c.scheduler.grid.roster} == {"bad", "good"}
        store.block("bad", By("tests"))
        async with asyncio.timeout(DEADLINE):
            while c.scheduler.grid.roster.get("bad") is not None:
                await historian.look(link)
                await asyncio.sleep(0.02)
        await historian.close()
        assert c.scheduler.grid.roster.get("good") is not None


async def test_the_silent_are_ended_once_everybody_had_time_to_speak(store, monkeypatch):
    store.workers.upsert(WorkerFacts(id="w", name="w"))
    store.donors.heartbeat(Beat(worker_id="w", status="online", incarnation="i"))
    with store._database.write() as session:
        session.run("UPDATE workers SET last_heartbeat = last_heartbeat - 3600000000", {})

    def status() -> str:
        return store.workers.list()[0].facts.status

    async with cluster() as c, linked(c.scheduler.address) as link:
        historian = Historian(store, heartbeat=0.1, every=0.05)
        await historian.look(link)
        assert status() == "online", "after a standstill of the grid nobody is blamed"
        async with asyncio.timeout(DEADLINE):
            while status() == "online":
                await historian.look(link)
                await asyncio.sleep(0.02)
        await historian.close()
    store.sessions.count()
    assert store.sessions.histories()["w"].unexpected_ends == 1
