#!/usr/bin/env python3
"""Donors' agents against one process of the HTTP service on a real PostgreSQL (fsync on).

500 simulated agents, registered through real enrolment, speak real HTTP over connections that are kept; every request
is signed. They have no engine. The service, PostgreSQL and the agents (one process, asyncio) share the machine.

- **heartbeats_per_s**: the highest rate, of those tried, at which the 99th percentile of a heartbeat stays under 100 ms
  and all are answered, while all 500 agents have a question for work open. Heartbeats start at given times, whether or
  not those before were answered, and their time counts from then. `heartbeats` has every rate.
- **next_job_ms**: from the submission of a job to its arrival at one of the 500 agents that wait for one, one job at a
  time. Each is then begun and completed.
- **api_cpu**: of the service's process, in cores, with 500 open questions and nothing else to do.
- **agent_cpu_ms_per_s**: CPU time of one real, idle agent (`gpu-worker join … --pull`), its loop and its worker's
  process, each in ms a second.

The last line is one JSON object. It takes about two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import donors_agents as agents
import job_queue_http as over_http
import psutil

from idlegrid.grid.store import open_store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from postgres import PostgresServer  # the tests' own: a real server out of a package

RATES = (50, 100, 200, 300, 400, 500, 600, 800, 1200, 1600)
LIMIT_MS = 100.0
SETTLE = 3.0
LONGEST = 60.0
"""Seconds in which a job must have come to somebody."""
STARTING = 120.0
"""Seconds that a real agent has to start."""
WORKS = "for work in"
"""What its log says once its model is loaded and it asks."""


def percentile(times: list[float], share: float) -> float:
    """In ms."""
    return round(sorted(times)[min(len(times) - 1, int(share * len(times)))] * 1e3, 2)


# -- heartbeats -------------------------------------------------------------------------------------------------------


async def heartbeats(fleet: list[agents.Agent], rate: float, seconds: float) -> dict[str, Any]:
    """So many a second, by the agents in turn."""
    times: list[float] = []
    failed: list[Exception] = []
    begun = time.perf_counter() + 0.1

    async def one(number: int) -> None:
        due = begun + number / rate
        await asyncio.sleep(due - time.perf_counter())
        try:
            await fleet[number % len(fleet)].beat()
        except (OSError, EOFError, agents.Refused) as error:
            failed.append(error)
        times.append(time.perf_counter() - due)

    count = int(rate * seconds)
    await asyncio.gather(*(one(number) for number in range(count)))
    took = time.perf_counter() - begun
    told: dict[str, Any] = {
        "asked_per_s": rate,
        "answered_per_s": round((count - len(failed)) / took, 1),
        "p50_ms": percentile(times, 0.5),
        "p99_ms": percentile(times, 0.99),
        "failed": len(failed),
    }
    return told | ({"first_failure": str(failed[0])[:200]} if failed else {})


def good(row: dict[str, Any]) -> bool:
    return bool(row["p99_ms"] < LIMIT_MS and not row["failed"])


async def highest(fleet: list[agents.Agent], seconds: float) -> tuple[float, list[dict[str, Any]]]:
    """The highest rate that was answered in time, and what was found at each."""
    rows: list[dict[str, Any]] = []
    await heartbeats(fleet, RATES[0], 1)
    for rate in RATES:
        rows.append(await heartbeats(fleet, rate, seconds))
        print(f"heartbeats  {json.dumps(rows[-1])}", file=sys.stderr, flush=True)
        if not good(rows[-1]):
            break
        await asyncio.sleep(0.5)
    return max((row["answered_per_s"] for row in rows if good(row)), default=0.0), rows


# -- jobs -------------------------------------------------------------------------------------------------------------


class Arrivals:
    """When jobs came to agents."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self._waiting: dict[str, asyncio.Event] = {}

    def got(self, job_id: str) -> None:
        self.at[job_id] = time.perf_counter()
        self._event(job_id).set()

    async def wait(self, job_id: str) -> float:
        try:
            await asyncio.wait_for(self._event(job_id).wait(), LONGEST)
        except TimeoutError:
            ended = [repr(task.exception()) for task in self.tasks if task.done()]
            told = f"job {job_id} came to nobody within {LONGEST:g} s; {len(ended)} agents failed: {ended[:3]}"
            raise RuntimeError(told) from None
        return self.at[job_id]

    def _event(self, job_id: str) -> asyncio.Event:
        return self._waiting.setdefault(job_id, asyncio.Event())


@asynccontextmanager
async def working(fleet: list[agents.Agent]) -> AsyncIterator[Arrivals]:
    """All of them wait for jobs, and do those that come."""
    arrivals = Arrivals()
    tasks = arrivals.tasks = [asyncio.create_task(agent.work(arrivals.got)) for agent in fleet]
    try:
        yield arrivals
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def next_jobs(client: agents.Connection, arrivals: Arrivals, jobs: int) -> dict[str, Any]:
    """Submit them one by one, each some time after the one before has arrived."""
    times = []
    for number in range(jobs):
        await asyncio.sleep(0.05 + 0.1 * (number % 7) / 7)  # no beat that the service could fall in with
        sent = time.perf_counter()
        body = {"type": agents.TYPE, "params": {"texts": ["a lease"]}}
        made = await client.document("POST", "/api/v1/jobs", body)
        times.append(await arrivals.wait(made["job_id"]) - sent)
    return {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99), "jobs": jobs}


async def _running(client: agents.Connection) -> int:
    queue = await client.document("GET", "/api/v1/queue/stats")
    return int(queue["by_type"][agents.TYPE]["running"])


async def all_done(client: agents.Connection) -> None:
    """Every job that was handed in ends."""
    while await _running(client):  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.1)


# -- CPU --------------------------------------------------------------------------------------------------------------


def spent(process: psutil.Process) -> float:
    """Seconds of CPU."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def real_agent(url: str, token: str, folder: Path) -> Iterator[psutil.Process]:
    """`gpu-worker join`, once it works."""
    command = [sys.executable, "-m", "idlegrid.api.cli", "worker", "join", url, token, "--pull", "--yes"]
    environment = os.environ | {"XDG_DATA_HOME": str(folder / "data"), "PYTHONUNBUFFERED": "1"}
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--home", str(folder / "home")], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        ends = time.monotonic() + STARTING
        while WORKS not in (folder / "agent.log").read_text():
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"the agent did not start: {(folder / 'agent.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def agent_cpu(url: str, token: str, seconds: float) -> dict[str, float]:
    """Of a real agent that has nothing to do, and of its worker's process; ms a second."""
    with (
        tempfile.TemporaryDirectory(prefix="idlegrid-benchmark-") as folder,
        real_agent(url, token, Path(folder)) as it,
    ):
        time.sleep(SETTLE)
        parts = {"agent": [it], "worker_process": it.children(recursive=True)}
        before = {name: sum(map(spent, those)) for name, those in parts.items()}
        time.sleep(seconds)
        return {
            name: round((sum(map(spent, those)) - before[name]) / seconds * 1e3, 3) for name, those in parts.items()
        }


# -- all of it --------------------------------------------------------------------------------------------------------


async def fleet_figures(url: str, service: psutil.Process, options: argparse.Namespace) -> dict[str, Any]:
    """What the simulated agents find."""
    place = urlsplit(url)
    host, port = place.hostname or "", place.port or 0
    begun = time.monotonic()
    fleet = await agents.joined(options.agents, host, port)
    told: dict[str, Any] = {"agents": len(fleet), "joined_per_s": round(len(fleet) / (time.monotonic() - begun), 1)}
    client = agents.Connection(host, port)
    async with working(fleet) as arrivals:
        await asyncio.sleep(SETTLE)
        before, since = spent(service), time.monotonic()
        await asyncio.sleep(SETTLE)
        told["api_cpu"] = round((spent(service) - before) / (time.monotonic() - since), 3)
        told["next_job_ms"] = await next_jobs(client, arrivals, options.jobs)
        print(f"next-job    {json.dumps(told['next_job_ms'])}  api_cpu {told['api_cpu']}", file=sys.stderr, flush=True)
        told["heartbeats_per_s"], told["heartbeats"] = await highest(fleet, options.seconds)
        await all_done(client)
    for agent in fleet:
        agent.close()
    client.close()
    return told


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as one document."""
    with PostgresServer(durable=True) as server:
        url = server.url("postgres")
        store = open_store(url)
        store.upgrade()
        store.close()
        with over_http.service(url) as served:
            (serving,) = multiprocessing.active_children()
            service = psutil.Process(serving.pid)
            told = asyncio.run(fleet_figures(served, service, options))
            if options.agent_seconds:
                place = urlsplit(served)
                admin = agents.Connection(place.hostname or "", place.port or 0)
                made = asyncio.run(admin.document("POST", "/api/v1/admin/enrolments", {"valid_seconds": 600}))
                told["agent_cpu_ms_per_s"] = agent_cpu(served, made["token"], options.agent_seconds)
        with server.connect() as connection:
            release = connection.info.server_version
    told["conditions"] = {
        "postgresql": f"{release // 10000}.{release % 10000}",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(one, 1) for one in os.getloadavg()],
    }
    return told


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--agents", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of one rate of heartbeats")
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument(
        "--agent-seconds", type=float, default=20.0, help="for how long a real agent is watched; 0: not"
    )
    options = parser.parse_args(argv)
    begun = time.monotonic()
    told = measure(options)
    print(json.dumps({**told, "seconds": round(time.monotonic() - begun, 1)}))


if __name__ == "__main__":
    main()
