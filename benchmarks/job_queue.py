#!/usr/bin/env python3
"""The queue of durable jobs against procrastinate: no-op jobs from acceptance to completion, on a real PostgreSQL.

Both sides do the same work on the same server (its own data folder, fsync and synchronous_commit on, one Unix socket):
a client's process with 1, 4 or 16 threads submits the jobs one by one, each thread waiting until its job is on disk;
one worker's process with 4 at a time takes them meanwhile. Ours: `accept`, then `claim` of as many as there are places
by one thread as a dispatcher does it, then `begin` and `complete` with a result for each. Theirs: `defer`, then its own
worker (asyncio, LISTEN/NOTIFY) with an empty async task. Ours writes more for each job (an attempt, a result, its
usage, three events, against their job and its events); theirs keeps no result. Each side uses what it has: ours commits
what several threads bring at the same time together, theirs fetches one job a statement. The sides take turns.

- **vs_procrastinate**: jobs a second from the first submission to the last completion, ours ÷ theirs, the median of the
  turns, for the number of clients at which it is the lowest.
- **accepted_per_s**, **completed_per_s**, **submit_p50_ms**, **submit_p99_ms** by clients, for each side; the same of
  ours on SQLite (WAL, synchronous=FULL).
- **http**: the same over the HTTP service, `GridClient.submit` with an idempotency key each, one process that serves.
- **longest_turn_s**: the longest of the turns, by side: a turn that stood still is not hidden by the median.
- **lost_leases**: attempts of ours whose lease ended before they were done; anything but 0 spoils the figures.
- **claim_cost_ratio**: the median time of one claim with 100,000 queued jobs ÷ with 100, in turns on two databases of
  one server; also on SQLite.

The last line is one JSON object. It takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import job_queue_http as over_http
import job_queue_sides as sides
import psycopg

from idlegrid.grid.store import NewJob, Store, open_store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from postgres import PostgresServer  # the tests' own: a real server out of a package

CLIENTS = (1, 4, 16)
WORKER_THREADS = 4
LONGEST = 60.0
"""Seconds that one run may take."""
BUDGET = 75.0
"""Seconds that the comparison takes at most, on a machine so busy that its turns take longer than planned."""
WARM_UP, MOST_JOBS = 100, 4000
SPAWN = multiprocessing.get_context("spawn")
SMALL, LARGE = 100, 100_000


@dataclass(frozen=True)
class Side:
    """One of those that are compared: a client's and a worker's process that wait for orders, and their database."""

    orders: Any
    """The client's end of a pipe, see `job_queue_sides.obey`."""
    active: Event
    """Set while its worker is to look for work."""
    completed: Callable[[], int]
    """How many jobs the database says are done."""


# -- one run ----------------------------------------------------------------------------------------------------------


def once(side: Side, clients: int, jobs: int) -> dict[str, float]:
    """Submit so many jobs and wait until the database says that all are done."""
    before = side.completed()
    side.active.set()
    side.orders.send((jobs, clients))
    if not side.orders.poll(LONGEST):
        raise TimeoutError("the clients did not get their jobs accepted")
    submitted: sides.Submitted = side.orders.recv()
    while side.completed() < before + jobs:
        if time.monotonic() > submitted.last + LONGEST:
            raise TimeoutError(f"{side.completed() - before} of {jobs} jobs were done")
        time.sleep(0.01)
    done = time.monotonic()
    side.active.clear()
    each = sorted(submitted.each)
    return {
        "accepted_per_s": round(jobs / (submitted.last - submitted.first), 1),
        "completed_per_s": round(jobs / (done - submitted.first), 1),
        "turn_s": round(done - submitted.first, 3),
        "submit_p50_ms": round(statistics.median(each) * 1e3, 3),
        "submit_p99_ms": round(each[int(0.99 * len(each))] * 1e3, 3),
    }


@contextmanager
def client_of(client: Callable[..., None], where: str) -> Iterator[Any]:
    """A client's process; its pipe."""
    orders, ordered = SPAWN.Pipe()
    process = SPAWN.Process(target=client, args=(where, ordered))
    process.start()
    try:
        yield orders
    finally:
        orders.send(None)
        _end(process)


@contextmanager
def worker_of(worker: Callable[..., None], where: str) -> Iterator[Event]:
    """A worker's process; what tells it to look for work."""
    active, stop = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=worker, args=(where, WORKER_THREADS, active, stop))
    process.start()
    try:
        yield active
    finally:
        stop.set()
        _end(process)


def _end(process: Any) -> None:
    process.join(10)
    if process.is_alive():
        process.kill()


def in_turns(those: dict[str, Side], clients: int, seconds: float, turns: int, ends: float = inf) -> dict[str, Any]:
    """All sides with so many clients, by turns; each measures about so many seconds a turn. Medians, and the ratios.

    No turn but the first begins after `ends` (monotonic seconds).
    """
    rough = [once(side, clients, WARM_UP)["completed_per_s"] for side in those.values()]
    jobs = int(max(WARM_UP, min(MOST_JOBS, seconds * statistics.mean(rough))))
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in those}
    for turn in range(turns):
        if turn and time.monotonic() > ends:
            break
        for name in sorted(those, reverse=bool(turn % 2)):
            runs[name].append(once(those[name], clients, jobs))
    told: dict[str, Any] = {
        name: {figure: statistics.median(run[figure] for run in runs[name]) for figure in runs[name][0]}
        for name in those
    }
    for name in those:
        told[name]["longest_turn_s"] = max(run["turn_s"] for run in runs[name])
    told["jobs"] = jobs
    if "procrastinate" in those:
        pairs = zip(runs["idlegrid"], runs["procrastinate"], strict=True)
        told["ratios"] = [round(ours["completed_per_s"] / theirs["completed_per_s"], 3) for ours, theirs in pairs]
        told["vs_procrastinate"] = statistics.median(told["ratios"])
    return told


# -- where the jobs lie -----------------------------------------------------------------------------------------------


def database(server: PostgresServer, name: str) -> str:
    """A fresh database; its SQLAlchemy URL."""
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.url(name)


def ours(url: str) -> Store:
    store = open_store(url, pool_size=2)
    store.upgrade()
    return store


def counter(server: PostgresServer, name: str, query: str) -> Callable[[], int]:
    """Asks the database `query`."""
    connection = server.connect(name)
    return lambda: int(connection.execute(query.encode()).fetchone()[0])  # type: ignore[index]


OURS_DONE = "SELECT count(*) FROM jobs WHERE status = 'completed'"
LOST = "SELECT count(*) FROM attempts WHERE outcome = 'lost'"
THEIRS_DONE = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"


def on_postgres(server: PostgresServer, seconds: float, turns: int) -> dict[str, Any]:
    """Ours and theirs by turns, then ours behind HTTP; figures by number of clients."""
    url, counted = database(server, "ours"), counter(server, "ours", OURS_DONE)
    ours(url).close()
    database(server, "theirs")
    conninfo = f"host={server.folder} user=grid dbname=theirs options='-c synchronous_commit=on'"
    sides.peer_schema(conninfo)
    with ExitStack() as stack:
        ours_active = stack.enter_context(worker_of(sides.our_worker, url))
        theirs_active = stack.enter_context(worker_of(sides.peer_worker, conninfo))
        our_orders = stack.enter_context(client_of(sides.our_client, url))
        their_orders = stack.enter_context(client_of(sides.peer_client, conninfo))
        served = stack.enter_context(over_http.service(url))
        http_orders = stack.enter_context(client_of(over_http.http_client, served))
        pair = {
            "idlegrid": Side(our_orders, ours_active, counted),
            "procrastinate": Side(their_orders, theirs_active, counter(server, "theirs", THEIRS_DONE)),
        }
        behind = {"http": Side(http_orders, ours_active, counted)}
        begun, told = time.monotonic(), {}
        for number, clients in enumerate(CLIENTS, 1):
            told[clients] = in_turns(pair, clients, seconds, turns, begun + BUDGET * number / len(CLIENTS))
        return {
            "postgresql": told,
            "http": {clients: in_turns(behind, clients, seconds, 1)["http"] for clients in CLIENTS},
            "lost_leases": counter(server, "ours", LOST)(),
        }


def on_sqlite(folder: Path, seconds: float) -> dict[int, Any]:
    """Ours on the embedded database; figures by number of clients."""
    file = folder / "jobs.db"
    url = f"sqlite:///{file}"
    ours(url).close()
    connection = sqlite3.connect(file, timeout=30, isolation_level=None)
    with worker_of(sides.our_worker, url) as active, client_of(sides.our_client, url) as orders:
        side = Side(orders, active, lambda: int(connection.execute(OURS_DONE).fetchone()[0]))
        return {clients: in_turns({"sqlite": side}, clients, seconds, 1)["sqlite"] for clients in CLIENTS}


# -- what a claim costs -----------------------------------------------------------------------------------------------


def claim_cost(stores: dict[int, Store], claims: int) -> dict[str, Any]:
    """Median times of one claim in µs by the number of queued jobs, in turns, and the median ratio of neighbours."""
    spent: dict[int, list[float]] = {queued: [] for queued in stores}
    for turn in range(claims + 20):
        for queued in sorted(stores, reverse=bool(turn % 2)):
            store = stores[queued]
            begun = time.perf_counter()
            claimed = store.jobs.claim(types=[sides.TYPE], limit=1, lease=600.0, holder="benchmark")
            took = time.perf_counter() - begun
            if len(claimed) != 1:
                raise RuntimeError(f"{len(claimed)} jobs were claimed")
            if turn >= 20:
                spent[queued].append(took)
            store.jobs.accept(NewJob(type=sides.TYPE, params=sides.PARAMS))  # so that as many wait as before
    ratios = [large / small for small, large in zip(spent[SMALL], spent[LARGE], strict=True)]
    medians = {queued: statistics.median(times) for queued, times in spent.items()}
    return {
        **{f"us_{queued}": round(median * 1e6, 1) for queued, median in medians.items()},
        "ratio": round(medians[LARGE] / medians[SMALL], 3),
        "ratio_of_neighbours": round(statistics.median(ratios), 3),
    }


def fill(store: Store, jobs: int, multiply: Callable[[int], None]) -> Store:
    """Queue so many jobs: one is accepted as any is, the others are its copies, a little later each."""
    store.jobs.accept(NewJob(type=sides.TYPE, params=sides.PARAMS))
    multiply(jobs - 1)
    queued = store.jobs.stats().total_queued
    if queued != jobs:
        raise RuntimeError(f"{queued} jobs are queued, not {jobs}")
    return store


def copies(columns: list[str], series: str) -> str:
    """SQL that copies the one job; `series` gives the numbers n."""
    changed = {"id": "id || '-' || n", "due_at": "due_at + n", "idempotency_key": "NULL"}
    listed = ", ".join(columns)
    return f"INSERT INTO jobs ({listed}) SELECT {', '.join(changed.get(c, c) for c in columns)} FROM jobs, {series}"


def job_columns() -> list[str]:
    from idlegrid.grid.store.schema import jobs

    return [column.name for column in jobs.columns]


def postgres_queue(server: PostgresServer, jobs: int) -> Store:
    store = ours(database(server, f"queue_{jobs}"))

    def multiply(more: int) -> None:
        with server.connect(f"queue_{jobs}") as connection:
            connection.execute(copies(job_columns(), f"generate_series(1, {more}) AS n").encode())
            connection.execute(b"VACUUM ANALYZE jobs")

    return fill(store, jobs, multiply)


def sqlite_queue(folder: Path, jobs: int) -> Store:
    file = folder / f"queue_{jobs}.db"
    store = ours(f"sqlite:///{file}")

    def multiply(more: int) -> None:
        with sqlite3.connect(file, timeout=30) as connection:
            series = f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {more}) "
            connection.execute(series + copies(job_columns(), "s"))
        connection.close()

    return fill(store, jobs, multiply)


# -- all of it --------------------------------------------------------------------------------------------------------


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="idlegrid-benchmark-") as folder:
        yield Path(folder)


def measure(seconds: float, turns: int, claims: int) -> dict[str, Any]:
    """Everything, as one document."""
    with PostgresServer(durable=True) as server, scratch() as folder:
        told = on_postgres(server, seconds, turns)
        told["sqlite"] = on_sqlite(folder, seconds)
        told["claim"] = {
            "postgresql": claim_cost({jobs: postgres_queue(server, jobs) for jobs in (SMALL, LARGE)}, claims),
            "sqlite": claim_cost({jobs: sqlite_queue(folder, jobs) for jobs in (SMALL, LARGE)}, claims),
        }
        with server.connect() as connection:
            release = connection.info.server_version
    told["vs_procrastinate"] = min(row["vs_procrastinate"] for row in told["postgresql"].values())
    told["claim_cost_ratio"] = told["claim"]["postgresql"]["ratio"]
    told["conditions"] = {
        "postgresql": f"{release // 10000}.{release % 10000}",
        "procrastinate": version("procrastinate"),
        "psycopg": psycopg.__version__,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "worker_threads": WORKER_THREADS,
        "turns": turns,
    }
    return told


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="length of one turn, about")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--claims", type=int, default=300)
    options = parser.parse_args(argv)
    begun = time.monotonic()
    told = measure(options.seconds, options.turns, options.claims)
    for place in ("postgresql", "sqlite", "http"):
        for clients, row in told[place].items():
            print(f"{place:<10} {clients:>2} clients  {json.dumps(row)}", file=sys.stderr)
    print(json.dumps({**told, "seconds": round(time.monotonic() - begun, 1)}))


if __name__ == "__main__":
    main()
