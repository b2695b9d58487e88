"""The other moves of a job: read it under a lock, ask the rule, write what changed. All in one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from .. import job_rules as rules
from ..job_rules import JobState, Stale
from .database import Database, Row, Session
from .hot import IS_RUNNING
from .rows import SAME, changes, plain, state, to_json
from .values import Placement

# Frequent, so it is one statement when all is well; only a refusal looks closer.
RENEW = f"""
UPDATE jobs SET lease_until = {{now}} + :lease_us
WHERE id = :id AND fence = :fence AND {IS_RUNNING}
  AND worker_id IS NOT DISTINCT FROM :worker_id AND incarnation IS NOT DISTINCT FROM :incarnation
RETURNING lease_until, cancel_requested
"""
PROGRESS = "UPDATE jobs SET progress = :data WHERE id = :id"
TELL = "INSERT INTO outbox (job_id, kind, data, at) VALUES (:id, :kind, :data, {now})"
END_ATTEMPT = """
UPDATE attempts SET ended_at = {now}, outcome = :outcome, detail = :detail, worker_id = COALESCE(worker_id, :worker_id)
WHERE job_id = :id AND fence = :fence
"""
TESTIFY = "UPDATE attempts SET verdicts = :verdicts WHERE job_id = :id AND fence = :fence"
WAITED_TOO_LONG = """
SELECT jobs.*, {now} AS now FROM jobs WHERE status = 'queued' AND created_at < {now} - :max_wait
ORDER BY created_at LIMIT :limit
"""
HELD_TOO_LONG = f"""
SELECT jobs.*, {{now}} AS now FROM jobs WHERE status = 'running' AND (
  (deadline < {{now}} AND deadline < lease_until)
  OR (lease_until < {{now}} AND (cancel_requested
    OR (worker_id IS NOT NULL AND losses >= {rules.MAX_LOSSES - 1})
    OR (worker_id IS NULL AND created_at < {{now}} - :max_wait))))
LIMIT :limit
"""
ONE = "SELECT jobs.*, {now} AS now FROM jobs WHERE id = :id"
GIVEN_UP = f"""
SELECT count(*) AS n FROM attempts
WHERE job_id = :id AND worker_id = :worker_id AND outcome IN ('{rules.HANDED_BACK}', '{rules.REFUSED_BY_DONOR}')
"""
HELD_BY = """
SELECT id, fence, incarnation FROM jobs
WHERE status = 'running' AND (worker_id = :id OR (worker_id IS NULL AND holder = :holder))
"""
_CHANGED = ("status", "killed", "excluded", "cancel_requested", *(name for name in SAME if name != "created_at"))
WRITE = f"""
UPDATE jobs SET {", ".join(f"{name} = :{name}" for name in _CHANGED)}
WHERE id = :id AND fence = :old_fence AND status = :old_status RETURNING *
"""


def renew(
    database: Database,
    id: str,  # noqa: A002
    fence: int,
    lease_us: int,
    worker_id: str | None,
    incarnation: str | None,
    progress: str | None,
) -> Row:
    """Prolong a lease; gives `lease_until` and `cancel_requested`. Raises Stale."""
    values = {"id": id, "fence": fence, "worker_id": worker_id, "incarnation": incarnation, "lease_us": lease_us}
    with database.single() if progress is None else database.write() as session:
        row = session.first(RENEW, values)
        if row is not None and progress is not None:
            session.run(PROGRESS, {"id": id, "data": progress})
            session.run(TELL, {"id": id, "kind": "progress", "data": progress})
    if row is None:
        raise refusal(database, id, fence, worker_id, incarnation)
    return row


def testify(database: Database, placements: Sequence[Placement]) -> None:
    """Keep what was said of attempts.

    Their workers begin and complete them at this moment, in groups. So on PostgreSQL no two rows are held at once:
    nobody waits in a circle. Nor for the disk: the next commit that must last takes these with it.
    """
    for together in [[one] for one in placements] if database.postgres else [placements]:
        with database.write() as session:
            if session.postgres:
                session.run("SET LOCAL synchronous_commit TO off", {})
            for one in together:
                session.run(TESTIFY, {"id": one.job_id, "fence": one.fence, "verdicts": to_json(one.verdicts)})


def refusal(database: Database, id: str, fence: int, worker_id: str | None, incarnation: str | None) -> Stale:  # noqa: A002
    """Why a move of this fence and pair was refused."""
    with database.read() as session:
        row = session.first(ONE, {"id": id})
    if row is None:
        return Stale("there is no such job, or it was deleted")
    try:
        rules.renew(state(row), row["now"], fence, lease=0, worker_id=worker_id, incarnation=incarnation)
    except Stale as stale:
        return stale
    return Stale("it changed hands at this moment")


def change(database: Database, id: str, move: Callable[[JobState, int], JobState | None]) -> tuple[Row, bool] | None:  # noqa: A002
    """Apply a rule to a job; gives its row and whether it changed. None: there is no such job. Raises Stale."""
    with database.write() as session:
        row = _locked(session, id)
        if row is None:
            return None
        new = move(state(row), row["now"])
        return _written(session, row, new) if new is not None else (row, False)


def hand_back(
    database: Database,
    id: str,  # noqa: A002
    fence: int,
    *,
    worker_id: str,
    incarnation: str,
    refused: bool,
    rest: int,
    why: str,
) -> Row | None:
    """Apply `job_rules.hand_back`; gives the job's row. None: there is no such job. Raises Stale."""
    with database.write() as session:
        row = _locked(session, id)
        if row is None:
            return None
        before = session.all(GIVEN_UP, {"id": id, "worker_id": worker_id})[0]["n"]
        new = rules.hand_back(
            state(row),
            row["now"],
            fence,
            worker_id=worker_id,
            incarnation=incarnation,
            before=before,
            refused=refused,
            rest=rest,
        )
        return _written(session, row, new, by=worker_id, detail=why)[0]


def held_by(database: Database, worker_id: str) -> list[tuple[str, int, str]]:
    """Jobs that a worker began, or asked for and was given: id, fence and the process that began it ('' for none)."""
    with database.read() as session:
        rows = session.all(HELD_BY, {"id": worker_id, "holder": f"pull:{worker_id}"})
    return [(row["id"], row["fence"], row["incarnation"] or "") for row in rows]


def sweep(database: Database, max_wait: int, limit: int) -> list[str]:
    """End what `job_rules.sweep` ends, at most `limit` jobs; gives their ids."""
    ended: list[str] = []
    with database.write() as session:
        for candidates in (WAITED_TOO_LONG, HELD_TOO_LONG):
            statement = candidates + (" FOR UPDATE SKIP LOCKED" if session.postgres else "")
            for row in session.all(statement, {"max_wait": max_wait, "limit": limit - len(ended)}):
                new = rules.sweep(state(row), row["now"], max_wait=max_wait)
                if new is not None:
                    _written(session, row, new)
                    ended.append(row["id"])
    return ended


def _locked(session: Session, id: str) -> Row | None:  # noqa: A002
    return session.first(ONE + (" FOR UPDATE" if session.postgres else ""), {"id": id})


def _written(
    session: Session, row: Row, new: JobState, *, by: str | None = None, detail: str | None = None
) -> tuple[Row, bool]:
    """Write what a rule changed. `by`, `detail`: whose attempt ended and why, where the job itself doesn't say it."""
    old = state(row)
    if new == old:
        return row, False
    values = {**changes(new), "error": plain(new.error), "id": row["id"]}
    written = session.first(WRITE, {**values, "old_fence": old.fence, "old_status": old.status.value})
    assert written is not None, "the row was read under a lock"
    if new.outcome is not None:
        if detail is None and new.error_code:
            detail = f"{new.error_code}: {new.error}"
        values = {"id": row["id"], "fence": old.fence, "outcome": new.outcome, "detail": plain(detail, 500)}
        session.run(END_ATTEMPT, {**values, "worker_id": old.worker_id or by})
    data: dict[str, Any] = {"status": new.status.value}
    if new.error_code is not None:
        data["error_code"] = new.error_code
    if new.cancel_requested and not new.status.final:
        data["cancel_requested"] = True
    session.run(TELL, {"id": row["id"], "kind": "status", "data": json.dumps(data)})
    return written, True
