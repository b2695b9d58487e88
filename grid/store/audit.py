"""What was done with access to the grid, and by whom: rows that are only ever added."""

from __future__ import annotations

import builtins
import json
from dataclasses import dataclass
from typing import Any

from .database import Database, Row, Session
from .donor_values import AuditEntry
from .rows import instant, plain, to_json

INSERT = """
INSERT INTO audit (at, kind, worker_id, actor, address, detail)
VALUES ({now}, :kind, :worker_id, :actor, :address, :detail)
"""
LIST = "SELECT * FROM audit ORDER BY seq DESC LIMIT :limit"
LIST_OF = "SELECT * FROM audit WHERE worker_id = :worker_id ORDER BY seq DESC LIMIT :limit"


@dataclass(frozen=True, slots=True)
class By:
    """Who does something, for the audit."""

    actor: str
    """A client's or a worker's id, or what else it is known by."""
    address: str | None = None


def note(session: Session, kind: str, worker_id: str | None, by: By, **detail: Any) -> None:
    """Write a row within the transaction of what it tells of."""
    session.run(
        INSERT,
        {
            "kind": kind,
            "worker_id": worker_id,
            "actor": plain(by.actor, 200),
            "address": by.address,
            "detail": to_json(detail),
        },
    )


class AuditStore:
    """The audit of a grid."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, kind: str, worker_id: str | None, by: By, **detail: Any) -> None:
        """Write a row by itself. `detail`: plain JSON values, never a token."""
        with self._database.single() as session:
            note(session, kind, worker_id, by, **detail)

    def list(self, worker_id: str | None = None, limit: int = 100) -> builtins.list[AuditEntry]:
        """The last entries, of one worker or of all, newest first."""
        values: dict[str, Any] = {"limit": limit}
        with self._database.read() as session:
            if worker_id is None:
                return [_entry(row) for row in session.all(LIST, values)]
            return [_entry(row) for row in session.all(LIST_OF, {**values, "worker_id": worker_id})]


def _entry(row: Row) -> AuditEntry:
    return AuditEntry(
        seq=row["seq"],
        at=instant(row["at"]),
        kind=row["kind"],
        worker_id=row["worker_id"],
        actor=row["actor"],
        address=row["address"],
        detail=json.loads(row["detail"]),
    )
