"""R1: light workers, clients and PostgreSQL itself are killed and frozen in a loop: nothing is lost, nothing doubled.

The control runs the same with a worker that asks for no fence: it doubles results within seconds.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from postgres import PostgresServer

from idlegrid.grid.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LOOP = Path(__file__).parent / "kill_loop.py"


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


class Loop:
    """The kill loop as a process."""

    def __init__(self, url, seconds, faults, acked, kind):
        command = [sys.executable, LOOP, url, *map(str, (seconds, faults, acked)), kind]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def told(self):
        """What it did, once the torment is over; its workers live on."""
        line = self.process.stdout.readline()
        assert line, "the loop died"
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def loop(url):
    loops = []

    def start(*words):
        loops.append(Loop(url, *words))
        return loops[-1]

    yield start
    for one in loops:
        one.end()


@contextlib.contextmanager
def crashes(server, every):
    """The database crashes and recovers now and then. Yields the list of the moments."""
    moments, stop = [], threading.Event()

    def crash():
        while not stop.wait(every):
            moments.append(time.monotonic())
            server.stop(signal.SIGQUIT)
            server.start()

    thread = threading.Thread(target=crash)
    thread.start()
    try:
        yield moments
    finally:
        stop.set()
        thread.join()


def test_nothing_is_lost_and_nothing_doubled(server, url, loop, long):
    seconds, least, jobs = (30, 250, 1500) if long else (8, 80, 200)
    running = loop(seconds, least, jobs, "fenced")
    with crashes(server, every=5 if long else 3) as moments:
        did = running.told()
    faults, acked = Counter(did["faults"]) + Counter({"database crashed": len(moments)}), did["acked"]
    with contextlib.closing(open_store(url, pool_size=2, timeout=10.0)) as store:
        deadline, left = time.monotonic() + 90, set(acked)
        while left := {job_id for job_id in left if not store.jobs.get(job_id).status.final}:
            assert time.monotonic() < deadline, f"{len(left)} jobs that were acknowledged don't end"
            time.sleep(0.2)
        running.end()
        ended = Counter(store.jobs.get(job_id).status.value for job_id in acked)
        outcomes = Counter(attempt.outcome for job_id in set(acked) for attempt in store.jobs.attempts(job_id))
    with server.connect() as connection:
        [usage] = connection.execute("SELECT count(*) FROM usage").fetchone()
        [results] = connection.execute("SELECT count(*) FROM results").fetchone()
        [completed] = connection.execute("SELECT count(*) FROM jobs WHERE status = 'completed'").fetchone()
    print(f"\n{faults.total()} faults {dict(faults)}; {len(acked)} acked: {dict(ended)}; attempts {dict(outcomes)}")
    assert len(set(acked)) == len(acked), "two requests got one job"
    assert set(ended) <= {"completed", "failed"}
    assert ended["failed"] <= len(acked) * 0.01, "only what lost its worker ten times may fail"
    assert results == usage == completed
    assert outcomes["lost"] > 0, "the faults hit something"
    assert faults.total() >= least
    assert len(acked) >= jobs


def test_without_fences_results_are_doubled(server, url, loop):
    """The control: the same kills and freezes, workers that don't show their fence."""
    running = loop(3600, 0, 0, "unfenced")
    deadline, doubled = time.monotonic() + 90, 0
    while not doubled:
        assert time.monotonic() < deadline, "the control found no double: the check can't fail"
        assert running.process.poll() is None
        time.sleep(0.5)
        with server.connect() as connection:
            [doubled] = connection.execute(
                "SELECT count(*) FROM (SELECT 1 FROM counted GROUP BY job_id HAVING count(*) > 1) AS twice"
            ).fetchone()
    running.end()
