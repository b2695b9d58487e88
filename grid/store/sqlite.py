"""The hot moves on SQLite: short statements inside a write transaction, which no other process can come between."""

from __future__ import annotations

from collections.abc import Sequence

from ..job_rules import GRACE
from .database import Row, Session
from .hot import COMPLETED, IS_RUNNING, QUEUED, RECLAIMABLE, RUNNING, Acceptance, Beginning, Completion, Wish

ACCEPT = """
INSERT INTO jobs (id, type, status, priority, region, allow_cross_region, bound_to, timeout_us, client_id, client_ip,
  trace_id, idempotency_key, body_sha256, created_at, due_at, not_before, params)
VALUES (printf('%012x7%03x%s', {now} / 1000, {now} % 1000 * 4096 / 1000, :tail),
  :type, 'queued', :priority, :region, :allow_cross_region, :bound_to, :timeout_us, :client_id, :client_ip,
  :trace_id, :idempotency_key, :body_sha256, {now}, {now} - :priority * :step_us, {now}, :params)
ON CONFLICT (client_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING id, created_at
"""
TELL = "INSERT INTO outbox (job_id, kind, data, at) VALUES (:id, 'status', :data, {now})"

QUEUED_IN_LANE = """
SELECT id, due_at, fence, status, worker_id FROM jobs
WHERE status = 'queued' AND type = :type AND bound_to = :lane AND not_before <= {now}
ORDER BY due_at, id LIMIT :limit
"""
LEASE_ENDED = f"""
SELECT id, due_at, fence, status, worker_id, bound_to FROM jobs
WHERE {RECLAIMABLE} AND type = :type AND lease_until < {{now}} ORDER BY lease_until
"""
THIS_ONE = f"""
SELECT id, due_at, fence, status, worker_id, type, bound_to FROM jobs
WHERE id = :only AND ((status = 'queued' AND not_before <= {{now}}) OR ({RECLAIMABLE} AND lease_until < {{now}}))
"""
LOSE = "UPDATE attempts SET ended_at = {now}, outcome = 'lost' WHERE job_id = :id AND fence = :fence"
CLAIM = """
UPDATE jobs SET status = 'running', fence = fence + 1, holder = :holder, progress = NULL,
  lease_until = {now} + :lease_us, losses = losses + :lost,
  worker_id = :worker_id, incarnation = :incarnation,
  started_at = CASE WHEN :worker_id IS NULL THEN NULL ELSE {now} END,
  deadline = CASE WHEN :worker_id IS NULL THEN NULL ELSE {now} + timeout_us + :grace END,
  attempts = attempts + (:worker_id IS NOT NULL)
WHERE id = :id RETURNING *
"""
TRY = """
INSERT INTO attempts (job_id, fence, holder, worker_id, incarnation, claimed_at, begun_at)
SELECT id, fence, holder, worker_id, incarnation, {now}, started_at FROM jobs WHERE id = :id
"""

BEGIN = f"""
UPDATE jobs SET lease_until = {{now}} + :lease_us,
  started_at = COALESCE(started_at, {{now}}), deadline = COALESCE(deadline, {{now}} + timeout_us + {GRACE}),
  attempts = attempts + (worker_id IS NULL), worker_id = :worker_id, incarnation = :incarnation
WHERE id = :id AND fence = :fence AND {IS_RUNNING}
  AND (worker_id IS NULL OR (worker_id = :worker_id AND incarnation = :incarnation))
RETURNING id, fence, worker_id, incarnation, started_at, lease_until, cancel_requested
"""
BEGUN = """
UPDATE attempts SET worker_id = :worker_id, incarnation = :incarnation, begun_at = :started_at
WHERE job_id = :id AND fence = :fence
"""

COMPLETE = f"""
UPDATE jobs SET status = 'completed', completed_at = {{now}}, lease_until = NULL, deadline = NULL,
  error_code = NULL, error = NULL
WHERE id = :id AND fence = :fence AND {IS_RUNNING} AND worker_id = :worker_id AND incarnation = :incarnation
RETURNING *
"""
KEEP = (
    "INSERT INTO results (job_id, fence, sha256, result) VALUES (:id, :fence, :sha256, :result)",
    """INSERT INTO usage (job_id, client_id, type, worker_id, seconds, held_us, units, at)
       SELECT id, client_id, type, worker_id, :seconds, completed_at - started_at, :units, completed_at
       FROM jobs WHERE id = :id""",
    "UPDATE attempts SET ended_at = {now}, outcome = 'completed' WHERE job_id = :id AND fence = :fence",
)


class SqliteMoves:
    """The hot moves on SQLite."""

    def accept(self, session: Session, new: Sequence[Acceptance]) -> Sequence[Row]:
        accepted = []
        for one in new:
            values = {name: getattr(one, name) for name in (*Acceptance.__slots__, "bound_to")}
            if (row := session.first(ACCEPT, values)) is not None:
                session.run(TELL, {"id": row["id"], "data": QUEUED})
                accepted.append(row)
        return accepted

    def claim(self, session: Session, wish: Wish) -> Sequence[Row]:
        found = self._this_one(session, wish) if wish.only is not None else self._from_the_queue(session, wish)
        picked = sorted(found, key=lambda row: (row["due_at"], row["id"]))[: wish.limit]
        return [self._take(session, row, wish) for row in picked]

    def _from_the_queue(self, session: Session, wish: Wish) -> list[Row]:
        found: list[Row] = []
        for type_ in wish.types:
            for lane in wish.lanes:
                found += session.all(QUEUED_IN_LANE, {"type": type_, "lane": lane, "limit": wish.limit})
            found += [row for row in session.all(LEASE_ENDED, {"type": type_}) if row["bound_to"] in wish.lanes]
        return found

    def _this_one(self, session: Session, wish: Wish) -> list[Row]:
        row = session.first(THIS_ONE, {"only": wish.only})
        return [row] if row is not None and row["type"] in wish.types and row["bound_to"] in wish.lanes else []

    def _take(self, session: Session, picked: Row, wish: Wish) -> Row:
        if picked["status"] == "running":
            session.run(LOSE, {"id": picked["id"], "fence": picked["fence"]})
        values = {name: getattr(wish, name) for name in ("holder", "lease_us", "worker_id", "incarnation")}
        lost = picked["status"] == "running" and picked["worker_id"] is not None
        row = session.first(CLAIM, {"id": picked["id"], "lost": lost, "grace": GRACE, **values})
        assert row is not None
        session.run(TRY, {"id": picked["id"]})
        session.run(TELL, {"id": picked["id"], "data": RUNNING})
        return row

    def begin(self, session: Session, begun: Sequence[Beginning]) -> Sequence[Row]:
        rows = []
        for one in begun:
            row = session.first(BEGIN, {name: getattr(one, name) for name in Beginning.__slots__})
            if row is not None:
                session.run(BEGUN, row)
                rows.append(row)
        return rows

    def complete(self, session: Session, done: Sequence[Completion]) -> Sequence[Row]:
        completed = []
        for one in done:
            values = {name: getattr(one, name) for name in Completion.__slots__}
            if (row := session.first(COMPLETE, values)) is not None:
                for statement in KEEP:
                    session.run(statement, values)
                session.run(TELL, {"id": one.id, "data": COMPLETED})
                completed.append(row)
        return completed
