"""Light workers and clients, killed and frozen in a loop. Runs as a small process of its own: there forks are quick."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import create_engine, text

from idlegrid.api.parent import VARIABLE as PARENT
from idlegrid.api.parent import tie_to_parent
from idlegrid.grid.store import NewJob, Stale, Store, StoreUnavailable, open_store

LEASE, WORK = 1.0, 0.03
WORKERS, CLIENTS = 6, 2


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
        os.environ[PARENT] = str(os.getpid())
        pid = os.fork()
        if pid == 0:
            try:
                tie_to_parent()
                random.seed(os.getpid())
                body()
            except BaseException as error:  # noqa: BLE001 - a fork must never return into the loop
                os.write(2, f"{name}: {error!r}\n".encode())
            finally:
                os._exit(1)
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


class Acked:
    """What clients noted as acknowledged, in a pipe that must not fill up."""

    def __init__(self, pipe: int) -> None:
        self._pipe, self._parts = pipe, [b""]
        os.set_blocking(pipe, False)

    def ids(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._pipe, 1 << 16):
                self._parts.append(part)
        self._parts = [b"".join(self._parts)]
        return self._parts[0].decode().split()


def torment(herd: Herd, acked: Acked, seconds: float, faults: int, jobs: int) -> None:
    """A fault every 60 ms: kills, and freezes beyond the lease. Until there were enough, or standard input has news."""
    began = time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0]:
        now = time.monotonic()
        if now > began + seconds and sum(herd.faults.values()) >= faults and len(acked.ids()) >= jobs:
            break
        time.sleep(random.expovariate(1 / 0.06))
        herd.thaw(now)
        draw = random.random()
        awake = [name for name in herd.pids if name.startswith("worker") and name not in herd.frozen]
        if draw < 0.7 and awake:
            herd.restart(random.choice(awake), "worker killed")
        elif draw < 0.9 and len(awake) > WORKERS // 2:
            herd.freeze(random.choice(awake), 2 * LEASE)  # and nobody kills it before it wakes, late
        else:
            herd.restart(f"client-{random.randrange(CLIENTS)}", "client killed")
    herd.thaw(float("inf"))


def main() -> None:
    """``URL SECONDS FAULTS ACKED fenced|unfenced``: torments for so long, and until there were so many of each.

    Prints JSON then; the end of standard input ends the workers, which live on until it comes.
    """
    url, body = sys.argv[1], {"fenced": worker, "unfenced": unfenced_worker}[sys.argv[5]]
    herd, (read, write) = Herd(), os.pipe()
    try:
        for number in range(WORKERS):
            herd.start(f"worker-{number}", partial(body, url, f"w{number}"))
        for number in range(CLIENTS):
            herd.start(f"client-{number}", partial(client, url, write))
        acked = Acked(read)
        torment(herd, acked, float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        for number in range(CLIENTS):
            herd.kill(f"client-{number}")
            del herd.pids[f"client-{number}"]
        print(json.dumps({"faults": herd.faults, "acked": acked.ids()}), flush=True)
        sys.stdin.readline()
    finally:
        herd.end()


if __name__ == "__main__":
    main()
