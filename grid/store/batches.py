"""Batches: many requests in a file, computed part by part by whoever holds the batch's lease. Every move is fenced."""

from __future__ import annotations

import builtins
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..batch_rules import OPEN, BatchStatus, may_follow
from .database import Database, Row, Session
from .files import NewFile, insert, lock_client
from .rows import instant, to_json, us

_OPEN = ", ".join(f"'{status}'" for status in sorted(OPEN))
INSERT = """
INSERT INTO batches (id, client_id, endpoint, input_file_id, status, created_at, expires_at, instants, total, completed,
                     failed, metadata, fence, lease_until)
VALUES (:id, :client_id, :endpoint, :input_file_id, 'validating', :at, :at + :window, :instants, 0, 0, 0, :metadata,
        0, 0)
RETURNING *
"""


def _held(client: str) -> str:
    """How many of a client's batches are worked on."""
    return f"""(SELECT COUNT(*) FROM batches AS held
                WHERE held.client_id = {client} AND held.status IN ({_OPEN}) AND held.lease_until > {{now}})"""


FREE = f"""
SELECT id FROM batches WHERE status IN ({_OPEN}) AND lease_until <= {{now}}
ORDER BY {_held("batches.client_id")}, lease_until, created_at, id LIMIT 1
"""
"""First those of clients for whom least is worked on; then who had no turn yet, or had it longest ago."""
WAITING = f"""
SELECT 1 FROM batches WHERE status IN ({_OPEN}) AND lease_until <= {{now}} AND client_id <> :client_id
  AND {_held("batches.client_id")} < {_held(":client_id")} LIMIT 1
"""
CLAIM = f"""
UPDATE batches SET fence = fence + 1, holder = :holder, lease_until = {{now}} + :us
WHERE id = :id AND status IN ({_OPEN}) AND lease_until <= {{now}} RETURNING *
"""
HOLD = f"""
UPDATE batches SET lease_until = {{now}} + :us WHERE id = :id AND fence = :fence AND status IN ({_OPEN}) RETURNING *
"""
RELEASE = "UPDATE batches SET lease_until = {now} WHERE id = :id AND fence = :fence"
GET = "SELECT * FROM batches WHERE id = :id AND client_id = :client_id"
HELD = "SELECT * FROM batches WHERE id = :id AND fence = :fence"
PART = """
INSERT INTO batch_parts (batch_id, part, fence, completed, failed) VALUES (:id, :part, :fence, :completed, :failed)
ON CONFLICT (batch_id, part) DO NOTHING
"""
COUNT = "UPDATE batches SET completed = completed + :completed, failed = failed + :failed WHERE id = :id"
COUNT_OPEN = f"SELECT COUNT(*) AS open FROM batches WHERE client_id = :client_id AND status IN ({_OPEN})"
ENDED = f"SELECT id, output_file_id, error_file_id FROM batches WHERE id = :id AND status NOT IN ({_OPEN})"
EXPIRE = f"DELETE FROM batches WHERE status NOT IN ({_OPEN}) AND expires_at < {{now}} - :age"
PURGE = f"""
UPDATE batches SET status = CASE WHEN status IN ({_OPEN}) THEN 'cancelled' ELSE status END, client_id = '',
  input_file_id = '', metadata = NULL, errors = NULL, fence = fence + 1, lease_until = 0
WHERE client_id = :client_id
"""
"""Whoever works on one has lost it. The row is nobody's, and says of what to clear away the files."""
PARTS = "SELECT part, fence, completed, failed FROM batch_parts WHERE batch_id = :id ORDER BY part"
MOVE = """
UPDATE batches SET status = :status, instants = :instants, total = COALESCE(:total, total),
  completed = COALESCE(:completed, completed), failed = COALESCE(:failed, failed),
  errors = COALESCE(:errors, errors), output_file_id = COALESCE(:output, output_file_id),
  error_file_id = COALESCE(:error, error_file_id)
WHERE id = :id RETURNING *
"""


class TooManyBatches(Exception):
    """The client has too many that have not ended."""


class NotCancellable(Exception):
    """The batch has come to its end, or is about to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """A batch as the store keeps it."""

    id: str
    client_id: str
    endpoint: str
    input_file_id: str
    status: BatchStatus
    created_at: datetime
    expires_at: datetime
    """The end of its window."""
    instants: Mapping[BatchStatus, datetime]
    """When it came to each status."""
    total: int
    """Lines. 0: not counted yet."""
    completed: int
    failed: int
    output_file_id: str | None
    error_file_id: str | None
    errors: Sequence[Mapping[str, Any]]
    """Why the input can't be used: `code`, `message`, `param`, `line`."""
    metadata: Mapping[str, str] | None
    fence: int
    holder: str | None


@dataclass(frozen=True, slots=True)
class BatchPart:
    """A part that is computed."""

    part: int
    fence: int
    """Of whoever computed it: names its files."""
    completed: int
    failed: int


class BatchStore:
    """The batches of a grid."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        client_id: str,
        endpoint: str,
        input_file_id: str,
        *,
        window: float,
        metadata: Mapping[str, str] | None = None,
        most_open: int | None = None,
    ) -> BatchRecord:
        """A new one, to be done within `window` seconds. Raises TooManyBatches if so many of the client are open."""
        with self._database.write() as session:
            if most_open is not None:
                lock_client(session, client_id)
                counted = session.first(COUNT_OPEN, {"client_id": client_id})
                if counted is not None and counted["open"] >= most_open:
                    raise TooManyBatches(f"{counted['open']} batches have not ended")
            row = session.first(
                INSERT,
                {
                    "id": f"batch_{uuid.uuid4().hex}",
                    "client_id": client_id,
                    "endpoint": endpoint,
                    "input_file_id": input_file_id,
                    "at": session.now,
                    "window": us(window),
                    "instants": to_json({BatchStatus.VALIDATING.value: session.now}),
                    "metadata": None if metadata is None else to_json(metadata),
                },
            )
        assert row is not None
        return _record(row)

    def get(self, batch_id: str, client_id: str) -> BatchRecord | None:
        """One of a client's batches. None: there is none, or it is another's."""
        with self._database.read() as session:
            row = session.first(GET, {"id": batch_id, "client_id": client_id})
        return None if row is None else _record(row)

    def list(self, client_id: str, *, after: str | None = None, limit: int = 20) -> builtins.list[BatchRecord]:
        """A client's batches, the newest first; `after`: those behind this one."""
        behind = (
            "AND (created_at, id) < (SELECT created_at, id FROM batches WHERE id = :after AND client_id = :client_id)"
            if after
            else ""
        )
        statement = f"""
            SELECT * FROM batches WHERE client_id = :client_id {behind} ORDER BY created_at DESC, id DESC LIMIT :limit
        """
        with self._database.read() as session:
            rows = session.all(statement, {"client_id": client_id, "after": after, "limit": limit})
        return [_record(row) for row in rows]

    def cancel(self, batch_id: str, client_id: str) -> BatchRecord | None:
        """Ask for its end. None: there is none. Raises NotCancellable. One that is being cancelled stays so."""
        with self._database.write() as session:
            row = session.first(_locked(session, GET), {"id": batch_id, "client_id": client_id})
            if row is None:
                return None
            status = BatchStatus(row["status"])
            if status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
                return _record(row)
            if not may_follow(status, BatchStatus.CANCELLING):
                raise NotCancellable(f"the batch is {status}: it can't be cancelled any more")
            return _record(_moved(session, row, BatchStatus.CANCELLING))

    # ---- clearing away

    def ended(self, batch_id: str) -> tuple[str, ...] | None:
        """The files of a batch that has ended. None: it has not, or nobody knows it."""
        with self._database.read() as session:
            row = session.first(ENDED, {"id": batch_id})
        return None if row is None else tuple(row[name] for name in ("output_file_id", "error_file_id") if row[name])

    def expire(self, age: float) -> int:
        """Forget those that have ended, and whose window closed so many seconds ago. How many."""
        with self._database.write() as session:
            return session.run(EXPIRE, {"age": us(age)})

    # ---- whoever works on it

    def claim(self, holder: str, seconds: float) -> BatchRecord | None:
        """Take one that nobody works on, for so long from now on: clients take turns. None: there is none."""
        with self._database.write() as session:
            found = session.first(f"{FREE} FOR UPDATE OF batches SKIP LOCKED" if session.postgres else FREE, {})
            if found is None:
                return None
            row = session.first(CLAIM, {"id": found["id"], "holder": holder, "us": us(seconds)})
        return None if row is None else _record(row)

    def others_wait(self, client_id: str) -> bool:
        """Whether somebody has a batch that nobody works on, and less that is worked on than this client."""
        with self._database.read() as session:
            return session.first(WAITING, {"client_id": client_id}) is not None

    def hold(self, batch_id: str, fence: int, seconds: float) -> BatchRecord | None:
        """Keep it, and see how it is: somebody may want it cancelled. None: it is another's, or has ended."""
        with self._database.single() as session:
            row = session.first(HOLD, {"id": batch_id, "fence": fence, "us": us(seconds)})
        return None if row is None else _record(row)

    def release(self, batch_id: str, fence: int) -> None:
        """Let somebody else go on with it at once."""
        with self._database.single() as session:
            session.run(RELEASE, {"id": batch_id, "fence": fence})

    def add_part(self, batch_id: str, fence: int, part: int, completed: int, failed: int) -> bool:
        """A part is computed, and its files are written. False: another's files count, and these don't."""
        values = {"id": batch_id, "fence": fence, "part": part, "completed": completed, "failed": failed}
        with self._database.write() as session:
            row = session.first(_locked(session, HELD), values)
            if row is None or BatchStatus(row["status"]) not in OPEN or not session.run(PART, values):
                return False
            session.run(COUNT, values)
        return True

    def parts(self, batch_id: str) -> builtins.list[BatchPart]:
        """Those that are computed, in order."""
        with self._database.read() as session:
            rows = session.all(PARTS, {"id": batch_id})
        return [BatchPart(row["part"], row["fence"], row["completed"], row["failed"]) for row in rows]

    def move(
        self,
        batch_id: str,
        fence: int,
        status: BatchStatus,
        *,
        total: int | None = None,
        counts: tuple[int, int] | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
        output: NewFile | None = None,
        error: NewFile | None = None,
    ) -> BatchRecord | None:
        """Bring it to its next status, with the files that belong to it, in one transaction. `counts`: done, failed.

        None: it is another's by now, or may not go there (somebody cancelled it).
        """
        with self._database.write() as session:
            row = session.first(_locked(session, HELD), {"id": batch_id, "fence": fence})
            if row is None or not may_follow(BatchStatus(row["status"]), status):
                return None
            for file in (output, error):
                if file is not None:
                    insert(session, file)
            return _record(
                _moved(
                    session,
                    row,
                    status,
                    total=total,
                    counts=counts,
                    errors=errors,
                    output=None if output is None else output.id,
                    error=None if error is None else error.id,
                )
            )


def purge(session: Session, client_id: str) -> int:
    """End and forget a client's batches, in a transaction that may do more. How many."""
    return session.run(PURGE, {"client_id": client_id})


def _locked(session: Session, statement: str) -> str:
    return f"{statement} FOR UPDATE" if session.postgres else statement


def _moved(
    session: Session,
    row: Row,
    status: BatchStatus,
    *,
    total: int | None = None,
    counts: tuple[int, int] | None = None,
    errors: Sequence[Mapping[str, Any]] = (),
    output: str | None = None,
    error: str | None = None,
) -> Row:
    values = {
        "id": row["id"],
        "status": status.value,
        "instants": to_json({**json.loads(row["instants"]), status.value: session.now}),
        "total": total,
        "completed": None if counts is None else counts[0],
        "failed": None if counts is None else counts[1],
        "errors": json.dumps(list(errors)) if errors else None,
        "output": output,
        "error": error,
    }
    moved = session.first(MOVE, values)
    assert moved is not None
    return moved


def _record(row: Row) -> BatchRecord:
    return BatchRecord(
        id=row["id"],
        client_id=row["client_id"],
        endpoint=row["endpoint"],
        input_file_id=row["input_file_id"],
        status=BatchStatus(row["status"]),
        created_at=instant(row["created_at"]),
        expires_at=instant(row["expires_at"]),
        instants={BatchStatus(status): instant(at) for status, at in json.loads(row["instants"]).items()},
        total=row["total"],
        completed=row["completed"],
        failed=row["failed"],
        output_file_id=row["output_file_id"],
        error_file_id=row["error_file_id"],
        errors=json.loads(row["errors"]) if row["errors"] else (),
        metadata=json.loads(row["metadata"]) if row["metadata"] else None,
        fence=row["fence"],
        holder=row["holder"],
    )
