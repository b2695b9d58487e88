"""What attempts and stays say of each worker: its history, added up piece by piece, and the score that follows from it.

Jobs and stays are counted once each, in the order in which they ended, behind a mark that moves in the same
transaction. So looking costs what is new, not what there is; a history outlives the rows that it was made of; and any
number of processes may count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from statistics import median

from ..reliability import History, Score, says, score
from .database import Database, Row, Session
from .reads import HELD
from .rows import instant, to_json
from .stays import left

PAGE = 1000
"""Jobs, or stays, that are counted in one transaction."""
PAGES = 5
"""Pages in a row: after an upgrade there is much to count, and other work to do meanwhile."""
LATE = 10_000_000
"""µs for which an end may be on its way to the disk: nothing younger is counted on PostgreSQL."""
SHORTEST = 1e-3
"""Medians below so many seconds say nothing of a donor."""

SILENT = """
SELECT id FROM workers WHERE status <> 'offline' AND last_heartbeat < {now} - :silent_us LIMIT 1000
"""
OFFLINE = "UPDATE workers SET status = 'offline' WHERE id = :id"
MARK = "SELECT at, id FROM marks WHERE name = :name"
FIRST_MARK = "INSERT INTO marks (name, at, id) VALUES (:name, 0, '') ON CONFLICT (name) DO NOTHING"
SET_MARK = "UPDATE marks SET at = :at, id = :id WHERE name = :name"
ENDED_JOBS = """
SELECT j.id, j.type, j.status, j.error_code, j.completed_at AS at, a.worker_id, a.outcome, a.begun_at, a.ended_at
FROM (SELECT id, type, status, error_code, completed_at FROM jobs
  WHERE completed_at IS NOT NULL AND completed_at >= :at AND completed_at <= :until
    AND (completed_at, id) > (:at, :id)
  ORDER BY completed_at, id LIMIT :limit) AS j
LEFT JOIN attempts AS a ON a.job_id = j.id
ORDER BY j.completed_at, j.id, a.fence
"""
ENDED_STAYS = """
SELECT id, worker_id, started_at, ended_at AS at, graceful FROM sessions
WHERE ended_at >= :at AND ended_at <= :until AND (ended_at, id) > (:at, :id)
ORDER BY ended_at, id LIMIT :limit
"""
HISTORY = "SELECT history FROM histories WHERE worker_id = :worker_id"
KEEP = """
INSERT INTO histories (worker_id, history) VALUES (:worker_id, :history)
ON CONFLICT (worker_id) DO UPDATE SET history = excluded.history
"""
HISTORIES = "SELECT worker_id, history FROM histories"
STAYING = "SELECT worker_id, started_at FROM sessions WHERE ended_at IS NULL ORDER BY started_at"
TERMS = "SELECT id, reliability FROM workers"
SET_TERMS = "UPDATE workers SET reliability = :terms WHERE id = :id"
SET_ALL_TERMS = """
UPDATE workers SET reliability = v.terms FROM unnest(:ids::text[], :terms::text[]) AS v (id, terms)
WHERE workers.id = v.id
"""


class SessionStore:
    """The past of all workers, also of those that never registered. Safe to use from many processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sweep(self, silent: float) -> int:
        """Take workers that were not heard of for `silent` seconds for gone: offline, their stay over without a word.

        How many. Not to be called before workers had `silent` seconds to find the grid again after it was away.
        """
        with self._database.write() as session:
            statement = SILENT + (" FOR UPDATE SKIP LOCKED" if session.postgres else "")
            gone = session.all(statement, {"silent_us": round(silent * 1e6)})
            for row in gone:
                session.run(OFFLINE, {"id": row["id"]})
                left(session, row["id"], graceful=False)
        return len(gone)

    def count(self) -> int:
        """Add what has ended since the last time to the histories. How many jobs and stays those were."""
        counted = 0
        for name, statement, added in (("jobs", ENDED_JOBS, _add_jobs), ("stays", ENDED_STAYS, _add_stays)):
            for _ in range(PAGES):
                with self._database.write() as session:
                    ended = _page(session, name, statement, added)
                counted += ended
                if ended < PAGE:
                    break
        return counted

    def histories(self) -> dict[str, History]:
        """Worker → its past, as far as it was counted, and the stay that is going on."""
        with self._database.read() as session:
            kept = session.all(HISTORIES, {})
            staying = session.all(STAYING, {})
        known = {row["worker_id"]: _history(row) for row in kept}
        for row in staying:
            known[row["worker_id"]] = known.get(row["worker_id"], History()).joined(instant(row["started_at"]))
        return known

    def rate(self, histories: Mapping[str, History], now: datetime) -> dict[str, Score]:
        """Score workers at `now` (UTC), and keep the scores for their heartbeats and for who asks for work."""
        scores = {worker: score(history, now) for worker, history in histories.items()}
        with self._database.read() as session:
            kept = session.all(TERMS, {})
        terms = {row["id"]: json.dumps(scores[row["id"]].to_wire()) for row in kept if row["id"] in scores}
        before = {row["id"]: row["reliability"] for row in kept}
        changed = {worker: text for worker, text in terms.items() if text != before[worker]}
        if changed:
            with self._database.write() as session:
                _set_terms(session, changed)
        return scores

    def usual_seconds(self, types: Iterable[str]) -> dict[str, float]:
        """Job type → how long its last jobs took, the median in s; types of which none was completed are left out."""
        with self._database.read() as session:
            return _medians(session, types)


Adding = Callable[[Session, "Histories", list[Row]], None]


def _page(session: Session, name: str, statement: str, added: Adding) -> int:
    """Count the next page behind a mark, and move the mark. How many rows' worth of ends it was."""
    lock = " FOR UPDATE" if session.postgres else ""
    mark = session.first(MARK + lock, {"name": name})
    if mark is None:
        session.run(FIRST_MARK, {"name": name})
        mark = session.first(MARK + lock, {"name": name})
    assert mark is not None
    until = session.now - (LATE if session.postgres else 1)  # in SQLite the lock is taken before the clock is read
    rows = session.all(statement, {"at": mark["at"], "id": mark["id"], "until": until, "limit": PAGE})
    if not rows:
        return 0
    histories = Histories(session)
    added(session, histories, rows)
    histories.keep()
    session.run(SET_MARK, {"name": name, "at": rows[-1]["at"], "id": rows[-1]["id"]})
    return len({row["id"] for row in rows})


class Histories:
    """The histories that a page changes."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[str, History] = {}

    def of(self, worker: str) -> History:
        if worker not in self._known:
            row = self._session.first(HISTORY, {"worker_id": worker})
            self._known[worker] = History() if row is None else _history(row)
        return self._known[worker]

    def set(self, worker: str, history: History) -> None:
        self._known[worker] = history

    def keep(self) -> None:
        for worker, history in self._known.items():
            self._session.run(KEEP, {"worker_id": worker, "history": to_json(history.to_wire())})


def _add_jobs(session: Session, histories: Histories, rows: list[Row]) -> None:
    medians = _medians(session, {row["type"] for row in rows})
    for row in rows:
        said = says(row["outcome"], row["status"], row["error_code"])
        if said is None or row["worker_id"] is None:
            continue
        ratio = _ratio(row, medians.get(row["type"], 0.0)) if said else None
        histories.set(row["worker_id"], histories.of(row["worker_id"]).after_job(said, ratio))


def _ratio(row: Row, usual: float) -> float | None:
    """How long an attempt took, over what such work usually takes. None: too short to say."""
    if usual < SHORTEST or row["begun_at"] is None or row["ended_at"] <= row["begun_at"]:
        return None
    return float((row["ended_at"] - row["begun_at"]) / 1e6 / usual)


def _add_stays(session: Session, histories: Histories, rows: list[Row]) -> None:
    for row in rows:
        history = histories.of(row["worker_id"])
        seconds = max(0.0, (row["at"] - row["started_at"]) / 1e6)
        history = history.after_session(seconds, expected=bool(row["graceful"]))
        first = history.first_seen or instant(row["started_at"])
        histories.set(row["worker_id"], replace(history, first_seen=min(first, instant(row["started_at"]))))


def _medians(session: Session, types: Iterable[str]) -> dict[str, float]:
    held = {type_: session.all(HELD, {"type": type_}) for type_ in types}
    return {type_: median(row["held_us"] for row in rows) / 1e6 for type_, rows in held.items() if rows}


def _set_terms(session: Session, terms: Mapping[str, str]) -> None:
    if session.postgres:
        session.run(SET_ALL_TERMS, {"ids": list(terms), "terms": list(terms.values())})
        return
    for worker, text in terms.items():
        session.run(SET_TERMS, {"id": worker, "terms": text})


def _history(row: Row) -> History:
    return History.from_wire(json.loads(row["history"]))
