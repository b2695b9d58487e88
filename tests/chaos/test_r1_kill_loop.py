"""R1: light workers, clients and PostgreSQL itself are killed and frozen in a loop: nothing is lost, nothing doubled.

The control runs the same with a worker that asks for no fence: it doubles results within seconds.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from postgres import PostgresServer
from sqlalchemy import create_engine, text

from idlegrid.grid.store import NewJob, Stale, Store, StoreUnavailable, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
LEASE, WORK = 1.0, 0.03
WORKERS, CLIENTS = 6, 2


@pytest.fixture
def server():
    with PostgresServer() as server:  # without fsync: what is killed here are processes, not the machine
        yield server


@pytest.fixture
def url(server):
    with contextlib.closing(open_store(server.url(), pool_size=1)) as store:
        store.upgrade()
    with server.connect() as connection:
        connection.execute("CREATE TABLE counted (job_id text, by text)")
    return server.url()


def patiently(store: Store, call: Callable[[], Any]) -> Any:
    """The answer, however often the database goes."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            return call()
        time.sleep(0.05)


def client(url: str, acked: int) -> None:
    """Hands in jobs; repeats with the same key until it is told that one was accepted; notes that outside."""
    store = open_store(url, pool_size=1, timeout=2.0)
    while True:
        key = uuid.uuid4().hex
        accepted = patiently(store, lambda key=key: store.jobs.accept(NewJob(type="t"), idempotency_key=key))
        if random.random() < 0.1:  # the answer got lost: ask again
            again = patiently(store, lambda key=key: store.jobs.accept(NewJob(type="t"), idempotency_key=key))
            assert again.job.id == accepted.job.id
        os.write(acked, f"{accepted.job.id}\n".encode())
        time.sleep(random.expovariate(1 / 0.01))


def worker(url: str, name: str) -> None:
    """Claims, begins, works a moment, completes: what the grid's workers do, without the grid."""
    store, incarnation = open_store(url, pool_size=1, timeout=2.0), uuid.uuid4().hex
    while True:
        claims = patiently(
            store, lambda: store.jobs.claim(types=["t"], limit=1, lease=LEASE, holder=name, bind=(name, incarnation))
        )
        for claim in claims:
            time.sleep(random.expovariate(1 / WORK))
            with contextlib.suppress(Stale):
                patiently(
                    store,
                    lambda claim=claim: store.jobs.complete(
                        claim.job.id,
                        claim.fence,
                        worker_id=name,
                        incarnation=incarnation,
                        result={"by": incarnation},
                        usage={"tokens": 1},
                        seconds=0.0,
                    ),
                )
        if not claims:
            time.sleep(0.02)


def unfenced_worker(url: str, name: str) -> None:
    """The control: believes its own lease, as a queue without fences does, and writes down what it did."""
    store, engine = open_store(url, pool_size=1, timeout=2.0), create_engine(url, pool_size=1)
    while True:
        for claim in patiently(store, lambda: store.jobs.claim(types=["t"], limit=1, lease=LEASE, holder=name)):
            time.sleep(random.expovariate(1 / WORK))
            with contextlib.suppress(Exception), engine.begin() as connection:
                connection.execute(text("INSERT INTO counted VALUES (:job, :by)"), {"job": claim.job.id, "by": name})
                connection.execute(text("UPDATE jobs SET status = 'completed' WHERE id = :job"), {"job": claim.job.id})
        time.sleep(0.01)


class Herd:
    """Forked processes that are started again when they are killed."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}
        self.bodies: dict[str, Callable[[], None]] = {}
        self.frozen: dict[str, float] = {}
        self.faults: Counter[str] = Counter()

    def start(self, name: str, body: Callable[[], None]) -> None:
        self.bodies[name] = body
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                random.seed(os.getpid())
                body()
            except BaseException as error:  # noqa: BLE001 - a fork must never return into pytest
                os.write(2, f"{name}: {error!r}\n".encode())
            finally:
                os._exit(code)
        self.pids[name] = pid

    def kill(self, name: str) -> None:
        os.kill(self.pids[name], signal.SIGKILL)
        os.waitpid(self.pids[name], 0)
        self.frozen.pop(name, None)

    def restart(self, name: str, why: str) -> None:
        self.kill(name)
        self.faults[why] += 1
        self.start(name, self.bodies[name])

    def freeze(self, name: str, seconds: float) -> None:
        if name not in self.frozen:
            os.kill(self.pids[name], signal.SIGSTOP)
            self.frozen[name] = time.monotonic() + seconds
            self.faults["worker frozen"] += 1

    def thaw(self, now: float) -> None:
        for name in [name for name, until in self.frozen.items() if until <= now]:
            os.kill(self.pids[name], signal.SIGCONT)
            del self.frozen[name]

    def end(self) -> None:
        for name in list(self.pids):
            self.kill(name)
        self.pids.clear()


def torment(server: PostgresServer, herd: Herd, seconds: float, *, database: bool = True) -> None:
    """A fault every 60 ms: kills, freezes beyond the lease, and meanwhile the database now and then."""
    ends, next_database = time.monotonic() + seconds, time.monotonic() + 4
    crash: threading.Thread | None = None
    while (now := time.monotonic()) < ends:
        time.sleep(random.expovariate(1 / 0.06))
        herd.thaw(now)
        draw = random.random()
        if draw < 0.7:
            herd.restart(f"worker-{random.randrange(WORKERS)}", "worker killed")
        elif draw < 0.9:
            herd.freeze(f"worker-{random.randrange(WORKERS)}", 2 * LEASE)
        else:
            herd.restart(f"client-{random.randrange(CLIENTS)}", "client killed")
        if database and now > next_database:
            crash = threading.Thread(target=crash_and_recover, args=(server,))
            crash.start()
            herd.faults["database crashed"] += 1
            next_database = time.monotonic() + 5
    if crash is not None:
        crash.join()
    herd.thaw(float("inf"))


def crash_and_recover(server: PostgresServer) -> None:
    server.stop(signal.SIGQUIT)
    server.start()


@pytest.fixture
def herd():
    herd = Herd()
    yield herd
    herd.end()


def read_all(pipe: int) -> list[str]:
    os.set_blocking(pipe, False)
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(pipe, 1 << 16):
            parts.append(part)
    return b"".join(parts).decode().split()


def test_nothing_is_lost_and_nothing_doubled(server, url, herd, long):
    read, write = os.pipe()
    for number in range(WORKERS):
        herd.start(f"worker-{number}", lambda number=number: worker(url, f"w{number}"))
    for number in range(CLIENTS):
        herd.start(f"client-{number}", lambda: client(url, write))
    torment(server, herd, 30.0 if long else 12.0)
    for number in range(CLIENTS):
        herd.kill(f"client-{number}")
        del herd.pids[f"client-{number}"]
    acked = read_all(read)
    with contextlib.closing(open_store(url, pool_size=2, timeout=10.0)) as store:
        deadline, left = time.monotonic() + 90, set(acked)
        while left := {job_id for job_id in left if not store.jobs.get(job_id).status.final}:
            assert time.monotonic() < deadline, f"{len(left)} jobs that were acknowledged don't end"
            time.sleep(0.2)
        herd.end()
        ended = Counter(store.jobs.get(job_id).status.value for job_id in acked)
        outcomes = Counter(attempt.outcome for job_id in set(acked) for attempt in store.jobs.attempts(job_id))
    with server.connect() as connection:
        [usage] = connection.execute("SELECT count(*) FROM usage").fetchone()
        [results] = connection.execute("SELECT count(*) FROM results").fetchone()
        [completed] = connection.execute("SELECT count(*) FROM jobs WHERE status = 'completed'").fetchone()
    faults = sum(herd.faults.values())
    print(f"\n{faults} faults {dict(herd.faults)}; {len(acked)} acked: {dict(ended)}; attempts {dict(outcomes)}")
    assert len(set(acked)) == len(acked), "two requests got one job"
    assert set(ended) <= {"completed", "failed"}
    assert ended["failed"] <= len(acked) * 0.01, "only what lost its worker ten times may fail"
    assert results == usage == completed
    assert outcomes["lost"] > 0, "the faults hit something"
    assert faults >= (250 if long else 80)
    assert len(acked) >= (1500 if long else 300)


def test_without_fences_results_are_doubled(server, url, herd):
    """The control: the same kills and freezes, workers that don't show their fence."""
    read, write = os.pipe()
    for number in range(WORKERS):
        herd.start(f"worker-{number}", lambda number=number: unfenced_worker(url, f"w{number}"))
    for number in range(CLIENTS):
        herd.start(f"client-{number}", lambda: client(url, write))
    deadline, doubled = time.monotonic() + 60, 0
    while not doubled:
        assert time.monotonic() < deadline, "the control found no double: the check can't fail"
        torment(server, herd, 2.0, database=False)
        with server.connect() as connection:
            [doubled] = connection.execute(
                "SELECT count(*) FROM (SELECT 1 FROM counted GROUP BY job_id HAVING count(*) > 1) AS twice"
            ).fetchone()
    herd.end()
    assert read_all(read)
