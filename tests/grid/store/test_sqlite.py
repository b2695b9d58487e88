"""What only SQLite has: a file that many processes write, and one lock for all of them."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from idlegrid.grid.store import NewJob, StoreUnavailable, open_store

PROCESSES, JOBS = 8, 25

WRITE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from idlegrid.grid.store import NewJob, open_store

url, name, jobs = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(url, timeout=60)
print("ready", flush=True)
sys.stdin.readline()

def one(number):
    store.jobs.accept(NewJob(type="noop", client_id=name), idempotency_key=str(number), body_sha256="b")
    for claim in store.jobs.claim(types=["noop"], limit=1, lease=600, holder=name):
        store.jobs.begin(claim.job.id, claim.fence, name, "i", 600)
        store.events.append(claim.job.id, "tokens", {"text": "x"})
        store.jobs.complete(
            claim.job.id, claim.fence, worker_id=name, incarnation="i", result={"by": name}, usage={}, seconds=0
        )

with ThreadPoolExecutor(3) as pool:
    list(pool.map(one, range(jobs)))
"""


@pytest.mark.slow
def test_many_processes_write_at_once(tmp_path: Path):
    """Eight processes with three threads each: nobody is ever told that the database is locked."""
    url = f"sqlite:///{tmp_path / 'grid.db'}"
    with open_store(url) as store:
        store.upgrade()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITE, url, f"p{number}", str(JOBS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]
        try:
            for process in processes:
                assert process.stdout.readline() == "ready\n"
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            errors = [process.communicate(timeout=110)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert [error for error in errors if error] == []
        with store._database.read() as session:
            [counts] = session.all(
                "SELECT (SELECT count(*) FROM jobs) AS jobs, (SELECT count(*) FROM results) AS results,"
                " (SELECT count(*) FROM usage) AS usage, (SELECT count(*) FROM attempts) AS attempts",
                {},
            )
    assert set(counts.values()) == {PROCESSES * JOBS}


def test_a_lock_that_is_held_for_long_is_told_not_waited_for(tmp_path: Path):
    path = tmp_path / "grid.db"
    with open_store(f"sqlite:///{path}", timeout=0.1) as store:
        store.upgrade()
        job = store.jobs.accept(NewJob(type="noop")).job
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.jobs.accept(NewJob(type="noop"))
        assert store.jobs.get(job.id) == job  # reading goes on
        holder.close()
        assert store.jobs.accept(NewJob(type="noop")).created


def test_a_new_file_that_another_process_makes_too_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "grid.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE theirs (x)")
    holder.execute("BEGIN EXCLUSIVE")  # as while it changes its journal
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            holder.execute("ROLLBACK")

    monkeypatch.setattr("idlegrid.grid.store.database.time.sleep", pause)
    with open_store(f"sqlite:///{path}", timeout=1) as store:
        store.upgrade()
        assert store.jobs.accept(NewJob(type="noop")).created
    assert len(pauses) >= 3
    holder.close()


def test_a_file_that_is_no_database_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "grid.db"
    path.write_text("a text, and long enough to be none of SQLite's empty files" * 100)
    monkeypatch.setattr("idlegrid.grid.store.database.time.sleep", lambda _seconds: pytest.fail("it waited"))
    with open_store(f"sqlite:///{path}", timeout=60) as store, pytest.raises(StoreUnavailable, match="not a database"):
        store.jobs.accept(NewJob(type="noop"))


def test_its_habits(tmp_path: Path):
    path = tmp_path / "deep" / "er" / "grid.db"
    with open_store(f"sqlite:///{path}") as store:
        store.upgrade()
        with store._database.write() as session:
            pragmas = {
                name: session.connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_claim_goes_through_the_lanes(tmp_path: Path):
    from idlegrid.grid.store.sqlite import LEASE_ENDED, QUEUED_IN_LANE

    with open_store(f"sqlite:///{tmp_path / 'grid.db'}") as store:
        store.upgrade()
        values = {"type": "noop", "lane": "", "limit": 1}
        with store._database.read() as session:
            for statement, index in ((QUEUED_IN_LANE, "ix_jobs_lane"), (LEASE_ENDED, "ix_jobs_lease")):
                plan = " ".join(row["detail"] for row in session.all(f"EXPLAIN QUERY PLAN {statement}", values))
                assert f"USING INDEX {index}" in plan
                assert "TEMP B-TREE" not in plan
