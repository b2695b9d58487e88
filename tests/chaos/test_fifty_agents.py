"""Fifty donors join, pause, hold, drain, are killed and vanish at random while jobs flow. Nothing is lost, and no job
ran outside of its donor's limits: read from the table of attempts, beside what was done to each donor.

Few of them are whole trees of processes (`fleet_real`), the others everything of an agent but its processes (`fleet`):
fifty trees would need more memory than what the tests run on has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "api" / "donor"))  # a service in this process, for the control

from donor_grid import donor_grid
from fleet import Simulated, each_life_is_another_process, owners_limits
from fleet_check import Begun, Findings, check
from fleet_real import Real
from grid_processes import Client, grid
from machines import Machines

from idlegrid.grid.store import NewJob

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEADLINE = 90.0
DRAIN = 30.0
REGIONS = ("oceania", "asia-east", "europe-west", "america-north")
FACES = {
    "IDLEGRID_API_PORT": "0",
    "IDLEGRID_SCHEDULER_PORT": "0",
    "IDLEGRID_SCHEDULER_DASHBOARD_PORT": "0",
    "IDLEGRID_JOBS_LEASE": "6",
    "IDLEGRID_JOBS_MAX_ATTEMPTS": "20",
    "GPU_HEARTBEAT_INTERVAL": "2",
    "GPU_SERVER_VERIFY_SSL": "false",  # no TLS here, so no certificates to load for each of them
}
BEGUN = """
SELECT worker_id, incarnation, begun_at / 1e6, ended_at / 1e6, outcome FROM attempts WHERE begun_at IS NOT NULL
"""


def limits(rng: random.Random, now: datetime) -> dict[str, Any]:
    """What some owner allows. Windows open or shut in hours, or with the next minute."""
    chosen: dict[str, Any] = {"time_zone": "UTC", "max_concurrent_jobs": rng.choice([1, 1, 2, 3])}
    chosen["acceptance_rate"] = rng.choice([1.0, 1.0, 0.5])
    kind = rng.random()
    minute = (now + timedelta(minutes=1)).strftime("%H:%M")
    if kind < 0.2:
        chosen["max_jobs_per_hour"] = rng.randint(1, 4)
    elif kind < 0.3:
        chosen |= {"working_hours_start": (now.hour + 3) % 24, "working_hours_end": (now.hour + 6) % 24}
    elif kind < 0.4 and minute != "00:00":
        chosen["schedule"] = rng.choice([f"daily 00:00-{minute}", f"daily {minute}-24:00"])
    return chosen


class Torment:
    """Does things to donors, at random, one thing at a time to each. Those that begin absent join late."""

    def __init__(self, rng: random.Random, g: Any, connection: psycopg.Connection[Any], token: Callable[[], str]):
        self.rng, self.g, self._connection, self._token = rng, g, connection, token
        self.did: Counter[str] = Counter()
        self._busy: set[Any] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def simulated(self, donors: list[Simulated], seconds: float, every: float) -> None:
        """At least one of each kind, if there is time."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(self.rng.expovariate(1 / every))
            if free := [donor for donor in donors if donor not in self._busy]:
                donor = self._victim(free)
                self._begin(donor, self._to(donor))
        await self.rest()
        for donor in donors:
            if not donor.id:
                await self._to(donor)

    def _victim(self, free: list[Simulated]) -> Simulated:
        """Sooner one that has not joined, or that works."""
        absent, at_work = [one for one in free if not one.id], [one for one in free if one.running]
        draw = self.rng.random()
        return self.rng.choice((draw < 0.3 and absent) or (draw < 0.8 and at_work) or free)

    async def real(self, donors: list[Real], seconds: float, every: float) -> None:
        """First one of each kind, however late they come up, then whatever comes."""
        ends, first = time.monotonic() + seconds, ["agent killed", "worker killed", "paused", "drained"]
        while time.monotonic() < ends or (first and time.monotonic() < ends + DEADLINE):
            await asyncio.sleep(every)
            idle = [one for one in donors if one not in self._busy]
            there = [one for one in idle if await asyncio.to_thread(one.looks_alive)]
            if not there:
                continue
            donor = self.rng.choice(there)
            what = "resumed" if donor.paused else self.rng.choice(_REAL)
            if first and not donor.paused:
                what = first.pop(0)
            self._begin(donor, self._really(donor, what))
        await self.rest()

    async def rest(self) -> None:
        """Return when all that was begun is done."""
        await asyncio.gather(*self._tasks)
        self._tasks.clear()

    def _begin(self, donor: Any, work: Any) -> None:
        async def one() -> None:
            try:
                await work
            finally:
                self._busy.discard(donor)

        self._busy.add(donor)
        self._tasks.append(asyncio.create_task(one()))

    async def _to(self, donor: Simulated) -> None:
        if not donor.id:
            await donor.join(self.g.url, await asyncio.to_thread(self._token))
            await donor.start()
            self.did["joined late"] += 1
        elif donor.frozen:
            donor.diary.opens(time.time())
            await donor.start()
            self.did["started again"] += 1
        elif donor.paused or donor.held:
            await donor.resume()
            self.did["resumed"] += 1
        else:
            await self._harm(donor, self.rng.random())

    async def _harm(self, donor: Simulated, draw: float) -> None:
        if draw < 0.6:
            handed_back = draw < 0.36  # 60 % of the pauses
            await (donor.pause() if handed_back else donor.hold())
            self.did["paused" if handed_back else "held"] += 1
        elif draw < 0.8:
            await donor.stop()
            self.did["drained"] += 1
        elif self._may_die(donor.id):
            await donor.vanish()
            self.did["vanished"] += 1

    async def _really(self, donor: Real, what: str) -> None:
        while "killed" in what and not self._may_die(donor.id):  # noqa: ASYNC110 - the database knows
            await asyncio.sleep(0.1)
        await asyncio.to_thread(_REALLY[what], donor)
        self.did[f"really {what}"] += 1
        if what in ("agent killed", "drained"):
            await asyncio.sleep(self.rng.uniform(0.2, 1.0))
            await asyncio.to_thread(donor.start)

    def _may_die(self, worker_id: str) -> bool:
        """A job that took three donors with it is over (R7): no chance shall make one so."""
        deaths = "SELECT count(*) FROM jobs WHERE status = 'running' AND worker_id = %s AND deaths >= 2"
        return self._connection.execute(deaths, [worker_id]).fetchone() == (0,)


_REALLY = {
    "agent killed": Real.kill_agent,
    "worker killed": Real.kill_worker,
    "paused": Real.pause,
    "resumed": Real.resume,
    "drained": Real.drain,
}
_REAL = ["agent killed", "worker killed", "paused", "paused", "drained"]


async def jobs(client: Client, rng: random.Random, stop: asyncio.Event, burst: int) -> None:
    """More at once than there are places, again and again until `stop`."""
    while not stop.is_set():
        began = time.monotonic()
        await asyncio.gather(*[client.submit(value=n, seconds=rng.uniform(0.3, 1.5)) for n in range(burst)])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.01, 3.0 - (time.monotonic() - began)))


def begun(connection: psycopg.Connection[Any]) -> list[Begun]:
    return [Begun(row[0], row[1], float(row[2]), row[3] and float(row[3]), row[4]) for row in connection.execute(BEGUN)]


def assert_all_done(connection: psycopg.Connection[Any], acked: list[str]) -> Counter[str]:
    """Each job is completed, once; how all attempts ended."""
    ended = Counter(row[0] for row in connection.execute("SELECT status FROM jobs"))
    assert ended == {"completed": len(acked)}
    once = connection.execute(
        "SELECT (SELECT count(*) FROM results), (SELECT count(*) FROM usage),"
        " (SELECT count(*) FROM attempts WHERE outcome = 'completed'), (SELECT count(DISTINCT id) FROM jobs)"
    ).fetchone()
    assert once == (len(acked),) * 4
    return Counter(row[0] for row in connection.execute("SELECT outcome FROM attempts"))


async def drained(connection: psycopg.Connection[Any]) -> float:
    """How long it takes until no job waits or runs."""
    began = time.monotonic()
    while rows := connection.execute(
        "SELECT j.id, j.status, j.fence, j.holder, j.worker_id, j.excluded, j.deaths, j.losses FROM jobs AS j"
        " WHERE j.status IN ('queued', 'running')"
    ).fetchall():
        assert time.monotonic() - began < DRAIN, rows
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def test_fifty_donors_at_random(site, postgres_url, tmp_path, monkeypatch, long):
    seed = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randint(1, 2**32)
    rng, now = random.Random(seed), datetime.now(UTC)
    print(f"\nCHAOS_SEED={seed}")
    machines = Machines(tmp_path / "machines")
    for name, value in (FACES | {"IDLEGRID_DATABASE_URL": postgres_url, "CUDA_VISIBLE_DEVICES": ""}).items():
        monkeypatch.setenv(name, value)
    machines.environment |= {"GPU_SUPPORTED_TYPES": "trial", "GPU_HEARTBEAT_INTERVAL": "2"}
    each_life_is_another_process(monkeypatch)
    seconds, processes, burst = (60.0, 15, 45) if long else (18.0, 6, 30)
    reals = [Real(machines, f"real-{n}", limits(rng, now), rng.choice(REGIONS)) for n in range(processes)]
    sims = [
        Simulated(f"sim-{n}", tmp_path / f"sim-{n}", limits(rng, now), rng.choice(REGIONS))
        for n in range(50 - processes)
    ]
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        try:
            async with grid(workers=1) as g:
                machines.url = g.url
                for one in reals:
                    one.join(g.url, machines.token())
                late = len(sims) // 4
                for donor in sims[late:]:
                    await donor.join(g.url, machines.token())
                    await donor.start()
                client, torment = Client(g.url), Torment(rng, g, connection, machines.token)
                stop = asyncio.Event()
                flow = asyncio.create_task(jobs(client, rng, stop, burst))
                await asyncio.gather(torment.simulated(sims, seconds, 0.25), torment.real(reals, seconds, 1.5))
                stop.set()
                await flow
                took = await drained(connection)
                await asyncio.gather(*[donor.stop() for donor in sims])
                await asyncio.to_thread(machines.close)  # before what they ask
                outcomes = assert_all_done(connection, client.acked)
                rows = begun(connection)
                await client.close()
        finally:
            machines.close()
            await asyncio.gather(*[donor.close() for donor in sims])
    donors = {one.id: one for one in (*reals, *sims) if one.id}
    allowed = {worker_id: owners_limits(one.limits) for worker_id, one in donors.items()}
    found = check(rows, allowed, {worker_id: one.diary for worker_id, one in donors.items()})
    print(f"{dict(torment.did)}; {len(client.acked)} jobs, drained in {took:.1f} s; attempts {dict(outcomes)}")
    _told(found, allowed, {one.id for one in reals})
    assert found.violations == []
    assert len(donors) == 50
    assert sum(found.begun[one.id] for one in reals) > 0, "the real ones did something"
    assert {"really agent killed", "really worker killed"} <= torment.did.keys()
    assert outcomes.keys() & {"handed_back", "died", "lost"}, "the faults hit something"


def _told(found: Findings, allowed: dict[str, Any], real: set[str]) -> None:
    full = sum(found.most_at_once[one] == each.max_concurrent_jobs for one, each in allowed.items())
    capped = [found.begun[one] for one, each in allowed.items() if 0 < each.max_jobs_per_hour == found.begun[one]]
    by_real = sum(found.begun[one] for one in real)
    print(
        f"{len(allowed)} donors, {sum(count > 0 for count in found.begun.values())} worked, {full} to all their slots, "
        f"{len(capped)} to their hourly cap; {found.begun.total()} attempts, {by_real} of them in real processes"
    )


async def test_without_guard_and_placement_the_check_finds_every_kind(site, tmp_path, monkeypatch):
    """The control: neither the grid nor the guards are told of the owners' limits, and pauses say nothing."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("GPU_SERVER_VERIFY_SSL", "false")
    each_life_is_another_process(monkeypatch)
    hour = datetime.now(UTC).hour
    closed = {"working_hours_start": (hour + 3) % 24, "working_hours_end": (hour + 6) % 24, "time_zone": "UTC"}
    owners = [{}, {"max_jobs_per_hour": 1}, closed, {"max_concurrent_jobs": 3}]
    donors = [
        Simulated(f"sim-{n}", tmp_path / f"sim-{n}", {"max_concurrent_jobs": 1} | limits, "oceania", obeys=False)
        for n, limits in enumerate(owners)
    ]
    with donor_grid(tmp_path) as here:
        try:
            for donor in donors:
                await donor.join(here.url, here.token())
                await donor.start()
            await donors[3].pause()
            allowed = {donor.id: owners_limits(donor.limits) for donor in donors}
            kinds: set[str] = set()
            async with asyncio.timeout(DEADLINE):
                while len(kinds) < 4:
                    accepted = [
                        here.store.jobs.accept(NewJob(type="trial", params={"seconds": 0.5})) for _ in range(20)
                    ]
                    await asyncio.sleep(2.0)
                    ids = [one.job.id for one in accepted]
                    rows = [row for job_id in ids for row in here.store.jobs.attempts(job_id) if row.begun_at]
                    kinds |= check(map(_of, rows), allowed, {donor.id: donor.diary for donor in donors}).kinds.keys()
            await asyncio.gather(*[donor.stop() for donor in donors])
        finally:
            await asyncio.gather(*[donor.close() for donor in donors])
    assert kinds == {"concurrency", "hourly cap", "outside hours", "while shut"}


def _of(row: Any) -> Begun:
    ended = None if row.ended_at is None else row.ended_at.timestamp()
    return Begun(row.worker_id, row.incarnation, row.begun_at.timestamp(), ended, row.outcome)
