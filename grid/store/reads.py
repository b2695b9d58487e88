"""What is read of jobs: one, a page, the queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import median
from typing import Any

from .database import Database, Row
from .hot import LANES, RECLAIMABLE
from .schema import jobs as table
from .values import QueueStats, TypeStats

BRIEF = ", ".join(column.name for column in table.columns if column.name != "params")
"""All columns but the parameters, which may be large."""

RESULT = "SELECT result FROM results WHERE job_id = :id"
ATTEMPTS = "SELECT * FROM attempts WHERE job_id = :id ORDER BY fence"
PLACE = "SELECT type, due_at, id FROM jobs WHERE id = :id AND status = 'queued'"
AHEAD = """
SELECT count(*) AS n FROM (SELECT 1 AS one FROM jobs
  WHERE status = 'queued' AND type = :type AND bound_to = :lane AND (due_at, id) < (:due_at, :id) LIMIT :limit) AS ahead
"""
COUNT = """
SELECT type, status, count(*) AS n FROM jobs
WHERE status = '{status}' {where} GROUP BY type, status
"""
OLDEST = "SELECT min(created_at) AS oldest, {now} AS now FROM jobs WHERE status = 'queued'"
OLDEST_IN = OLDEST + " AND bound_to IN ('', :region)"
HELD = "SELECT held_us FROM usage WHERE type = :type ORDER BY at DESC LIMIT 100"
QUEUED = "SELECT count(*) AS n FROM (SELECT 1 AS one FROM jobs WHERE status = 'queued' LIMIT :limit) AS waiting"
WAITING_IN_LANE = """
SELECT * FROM jobs WHERE status = 'queued' AND type = :type AND bound_to = :lane AND not_before <= {now}
ORDER BY due_at, id LIMIT :limit
"""
LEASE_ENDED = f"""
SELECT * FROM jobs WHERE {RECLAIMABLE} AND type = :type AND lease_until < {{now}} ORDER BY due_at, id LIMIT :limit
"""
THIS_ONE = f"""
SELECT * FROM jobs
WHERE id = :only AND ((status = 'queued' AND not_before <= {{now}}) OR ({RECLAIMABLE} AND lease_until < {{now}}))
"""


def one(database: Database, id: str, *, with_result: bool) -> tuple[Row, dict[str, Any] | None] | None:  # noqa: A002
    """The row of a job and, if wanted and there, its result."""
    with database.read() as session:
        row = session.first("SELECT * FROM jobs WHERE id = :id", {"id": id})
        if row is None:
            return None
        kept = session.first(RESULT, {"id": id}) if with_result and row["status"] == "completed" else None
    return row, json.loads(kept["result"]) if kept is not None else None


def attempts(database: Database, id: str) -> list[Row]:  # noqa: A002
    """All attempts of a job, the first one first."""
    with database.read() as session:
        return session.all(ATTEMPTS, {"id": id})


def page(database: Database, wanted: dict[str, str | None], limit: int, cursor: str | None) -> list[Row]:
    """Rows with these values, newest first, after the one with the id `cursor`. Ids grow with time."""
    given = {name: value for name, value in wanted.items() if value is not None}
    conditions = [f"{name} = :{name}" for name in given] + ["id < :cursor"] * (cursor is not None)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"SELECT {BRIEF} FROM jobs {where} ORDER BY id DESC LIMIT :limit"
    with database.read() as session:
        return session.all(statement, {**given, "cursor": cursor, "limit": limit})


def position(database: Database, id: str, limit: int) -> int | None:  # noqa: A002
    """The place of a queued job among its type, counted to `limit`."""
    with database.read() as session:
        row = session.first(PLACE, {"id": id})
        if row is None:
            return None
        ahead = 0
        for lane in LANES:
            if ahead < limit - 1:
                values = {**row, "lane": lane, "limit": limit - 1 - ahead}
                ahead += session.all(AHEAD, values)[0]["n"]
    return ahead + 1


def queued(database: Database, limit: int) -> int:
    """How many jobs wait, counted to `limit`."""
    with database.read() as session:
        return int(session.all(QUEUED, {"limit": limit})[0]["n"])


def stats(database: Database, region: str | None) -> QueueStats:
    """The queue by type; with a region only what may run there."""
    values = {"region": region}
    where = "" if region is None else "AND bound_to IN ('', :region)"
    with database.read() as session:
        counts = {"queued": dict[str, int](), "running": dict[str, int]()}
        for status, by_type in counts.items():
            found = session.all(COUNT.replace("{status}", status).replace("{where}", where), values)
            by_type.update((row["type"], row["n"]) for row in found)
        types = sorted(counts["queued"].keys() | counts["running"].keys())
        held = {type_: session.all(HELD, {"type": type_}) for type_ in types}
        oldest = session.all(OLDEST if region is None else OLDEST_IN, values)[0]
    return QueueStats(
        by_type={
            type_: TypeStats(
                type_,
                counts["queued"].get(type_, 0),
                counts["running"].get(type_, 0),
                median(row["held_us"] for row in held[type_]) / 1_000_000 if held[type_] else None,
            )
            for type_ in types
        },
        total_queued=sum(counts["queued"].values()),
        oldest_queued_seconds=None if oldest["oldest"] is None else (oldest["now"] - oldest["oldest"]) / 1_000_000,
    )


def claimable(
    database: Database, types: Sequence[str], lanes: Sequence[str], limit: int, only: str | None
) -> list[Row]:
    """What could be claimed now, in the queue's order."""
    with database.read() as session:
        if only is not None:
            found = [row for row in session.all(THIS_ONE, {"only": only}) if row["type"] in types]
        else:
            found = []
            for type_ in types:
                for lane in lanes:
                    found += session.all(WAITING_IN_LANE, {"type": type_, "lane": lane, "limit": limit})
                found += session.all(LEASE_ENDED, {"type": type_, "limit": limit})
    allowed = [row for row in found if row["bound_to"] in lanes]
    return sorted(allowed, key=lambda row: (row["due_at"], row["id"]))[:limit]
