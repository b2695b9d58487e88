"""What happened to jobs, in order: the outbox that streams are fed from."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Condition, Thread
from threading import Event as Signal
from typing import Any

from .database import Database
from .errors import StoreUnavailable
from .hot import IS_RUNNING
from .rows import event, to_json
from .values import Event

logger = logging.getLogger(__name__)

POLL = 0.025
"""Seconds between two looks for what other processes wrote, while somebody waits."""

APPEND = """
INSERT INTO outbox (job_id, kind, data, at)
SELECT id, CAST(:kind AS TEXT), CAST(:data AS TEXT), {now}
FROM (SELECT id FROM jobs WHERE id = :id AND {running}{fence}{lock}) AS job RETURNING seq
"""
AFTER = "SELECT * FROM outbox WHERE job_id = :id AND seq > :seq ORDER BY seq LIMIT :limit"
NEWS = "EXISTS (SELECT 1 FROM outbox WHERE outbox.job_id = w.id AND outbox.seq > w.seq)"
POSTGRES_NEWS = f"""
SELECT w.id, w.seq FROM json_to_recordset(CAST(:waited AS json)) AS w(id text, seq bigint) WHERE {NEWS}
"""
SQLITE_NEWS = f"""
WITH w(id, seq) AS (SELECT json_extract(value, '$.id'), json_extract(value, '$.seq') FROM json_each(:waited))
SELECT id, seq FROM w WHERE {NEWS}
"""


class EventStore:
    """Events of jobs. Changes of status are written by `JobStore`, in the same transaction as the change."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watcher = Watcher(database)

    def append(self, job_id: str, kind: str, data: Mapping[str, Any], *, fence: int | None = None) -> int | None:
        """Add ``progress`` or ``tokens`` to a running job. Its number.

        None when the job doesn't run, or not under this `fence`.
        """
        lock = " FOR UPDATE" if self._database.postgres else ""  # so that it stands before the end, if it stands at all
        same = " AND fence = :fence" if fence is not None else ""
        statement = APPEND.replace("{running}", IS_RUNNING).replace("{fence}", same).replace("{lock}", lock)
        with self._database.single() as session:
            row = session.first(statement, {"id": job_id, "kind": kind, "data": to_json(data), "fence": fence})
        if row is None:
            return None
        self.told(job_id)
        return int(row["seq"])

    def after(self, job_id: str, seq: int, limit: int = 500) -> list[Event]:
        """The job's events after number `seq`, in order."""
        with self._database.read() as session:
            return [event(row) for row in session.all(AFTER, {"id": job_id, "seq": seq, "limit": limit})]

    def wait(self, job_id: str, seq: int, timeout: float) -> bool:
        """Wait until the job has an event after `seq`, at most `timeout` seconds. True when it has one."""
        return self._watcher.wait(job_id, seq, timeout)

    def told(self, job_id: str) -> None:
        """This process has just written an event of the job: who waits for it need not wait for the next look."""
        self._watcher.look_now(job_id)

    def close(self) -> None:
        """Everybody who waits goes on at once."""
        self._watcher.close()


@dataclass(eq=False, slots=True)
class _Waiter:
    job_id: str
    seq: int
    arrived: Signal = field(default_factory=Signal)


class Watcher:
    """One thread, while anybody waits, that asks for the news of all that is waited for with one statement.

    Not LISTEN/NOTIFY: PostgreSQL takes one lock for all commits that notify, which is the end of committing in groups.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changed = Condition()
        self._waiters: set[_Waiter] = set()
        self._look_now = False
        self._thread: Thread | None = None
        self._closed = False

    def wait(self, job_id: str, seq: int, timeout: float) -> bool:
        waiter = _Waiter(job_id, seq)
        if self._news([waiter]):
            return True
        with self._changed:
            if self._closed:
                return False
            self._waiters.add(waiter)
            self._look_now = True  # it may have come since
            self._changed.notify()
            if self._thread is None:
                self._thread = Thread(target=self._watch, name="idlegrid-events", daemon=True)
                self._thread.start()
        try:
            waiter.arrived.wait(timeout)
        finally:
            with self._changed:
                found = waiter not in self._waiters and not self._closed
                self._waiters.discard(waiter)
        return found

    def look_now(self, job_id: str) -> None:
        if self._waiters:  # without the lock: who comes at this moment looks for itself
            with self._changed:
                if any(waiter.job_id == job_id for waiter in self._waiters):
                    self._look_now = True
                    self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            waiters, thread = list(self._waiters), self._thread
            self._waiters.clear()
            self._changed.notify()
        for waiter in waiters:
            waiter.arrived.set()
        if thread is not None:
            thread.join(timeout=10)

    def _watch(self) -> None:
        while (waiters := self._waited_for()) is not None:
            try:
                found = self._news(waiters)
            except Exception as error:  # all streams of this process wait for this thread: it goes on
                if not isinstance(error, StoreUnavailable):
                    logger.exception("a look for news failed")
                time.sleep(10 * POLL)  # they wait for it to come back, or for their time to run out
                continue
            with self._changed:
                self._waiters -= found
            for waiter in found:
                waiter.arrived.set()

    def _waited_for(self) -> list[_Waiter] | None:
        """What to look for now, after a pause; None: nobody waits any more, the thread ends."""
        with self._changed:
            if not self._look_now and self._waiters:
                self._changed.wait(POLL)
            self._look_now = False
            if not self._waiters or self._closed:
                self._thread = None
                return None
            return list(self._waiters)

    def _news(self, waiters: list[_Waiter]) -> set[_Waiter]:
        waited = json.dumps([{"id": waiter.job_id, "seq": waiter.seq} for waiter in waiters])
        with self._database.read() as session:
            rows = session.all(POSTGRES_NEWS if session.postgres else SQLITE_NEWS, {"waited": waited})
        arrived = {(row["id"], row["seq"]) for row in rows}
        return {waiter for waiter in waiters if (waiter.job_id, waiter.seq) in arrived}
