"""The workers that are known."""

from __future__ import annotations

import builtins
import json

from ..donors import Load
from .database import Database, Row
from .rows import instant, instant_or_none, to_json, us
from .values import WorkerFacts, WorkerRecord

UPSERT = """
INSERT INTO workers (id, name, status, region, country, city, gpu_model, gpu_memory_gb, supported_types,
  registered_at, last_heartbeat)
VALUES (:id, :name, :status, :region, :country, :city, :gpu_model, :gpu_memory_gb, :types, {now}, {now})
ON CONFLICT (id) DO UPDATE SET name = excluded.name, status = excluded.status, region = excluded.region,
  country = excluded.country, city = excluded.city, gpu_model = excluded.gpu_model,
  gpu_memory_gb = excluded.gpu_memory_gb, supported_types = excluded.supported_types,
  last_heartbeat = excluded.last_heartbeat
"""
HEARTBEAT = "UPDATE workers SET status = :status, last_heartbeat = {now} WHERE id = :id"
RECENT = 200
"""Jobs of a worker that its success rate and its latency look back on: what is read is not what there is."""
SELECT = f"""
SELECT workers.*, (SELECT count(*) FROM usage WHERE usage.worker_id = workers.id) AS total_jobs,
  (SELECT avg(held_us) FROM (SELECT held_us FROM usage WHERE usage.worker_id = workers.id
    ORDER BY usage.at DESC LIMIT {RECENT}) AS recent) AS held_us,
  (SELECT avg(good) FROM (SELECT CASE WHEN outcome = 'completed' THEN 1.0 ELSE 0.0 END AS good FROM attempts
    WHERE attempts.worker_id = workers.id AND outcome IN ('completed', 'failed', 'died', 'lost', 'timeout')
    ORDER BY attempts.begun_at DESC LIMIT {RECENT}) AS recent) AS success_rate
FROM workers
"""
ONE = f"{SELECT} WHERE workers.id = :id"
RUNNING = """
SELECT count(*) AS n FROM jobs
WHERE status = 'running' AND lease_until > {now} AND (worker_id = :id OR (worker_id IS NULL AND holder = :holder))
"""
STARTED = """
SELECT count(*) AS n, min(begun_at) AS oldest FROM attempts WHERE worker_id = :id AND begun_at > {now} - :hour_us
"""
HOUR = 3600.0
"""Seconds."""


class WorkerStore:
    """Workers and when they were last heard of. Rows stay when a worker leaves: attempts point to them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert(self, facts: WorkerFacts) -> WorkerRecord:
        """Note what a worker says of itself; it counts as heard of now."""
        values = {name: getattr(facts, name) for name in WorkerFacts.__slots__ if name != "supported_types"}
        with self._database.write() as session:
            session.run(UPSERT, {**values, "types": to_json(sorted(facts.supported_types))})
            row = session.first(ONE, {"id": facts.id})
        assert row is not None
        return worker_record(row)

    def get(self, id: str) -> WorkerRecord | None:  # noqa: A002
        """One worker; None: nobody knows it."""
        with self._database.read() as session:
            row = session.first(ONE, {"id": id})
        return None if row is None else worker_record(row)

    def heartbeat(self, id: str, status: str = "online") -> bool:  # noqa: A002
        """It lives. False when nobody knows it."""
        with self._database.single() as session:
            return session.run(HEARTBEAT, {"id": id, "status": status}) > 0

    def load(self, id: str, *, holder: str, hourly: bool) -> Load:  # noqa: A002
        """What a worker does by the grid's own count: what it began and what `holder` claimed for it, within the lease.

        `hourly`: also count what it began within the hour.
        """
        with self._database.read() as session:
            running = session.all(RUNNING, {"id": id, "holder": holder})[0]["n"]
            if not hourly:
                return Load(running=running)
            [started] = session.all(STARTED, {"id": id, "hour_us": us(HOUR)})
        frees_at = None if started["oldest"] is None else started["oldest"] / 1e6 + HOUR
        return Load(running=running, started_last_hour=started["n"], hourly_slot_frees_at=frees_at)

    def list(self) -> builtins.list[WorkerRecord]:
        """All workers by id."""
        with self._database.read() as session:
            return [worker_record(row) for row in session.all(f"{SELECT} ORDER BY workers.id", {})]


def worker_record(row: Row) -> WorkerRecord:
    """A row of `SELECT`."""
    return WorkerRecord(
        facts=WorkerFacts(
            id=row["id"],
            name=row["name"],
            region=row["region"],
            country=row["country"],
            city=row["city"],
            gpu_model=row["gpu_model"],
            gpu_memory_gb=row["gpu_memory_gb"],
            supported_types=frozenset(json.loads(row["supported_types"])),
            status=row["status"],
        ),
        registered_at=instant(row["registered_at"]),
        last_heartbeat=instant_or_none(row["last_heartbeat"]),
        total_jobs=row["total_jobs"] or 0,
        success_rate=None if row["success_rate"] is None else float(row["success_rate"]),
        avg_latency_ms=float(row["held_us"]) / 1000 if row["held_us"] is not None else None,
        reliability=json.loads(row["reliability"]) if row["reliability"] else None,
        models=frozenset(json.loads(row["models"])) if row["models"] else frozenset(),
        config=row["config"],
    )
