"""Every earlier schema becomes today's with its rows in it, also when several processes try at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.store import NewJob, StoreUnavailable, open_store
from idlegrid.grid.store.database import Database, parsed_url
from idlegrid.grid.store.migrations import runner
from idlegrid.grid.store.schema import metadata

ROWS_OF_0001 = (
    """INSERT INTO jobs (id, type, status, priority, region, allow_cross_region, timeout_us, client_id, idempotency_key,
         body_sha256, created_at, due_at, not_before, fence, params)
       VALUES ('{id}', 'llm', 'queued', 0, 'europe-west', {cross}, 5000000, 'c', '{id}', 'b', 1, 1, 1, 1,
         '{"prompt":"old"}')""",
    "INSERT INTO attempts (job_id, fence, holder, claimed_at) VALUES ('{id}', 1, 'd', 1)",
    "INSERT INTO outbox (job_id, kind, data, at) VALUES ('{id}', 'status', '{\"status\":\"queued\"}', 1)",
)

ROWS_OF_0002 = (
    """INSERT INTO workers (id, name, status, gpu_memory_gb, supported_types, registered_at)
       VALUES ('w', 'n', 'online', 0, '["llm"]', 1)""",
    "INSERT INTO sessions (id, worker_id, incarnation, started_at) VALUES ('s', 'w', 'i', 1)",
)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("empty_postgres_url"))
    return f"sqlite:///{tmp_path / 'grid.db'}"


@pytest.fixture
def database(empty_url: str) -> Iterator[Database]:
    database = Database(parsed_url(empty_url), pool_size=2, timeout=30.0)
    yield database
    database.close()


def test_the_schema_is_what_the_migrations_make(database: Database):
    runner.upgrade(database)
    with database.read() as session:
        context = MigrationContext.configure(session.connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        names = {row["name"] for row in session.all(INDICES[database.postgres], {})}
    assert {index.name for table in metadata.tables.values() for index in table.indexes} <= names


INDICES = {
    True: "SELECT indexname AS name FROM pg_indexes WHERE schemaname = 'public'",
    False: "SELECT name FROM sqlite_master WHERE type = 'index'",
}


@pytest.mark.parametrize("revision", runner.revisions()[:-1])
def test_old_rows_live_on(revision: str, database: Database, empty_url: str):
    runner.upgrade(database, revision)
    assert runner.current(database) == revision
    with database.write() as session:
        for id_, cross in (("a" * 32, "false"), ("b" * 32, "true")):
            for statement in ROWS_OF_0001:
                session.run(statement.replace("{id}", id_).replace("{cross}", cross), {})
        if revision != "0001":  # the program of that revision wrote it itself
            session.run("UPDATE jobs SET bound_to = region WHERE NOT allow_cross_region", {})
    with open_store(empty_url) as store:
        with pytest.raises(StoreUnavailable, match=f"at revision {revision}"):
            store.check()
        store.upgrade()
        store.check()
        assert [job.id for job in store.jobs.peek(types=["llm"], limit=9, region="oceania")] == ["b" * 32]
        claims = store.jobs.claim(types=["llm"], limit=9, lease=30, holder="d", bind=("w", "i"), region="europe-west")
        assert [claim.job.params for claim in claims] == [{"prompt": "old"}] * 2


def test_workers_of_0002_live_on(database: Database, empty_url: str):
    runner.upgrade(database, "0002")
    with database.write() as session:
        for statement in ROWS_OF_0002:
            session.run(statement, {})
    with open_store(empty_url) as store:
        store.upgrade()
        [worker] = store.workers.list()
        assert (worker.facts.id, worker.facts.status, worker.facts.supported_types) == ("w", "online", {"llm"})
        with store._database.read() as session:
            [row] = session.all("SELECT gpu_count, role, commands, blocked_at FROM workers", {})
            assert tuple(row.values()) == (0, "hybrid", "[]", None)
            assert len(session.all("SELECT * FROM sessions", {})) == 1


def test_the_last_revision_upgrades_to_itself(database: Database):
    for _ in range(2):
        runner.upgrade(database)
    assert runner.current(database) == runner.head() == runner.revisions()[-1]


def test_a_database_of_a_newer_version_is_left_alone(database: Database, empty_url: str):
    runner.upgrade(database)
    with database.write() as session:
        session.run("UPDATE alembic_version SET version_num = '9999'", {})
    with open_store(empty_url) as store, pytest.raises(StoreUnavailable, match="newer version"):
        store.upgrade()


def test_an_empty_database_says_what_to_do(database: Database, empty_url: str):
    with open_store(empty_url) as store:
        with pytest.raises(StoreUnavailable, match="upgrade it first"):
            store.check()
        with pytest.raises(StoreUnavailable):
            store.jobs.accept(NewJob(type="noop"))


UPGRADE = """
import sys
from idlegrid.grid.store import NewJob, open_store
store = open_store(sys.argv[1], timeout=60)
print("ready", flush=True)
sys.stdin.readline()
store.upgrade()
store.check()
print(store.jobs.accept(NewJob(type="noop"), idempotency_key="k", body_sha256="b").job.id)
"""


@pytest.mark.slow
def test_processes_that_upgrade_at_once(empty_url: str):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE, empty_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        ids = {process.communicate(timeout=100)[0].strip() for process in processes}
        assert [process.returncode for process in processes] == [0] * 3
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert len(ids) == 1
    with open_store(empty_url) as store:
        assert store.jobs.get(ids.pop()).status is JobStatus.QUEUED
