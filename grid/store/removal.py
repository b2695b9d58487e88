"""Deletes jobs: a client's, or those that ended long ago. In slices, so that nobody waits long."""

from __future__ import annotations

import json

from . import batches, files
from .database import Database, Session
from .values import Purged

SLICE = 1000

OF_CLIENT = "SELECT id FROM jobs WHERE client_id = :client_id ORDER BY id LIMIT :limit"
ENDED = "SELECT id FROM jobs WHERE completed_at < {now} - :age ORDER BY completed_at LIMIT :limit"
THESE = {True: "SELECT json_array_elements_text(CAST(:ids AS json))", False: "SELECT value FROM json_each(:ids)"}


def purge(database: Database, client_id: str) -> Purged:
    """Delete all that belongs to a client. The content of its files goes with the next look of whoever keeps them."""
    jobs = usage = 0
    with database.write() as session:
        some_batches = batches.purge(session, client_id)
        some_files = session.run(files.PURGE, {"client_id": client_id})
    while True:
        with database.write() as session:
            lock = " FOR UPDATE" if session.postgres else ""
            ids = [row["id"] for row in session.all(OF_CLIENT + lock, {"client_id": client_id, "limit": SLICE})]
            _delete(session, ids)
            if not ids:  # a job that was completed meanwhile left its usage
                usage = session.run("DELETE FROM usage WHERE client_id = :client_id", {"client_id": client_id})
        if not ids:
            return Purged(jobs, usage, some_files, some_batches)
        jobs += len(ids)


def expire(database: Database, age_us: int, limit: int) -> int:
    """Delete up to `limit` jobs that ended at least `age_us` ago. Their usage stays."""
    with database.write() as session:
        lock = " FOR UPDATE SKIP LOCKED" if session.postgres else ""
        ids = [row["id"] for row in session.all(ENDED + lock, {"age": age_us, "limit": limit})]
        _delete(session, ids)
    return len(ids)


def _delete(session: Session, ids: list[str]) -> None:
    these = THESE[session.postgres]
    for table, column in (("outbox", "job_id"), ("jobs", "id")):  # attempts and results go with their job
        session.run(f"DELETE FROM {table} WHERE {column} IN ({these})", {"ids": json.dumps(ids)})
