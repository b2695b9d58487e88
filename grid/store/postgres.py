"""The hot moves on PostgreSQL: each is one statement, one round trip, one wait for the disk, for many jobs at once."""

from __future__ import annotations

from collections.abc import Sequence

from ..job_rules import GRACE
from .database import POSTGRES_NOW, Row, Session
from .hot import COMPLETED, IS_RUNNING, QUEUED, RECLAIMABLE, RUNNING, Acceptance, Beginning, Completion, Wish

CLOCK = f"clock AS MATERIALIZED (SELECT {POSTGRES_NOW} AS now)"

# The id is a UUID of version 7 (RFC 9562, method 3): milliseconds, then their fraction, then chance.
ACCEPT = f"""
WITH {CLOCK},
input AS (
  SELECT * FROM unnest(:tail::text[], :type::text[], :params::text[], :priority::int[], :step_us::bigint[],
    :region::text[], :allow_cross_region::bool[], :bound_to::text[], :timeout_us::bigint[], :client_id::text[],
    :client_ip::text[], :trace_id::text[], :idempotency_key::text[], :body_sha256::text[])
  AS i(tail, type, params, priority, step_us, region, allow_cross_region, bound_to, timeout_us, client_id,
    client_ip, trace_id, idempotency_key, body_sha256)),
accepted AS (
  INSERT INTO jobs (id, type, status, priority, region, allow_cross_region, bound_to, timeout_us, client_id, client_ip,
    trace_id, idempotency_key, body_sha256, created_at, due_at, not_before, params)
  SELECT lpad(to_hex(now / 1000), 12, '0') || '7' || lpad(to_hex(now % 1000 * 4096 / 1000), 3, '0') || tail,
    type, 'queued', priority, region, allow_cross_region, bound_to, timeout_us, client_id, client_ip,
    trace_id, idempotency_key, body_sha256, now, now - priority * step_us, now, params
  FROM input, clock
  ON CONFLICT (client_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
  RETURNING id, created_at),
told AS (
  INSERT INTO outbox (job_id, kind, data, at) SELECT id, 'status', '{QUEUED}', created_at FROM accepted)
SELECT id, created_at FROM accepted
"""

_BEGUN = f"""worker_id = :worker_id, incarnation = :incarnation, started_at = (SELECT now FROM clock),
    deadline = (SELECT now FROM clock) + jobs.timeout_us + {GRACE}, attempts = jobs.attempts + 1"""
_NOT_BEGUN = "worker_id = NULL, incarnation = NULL, started_at = NULL, deadline = NULL"

# Each lane is read in the queue's order until enough is found that nobody else has locked: what lies behind is free.
_FROM_THE_QUEUE = f"""
  (SELECT c.id, c.due_at, c.fence, c.status, c.worker_id
   FROM unnest(:types::text[]) AS t(type), unnest(:lanes::text[]) AS l(lane), LATERAL (
     SELECT id, due_at, fence, status, worker_id FROM jobs
     WHERE status = 'queued' AND type = t.type AND bound_to = l.lane AND not_before <= (SELECT now FROM clock)
     ORDER BY due_at, id LIMIT :limit FOR UPDATE SKIP LOCKED) AS c)
  UNION ALL
  (SELECT c.id, c.due_at, c.fence, c.status, c.worker_id
   FROM unnest(:types::text[]) AS t(type), LATERAL (
     SELECT id, due_at, fence, status, worker_id FROM jobs
     WHERE {RECLAIMABLE}
       AND type = t.type AND lease_until < (SELECT now FROM clock) AND bound_to = ANY(:lanes::text[])
     ORDER BY due_at, id LIMIT :limit FOR UPDATE SKIP LOCKED) AS c)"""
_THIS_ONE = f"""
  SELECT id, due_at, fence, status, worker_id FROM jobs
  WHERE id = :only AND type = ANY(:types::text[]) AND bound_to = ANY(:lanes::text[])
    AND ((status = 'queued' AND not_before <= (SELECT now FROM clock))
      OR ({RECLAIMABLE} AND lease_until < (SELECT now FROM clock)))
  FOR UPDATE SKIP LOCKED"""


def _claim(source: str, bound: bool) -> str:
    return f"""
WITH {CLOCK},
candidates AS MATERIALIZED ({source}),
picked AS MATERIALIZED (SELECT * FROM candidates ORDER BY due_at, id LIMIT :limit),
claimed AS (
  UPDATE jobs SET status = 'running', fence = jobs.fence + 1, holder = :holder, progress = NULL,
    lease_until = (SELECT now FROM clock) + :lease_us,
    losses = jobs.losses + (picked.status = 'running' AND picked.worker_id IS NOT NULL)::int,
    {_BEGUN if bound else _NOT_BEGUN}
  FROM picked WHERE jobs.id = picked.id
  RETURNING jobs.*),
lost AS (
  UPDATE attempts SET ended_at = (SELECT now FROM clock), outcome = 'lost'
  FROM picked WHERE picked.status = 'running' AND job_id = picked.id AND attempts.fence = picked.fence),
tried AS (
  INSERT INTO attempts (job_id, fence, holder, worker_id, incarnation, claimed_at, begun_at)
  SELECT id, fence, holder, worker_id, incarnation, now, started_at FROM claimed, clock),
told AS (
  INSERT INTO outbox (job_id, kind, data, at) SELECT id, 'status', '{RUNNING}', now FROM claimed, clock)
SELECT * FROM claimed
"""


CLAIMS = {
    (only, bound): _claim(_THIS_ONE if only else _FROM_THE_QUEUE, bound)
    for only in (False, True)
    for bound in (False, True)
}

BEGIN = f"""
WITH {CLOCK},
input AS (
  SELECT * FROM unnest(:id::text[], :fence::bigint[], :worker_id::text[], :incarnation::text[], :lease_us::bigint[])
  AS i(id, fence, worker_id, incarnation, lease_us)),
held AS MATERIALIZED (
  SELECT jobs.id, input.worker_id, input.incarnation, lease_us FROM jobs JOIN input USING (id, fence)
  WHERE {IS_RUNNING} AND (jobs.worker_id IS NULL
    OR (jobs.worker_id = input.worker_id AND jobs.incarnation = input.incarnation))
  ORDER BY jobs.id FOR UPDATE OF jobs),
begun AS (
  UPDATE jobs SET lease_until = (SELECT now FROM clock) + lease_us,
    started_at = COALESCE(started_at, (SELECT now FROM clock)),
    deadline = COALESCE(deadline, (SELECT now FROM clock) + timeout_us + {GRACE}),
    attempts = attempts + (jobs.worker_id IS NULL)::int,
    worker_id = held.worker_id, incarnation = held.incarnation
  FROM held WHERE jobs.id = held.id
  RETURNING jobs.id, fence, jobs.worker_id, jobs.incarnation, started_at, lease_until, cancel_requested),
tried AS (
  UPDATE attempts SET worker_id = begun.worker_id, incarnation = begun.incarnation, begun_at = started_at
  FROM begun WHERE job_id = id AND attempts.fence = begun.fence)
SELECT * FROM begun
"""

# Locked in the order of their ids, so that two groups with a job in common never wait for each other in a circle.
COMPLETE = f"""
WITH {CLOCK},
input AS (
  SELECT * FROM unnest(:id::text[], :fence::bigint[], :worker_id::text[], :incarnation::text[], :result::text[],
    :sha256::text[], :units::text[], :seconds::float8[])
  AS i(id, fence, worker_id, incarnation, result, sha256, units, seconds)),
held AS MATERIALIZED (
  SELECT jobs.id FROM jobs JOIN input USING (id, fence, worker_id, incarnation)
  WHERE {IS_RUNNING} ORDER BY jobs.id FOR UPDATE OF jobs),
completed AS (
  UPDATE jobs SET status = 'completed', completed_at = (SELECT now FROM clock), lease_until = NULL, deadline = NULL,
    error_code = NULL, error = NULL
  FROM held WHERE jobs.id = held.id
  RETURNING jobs.*),
kept AS (
  INSERT INTO results (job_id, fence, sha256, result)
  SELECT id, completed.fence, input.sha256, input.result FROM completed JOIN input USING (id)),
used AS (
  INSERT INTO usage (job_id, client_id, type, worker_id, seconds, held_us, units, at)
  SELECT id, client_id, type, completed.worker_id, seconds, completed_at - started_at, units, completed_at
  FROM completed JOIN input USING (id)),
tried AS (
  UPDATE attempts SET ended_at = completed_at, outcome = 'completed'
  FROM completed WHERE job_id = id AND attempts.fence = completed.fence),
told AS (
  INSERT INTO outbox (job_id, kind, data, at) SELECT id, 'status', '{COMPLETED}', completed_at FROM completed)
SELECT * FROM completed
"""


class PostgresMoves:
    """The hot moves on PostgreSQL."""

    def accept(self, session: Session, new: Sequence[Acceptance]) -> Sequence[Row]:
        columns = (*Acceptance.__slots__, "bound_to")
        return session.all(ACCEPT, {name: [getattr(one, name) for one in new] for name in columns})

    def claim(self, session: Session, wish: Wish) -> Sequence[Row]:
        statement = CLAIMS[wish.only is not None, wish.worker_id is not None]
        return session.all(statement, {name: getattr(wish, name) for name in Wish.__slots__})

    def begin(self, session: Session, begun: Sequence[Beginning]) -> Sequence[Row]:
        return session.all(BEGIN, {name: [getattr(one, name) for one in begun] for name in Beginning.__slots__})

    def complete(self, session: Session, done: Sequence[Completion]) -> Sequence[Row]:
        return session.all(COMPLETE, {name: [getattr(one, name) for one in done] for name in Completion.__slots__})
