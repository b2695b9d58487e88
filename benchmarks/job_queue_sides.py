"""The two sides of `job_queue.py`: the same clients and workers over our store and over procrastinate.

Each side is two kinds of processes. A client's threads submit no-op jobs one by one, each once the one before is on
disk. A worker takes what waits, does nothing, and records that it is done.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

T = TypeVar("T")
TYPE = "embedding"
PARAMS = {"texts": ["a lease"]}
LEASE = 30.0
MOST_CLIENTS = 16
IDLE = 0.005
"""Seconds between two looks of our worker at an empty queue."""


@dataclass(frozen=True)
class Submitted:
    """What a client's process measured, in s; instants are of the machine's monotonic clock."""

    first: float
    last: float
    each: list[float]


def obey(orders: Any, submit: Callable[[], object]) -> None:
    """Submit as ordered over a pipe: (jobs, threads) → `Submitted`, until None comes."""
    while (order := orders.recv()) is not None:
        orders.send(submit_all(submit, *order))


def submit_all(submit: Callable[[], object], jobs: int, threads: int) -> Submitted:
    """Submit jobs from so many threads; each thread waits for one before it sends the next."""
    spent: list[list[float]] = [[] for _ in range(threads)]
    failed: list[BaseException] = []

    def run(mine: list[float], count: int) -> None:
        try:
            for _ in range(count):
                begun = time.perf_counter()
                submit()
                mine.append(time.perf_counter() - begun)
        except BaseException as error:
            failed.append(error)
            raise

    runners = [
        threading.Thread(target=run, args=(spent[number], len(range(number, jobs, threads))))
        for number in range(threads)
    ]
    first = time.monotonic()
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    if failed:
        raise failed[0]
    return Submitted(first, time.monotonic(), [seconds for mine in spent for seconds in mine])


# -- ours -------------------------------------------------------------------------------------------------------------


def our_client(url: str, orders: Any) -> None:
    """A client's process over the store."""
    from idlegrid.grid.store import NewJob, open_store

    store = open_store(url, pool_size=MOST_CLIENTS)
    new = NewJob(type=TYPE, params=PARAMS, client_id="benchmark")
    obey(orders, lambda: store.jobs.accept(new))
    store.close()


def our_worker(url: str, threads: int, active: Event, stop: Event) -> None:
    """A worker's process: one thread claims for all, as a dispatcher does; each of the others begins and completes."""
    from idlegrid.grid.store import Claim, Stale, open_store

    store = open_store(url, pool_size=threads + 1)
    name, incarnation = f"worker-{os.getpid()}", "first"
    places = threading.Semaphore(2 * threads)
    waiting: list[Claim] = []
    something = threading.Condition()

    def run() -> None:
        while True:
            with something:
                something.wait_for(lambda: waiting or stop.is_set(), timeout=0.5)
                if not waiting:
                    if stop.is_set():
                        return
                    continue
                claim = waiting.pop(0)
            with suppress(Stale):  # its lease ended on the way: whoever has it now does it, and `lost_leases` tells
                do(claim)
            places.release()

    def do(claim: Claim) -> None:
        job, who = claim.job.id, {"worker_id": name, "incarnation": incarnation}
        patiently(lambda: store.jobs.begin(job, claim.fence, lease=LEASE, **who))
        patiently(lambda: store.jobs.complete(job, claim.fence, **who, result={"done": 1}, usage=None, seconds=0.0))

    runners = [threading.Thread(target=run) for _ in range(threads)]
    for runner in runners:
        runner.start()
    while not stop.is_set():
        if not active.wait(0.1):
            continue
        free = _free(places)
        claims: list[Claim] = []
        if free:
            claims = patiently(lambda: store.jobs.claim(types=[TYPE], limit=free, lease=LEASE, holder=name))  # noqa: B023
        for _ in range(free - len(claims)):
            places.release()
        with something:
            waiting.extend(claims)
            something.notify(len(claims))
        if not claims:
            time.sleep(IDLE)
    for runner in runners:
        runner.join()
    store.close()


def patiently(call: Callable[[], T]) -> T:
    """The answer, however often the database can't give one: as every worker of a grid does.

    A thread that ended instead would take its job with it until the lease ends: one such turn took 30 s.
    """
    from idlegrid.grid.store import StoreUnavailable

    while True:
        try:
            return call()
        except StoreUnavailable as error:
            print(f"the worker tries again: {error}", file=sys.stderr, flush=True)
            time.sleep(0.02)


def _free(places: threading.Semaphore) -> int:
    """Take all places that are free; at least one is waited for, a moment."""
    taken = int(places.acquire(timeout=0.1))
    while taken and places.acquire(blocking=False):
        taken += 1
    return taken


# -- procrastinate ----------------------------------------------------------------------------------------------------


def _peer(connector: Any) -> tuple[Any, Any]:
    import procrastinate

    app = procrastinate.App(connector=connector)

    @app.task(name="noop", queue=TYPE)
    async def noop(params: dict[str, Any]) -> None:
        """Nothing."""

    return app, noop


@contextmanager
def _peer_open(conninfo: str, connections: int) -> Any:
    import procrastinate

    app, noop = _peer(procrastinate.SyncPsycopgConnector(conninfo=conninfo, min_size=connections, max_size=connections))
    with app.open():
        yield app, noop


def peer_schema(conninfo: str) -> None:
    """Its tables, in an empty database."""
    with _peer_open(conninfo, 1) as (app, _):
        app.schema_manager.apply_schema()


def peer_client(conninfo: str, orders: Any) -> None:
    """A client's process over procrastinate."""
    with _peer_open(conninfo, MOST_CLIENTS) as (_, noop):
        obey(orders, lambda: noop.defer(params=PARAMS))


def peer_worker(conninfo: str, threads: int, active: Event, stop: Event) -> None:
    """A worker's process: as many jobs at a time as ours has threads, on procrastinate's own event loop.

    It needs no `active`: where nothing is notified it asks every 5 s.
    """
    import procrastinate

    async def run() -> None:
        connector = procrastinate.PsycopgConnector(conninfo=conninfo, min_size=threads + 1, max_size=threads + 1)
        app, _ = _peer(connector)
        async with app.open_async():
            worker = asyncio.create_task(
                app.run_worker_async(queues=[TYPE], concurrency=threads, wait=True, install_signal_handlers=False)
            )
            await asyncio.to_thread(stop.wait)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    asyncio.run(run())
