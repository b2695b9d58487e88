"""What only PostgreSQL has: plans that go through the right index, and a server that may go away."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest
from postgres import PostgresServer
from store_helpers import plan_of_claim

from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.store import NewJob, Store, StoreUnavailable, open_store

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that a test may kill."""
    with PostgresServer() as server:
        yield server


def until_it_works(action, deadline: float = 60.0):
    """Ask again while the store says that it can't: a client does the same."""
    end = time.monotonic() + deadline
    while True:
        try:
            return action()
        except StoreUnavailable:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_server_that_comes_back_is_used_again(server: PostgresServer, how: signal.Signals):
    with open_store(server.url(), pool_size=4, timeout=5) as store:
        store.upgrade()
        before = [store.jobs.accept(NewJob(type="noop")).job.id for _ in range(5)]
        server.stop(how)
        for call in (lambda: store.jobs.accept(NewJob(type="noop")), lambda: store.jobs.get(before[0]), store.check):
            with pytest.raises(StoreUnavailable):
                call()
        server.start()
        after = until_it_works(lambda: store.jobs.accept(NewJob(type="noop"))).job.id
        assert all(store.jobs.get(id_).status is JobStatus.QUEUED for id_ in [*before, after])


def test_what_was_acknowledged_while_the_server_dies_is_there(server: PostgresServer):
    """Eight threads hand in jobs by idempotency key and ask again until they are told; the server is killed twice."""
    acknowledged: dict[str, str] = {}
    stop = threading.Event()
    with open_store(server.url(), pool_size=8, timeout=5) as store:
        store.upgrade()

        def submit(thread: int) -> None:
            number = 0
            while not stop.is_set():
                key = f"{thread}-{number}"
                job = until_it_works(
                    lambda key=key: store.jobs.accept(NewJob(type="noop"), idempotency_key=key, body_sha256="b")
                ).job
                acknowledged[key] = job.id
                number += 1

        threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            seen = len(acknowledged)
            end = time.monotonic() + 60
            while len(acknowledged) < seen + 100 and time.monotonic() < end:
                time.sleep(0.01)
            server.stop(signal.SIGKILL)
            server.start()
        stop.set()
        for thread in threads:
            thread.join(60)
        with server.connect() as connection:
            kept = dict(connection.execute("SELECT idempotency_key, id FROM jobs").fetchall())
    assert len(acknowledged) > 200
    assert {key: kept.get(key) for key in acknowledged} == acknowledged


def test_a_claim_reads_what_it_takes_and_no_more(postgres_url: str):
    """Its cost does not grow with the queue: counted in rows and pages, at 100 and at 100,000 jobs."""
    with open_store(postgres_url) as store:
        few = _pages_of_a_claim(store, 100)
        many = _pages_of_a_claim(store, 100_000)
    levels = 2  # an index of 100,000 is so much deeper than one of 100
    looks = 16 + 2 + 4  # queue: 2 types x 8 lanes; leases: 2 types; the job itself and what is written of it
    assert many - few <= levels * looks, (few, many)


def _pages_of_a_claim(store: Store, queued: int) -> int:
    fill = """
    INSERT INTO jobs (id, type, status, priority, allow_cross_region, timeout_us, client_id, created_at, due_at,
      not_before, params)
    SELECT lpad(to_hex(n), 32, '0'), 'noop', 'queued', 0, true, 1000000, 'c', n, n, 0, '{}'
    FROM generate_series((SELECT count(*) FROM jobs), :queued - 1) AS n"""
    with store._database.write() as session:
        session.run(fill, {"queued": queued})
    plan = plan_of_claim(store)
    assert "Seq Scan" not in plan
    assert "ix_jobs_lane" in plan
    hits = next(line for line in plan.splitlines() if "shared hit" in line)  # the first line is the sum
    return sum(int(part.split("=")[1]) for part in hits.split() if part.startswith(("hit=", "read=")))
