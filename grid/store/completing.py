"""Commits results: job, result, usage, attempt and event in one transaction, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..jobs import JobRecord, JobStatus
from . import moves, reads
from .database import Database, Row
from .grouping import Grouped
from .hot import Completion, HotMoves
from .rows import record, to_json


class Completer:
    """Completes jobs; calls of several threads share a transaction, but for large results."""

    LARGE = 1 << 20

    def __init__(self, database: Database, hot: HotMoves) -> None:
        self._database = database
        self._hot = hot
        self._grouped = Grouped(self._complete_all)

    def complete(
        self,
        job_id: str,
        fence: int,
        *,
        worker_id: str,
        incarnation: str,
        result: Mapping[str, Any],
        usage: Mapping[str, Any] | None,
        seconds: float,
    ) -> tuple[JobRecord, bool]:
        """See `JobStore.complete`; also whether it was done now, not before."""
        text = to_json(result)
        item = Completion(
            id=job_id,
            fence=fence,
            worker_id=worker_id,
            incarnation=incarnation,
            result=text,
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            units=None if usage is None else to_json(usage),
            seconds=float(seconds),
        )
        row = self._grouped(item) if len(text) < self.LARGE else self._complete_all([item])[0]
        if row is not None:
            return replace(record(row), result=dict(result)), True
        return self._before(item), False

    def _complete_all(self, items: Sequence[Completion]) -> Sequence[Row | None]:
        """The rows of what was completed. The second of two equal ones in a group finds the first one's work."""
        distinct = {(item.id, item.fence, item.worker_id, item.incarnation): item for item in reversed(items)}
        with self._database.single() as session:
            rows = {row["id"]: row for row in self._hot.complete(session, list(distinct.values()))}
        first = {id(item) for item in distinct.values()}
        return [rows.get(item.id) if id(item) in first and _made(rows.get(item.id), item) else None for item in items]

    def _before(self, item: Completion) -> JobRecord:
        """What the same process completed earlier. Raises Stale."""
        found = reads.one(self._database, item.id, with_result=True)
        if found is not None and found[0]["status"] == JobStatus.COMPLETED and _made(found[0], item):
            return record(found[0], result=found[1])
        raise moves.refusal(self._database, item.id, item.fence, item.worker_id, item.incarnation)


def _made(row: Row | None, item: Completion) -> bool:
    """Is the row the work of this attempt?"""
    made_by = (item.fence, item.worker_id, item.incarnation)
    return row is not None and (row["fence"], row["worker_id"], row["incarnation"]) == made_by
