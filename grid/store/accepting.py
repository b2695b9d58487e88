"""Puts jobs on disk, once for each idempotency key, and no more than may wait."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from threading import Lock

from ..jobs import MAX_PRIORITY, MIN_PRIORITY, JobRecord
from ..regions import check_region
from . import reads
from .database import Database, Row
from .errors import IdempotencyConflict, QueueFull
from .grouping import Grouped
from .hot import Acceptance, HotMoves
from .rows import instant, plain, record, to_json, us
from .values import Accepted, NewJob

BY_KEY = "SELECT * FROM jobs WHERE client_id = :client_id AND idempotency_key = :key"


class Acceptor:
    """Accepts jobs; calls of several threads share a transaction."""

    def __init__(self, database: Database, moves: HotMoves, *, priority_step: float) -> None:
        self._database = database
        self._moves = moves
        self._step_us = us(priority_step)
        self._insert = Grouped(self._insert_all)
        self._gauge = QueueGauge(database)

    def accept(
        self, new: NewJob, *, idempotency_key: str | None, body_sha256: str | None, max_queued: int | None
    ) -> Accepted:
        """See `JobStore.accept`."""
        item = self._item(new, idempotency_key, body_sha256)
        if max_queued is not None and self._gauge.full(max_queued):
            known = self.known(new.client_id, idempotency_key, body_sha256) if idempotency_key is not None else None
            if known is None:
                raise QueueFull(f"{max_queued} jobs wait, which is as many as may: try again later")
            return known
        while True:
            row = self._insert(item)
            if row is not None:
                self._gauge.count_one()
                return Accepted(_fresh(new, row), created=True)
            known = self.known(new.client_id, idempotency_key, body_sha256)
            if known is not None:  # else it was deleted in between: now the key is free
                return known

    def _item(self, new: NewJob, idempotency_key: str | None, body_sha256: str | None) -> Acceptance:
        if not MIN_PRIORITY <= new.priority <= MAX_PRIORITY:
            raise ValueError(f"priority {new.priority} is not within {MIN_PRIORITY} … {MAX_PRIORITY}")
        if new.region is not None:
            check_region(new.region)
        return Acceptance(
            tail=uuid.uuid4().hex[16:],
            type=new.type,
            params=to_json(new.params),
            priority=new.priority,
            step_us=self._step_us,
            region=new.region,
            allow_cross_region=new.allow_cross_region,
            timeout_us=us(new.timeout_seconds),
            client_id=new.client_id,
            client_ip=plain(new.client_ip),
            trace_id=plain(new.trace_id),
            idempotency_key=idempotency_key,
            body_sha256=body_sha256,
        )

    def _insert_all(self, items: Sequence[Acceptance]) -> Sequence[Row | None]:
        with self._database.single() as session:
            rows = {row["id"][16:]: row for row in self._moves.accept(session, items)}
        return [rows.get(item.tail) for item in items]

    def known(self, client_id: str | None, key: str | None, body_sha256: str | None) -> Accepted | None:
        """See `JobStore.known`."""
        with self._database.read() as session:
            row = session.first(BY_KEY, {"client_id": client_id, "key": key})
        if row is None:
            return None
        if row["body_sha256"] != body_sha256:
            raise IdempotencyConflict(
                f"idempotency key {key!r} was used for job {row['id']} with another body: take a new key"
            )
        return Accepted(record(row), created=False)


def _fresh(new: NewJob, row: Row) -> JobRecord:
    """The record of a job that was accepted just now, without asking for it again."""
    return JobRecord(
        id=row["id"],
        type=new.type,
        params=new.params,
        priority=new.priority,
        region=new.region,
        allow_cross_region=new.allow_cross_region,
        timeout_seconds=new.timeout_seconds,
        created_at=instant(row["created_at"]),
        not_before=instant(row["created_at"]),
        client_id=new.client_id,
        client_ip=new.client_ip,
        trace_id=new.trace_id,
    )


class QueueGauge:
    """How many jobs wait: counted exactly for a small limit, else so rarely that counting costs a twentieth at most."""

    EXACT = 1000
    SHARE = 20

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = Lock()
        self._counted = 0
        self._accepted_since = 0
        self._good_until = 0.0

    def full(self, limit: int) -> bool:
        """Do `limit` jobs wait? Between counts only what this process accepted is added."""
        if limit <= self.EXACT:
            return reads.queued(self._database, limit) >= limit
        with self._lock:
            started = time.monotonic()
            if started > self._good_until:
                self._counted, self._accepted_since = reads.queued(self._database, limit), 0
                took = time.monotonic() - started
                self._good_until = started + max(1.0, self.SHARE * took)
            return self._counted + self._accepted_since >= limit

    def count_one(self) -> None:
        with self._lock:
            self._accepted_since += 1
