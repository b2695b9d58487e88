"""Workers that registered: heartbeats, remote configuration, commands, and what an administrator decides of them."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..commands import Command, Order, added, undone
from .audit import By, note
from .database import Database, Row, Session
from .donor_values import Answer, Beat, DonorRecord, Versioned
from .grouping import Grouped
from .rows import instant_or_none, plain, to_json
from .stays import arrived, left
from .workers import SELECT, worker_record

HEARD = "config_version, commands, reliability"
BEATS = f"""
UPDATE workers SET status = v.status, last_heartbeat = {{now}}, paused_reason = v.paused_reason, report = v.report
FROM unnest(:ids::text[], :statuses::text[], :incarnations::text[], :reasons::text[], :reports::text[])
  AS v (id, status, incarnation, paused_reason, report)
WHERE workers.id = v.id AND workers.incarnation = v.incarnation AND workers.status <> 'offline'
RETURNING workers.id, {HEARD}
"""
BEAT = f"""
UPDATE workers SET status = :status, last_heartbeat = {{now}}, paused_reason = :paused_reason, report = :report
WHERE id = :id AND incarnation = :incarnation AND status <> 'offline' RETURNING id, {HEARD}
"""
ARRIVE = f"""
UPDATE workers SET status = :status, last_heartbeat = {{now}}, paused_reason = :paused_reason, report = :report,
  incarnation = :incarnation
WHERE id = :id RETURNING id, {HEARD}
"""
TOLD = "UPDATE workers SET commands = :commands WHERE id = :id"
STATUS = "UPDATE workers SET status = :status WHERE id = :id"
CONFIG = "SELECT config, config_version FROM workers WHERE id = :id"
SET_CONFIG = "UPDATE workers SET config = :config, config_version = config_version + 1 WHERE id = :id"
FLAGS = {
    "blocked": "UPDATE workers SET blocked_at = {now} WHERE id = :id AND blocked_at IS NULL",
    "unblocked": "UPDATE workers SET blocked_at = NULL WHERE id = :id AND blocked_at IS NOT NULL",
    "unlocked": "UPDATE workers SET unlocked_at = {now} WHERE id = :id",
}
KNOWN = "SELECT 1 AS known FROM workers WHERE id = :id"
DONORS = SELECT.replace(
    "SELECT workers.*,",
    "SELECT workers.*, EXISTS (SELECT 1 FROM credentials AS c WHERE c.worker_id = workers.id AND c.kind = 'signing')"
    " AS registered,",
)


class VersionConflict(Exception):
    """The configuration was changed by somebody else since it was read."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the configuration is at version {current} by now")
        self.current = current


class DonorStore:
    """What registered workers say, and what they are told."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._beat: Grouped[Beat, Answer | None] = Grouped(self._all)

    def heartbeat(self, beat: Beat) -> Answer | None:
        """Note that a worker lives. None: nobody knows it.

        Many at once are one statement. The first of a process opens its stay.
        """
        return self._beat(beat) or self._arrival(beat)

    def leave(self, worker_id: str, status: str) -> bool:
        """The worker says that it takes nothing new (``draining``) or goes (``offline``: its stay ends, gracefully)."""
        with self._database.write() as session:
            known = session.run(STATUS, {"id": worker_id, "status": status}) > 0
            if known and status == "offline":
                left(session, worker_id, graceful=True)
        return known

    def get(self, worker_id: str) -> DonorRecord | None:
        """One worker."""
        with self._database.read() as session:
            row = session.first(f"{DONORS} WHERE workers.id = :id", {"id": worker_id})
        return None if row is None else _donor(row)

    def list(self) -> builtins.list[DonorRecord]:
        """All workers by id, those that never registered too."""
        with self._database.read() as session:
            return [_donor(row) for row in session.all(f"{DONORS} ORDER BY workers.id", {})]

    def config(self, worker_id: str) -> Versioned | None:
        """The worker's remote configuration; None: nobody knows the worker."""
        with self._database.read() as session:
            row = session.first(CONFIG, {"id": worker_id})
        return None if row is None else _versioned(row)

    def set_config(
        self, worker_id: str, config: Mapping[str, Any], by: By, *, expected: int | None = None
    ) -> Versioned | None:
        """Put another configuration in its place: one version more, unless it is the same.

        None: nobody knows the worker. Raises VersionConflict unless it is at version `expected` (None: any).
        """
        with self._database.write() as session:
            row = _locked(session, CONFIG, worker_id)
            if row is None:
                return None
            at = _versioned(row)
            if expected is not None and at.version != expected:
                raise VersionConflict(at.version)
            if at.config == dict(config):
                return at
            session.run(SET_CONFIG, {"id": worker_id, "config": to_json(config)})
            note(session, "config_changed", worker_id, by, version=at.version + 1, config=dict(config))
            return Versioned(at.version + 1, dict(config))

    def command(self, worker_id: str, order: Order, by: By) -> bool:
        """Tell the worker with its next heartbeats, until it did so. False: nobody knows it."""
        with self._database.write() as session:
            row = _locked(session, "SELECT commands, incarnation FROM workers WHERE id = :id", worker_id)
            if row is None:
                return False
            commands = added(_commands(row["commands"]), Command(order, row["incarnation"]))
            session.run(TOLD, {"id": worker_id, "commands": _written(commands)})
            note(session, f"told_{order.value}", worker_id, by)
        return True

    def block(self, worker_id: str, by: By) -> bool:
        """Let nothing of this worker in any more, whatever it shows. False: nobody knows it."""
        return self._flag(worker_id, "blocked", by)

    def unblock(self, worker_id: str, by: By) -> bool:
        """The opposite of `block`."""
        return self._flag(worker_id, "unblocked", by)

    def unlock(self, worker_id: str, by: By) -> bool:
        """Failed authentications for this worker until now lock nobody out any more. False: nobody knows it."""
        return self._flag(worker_id, "unlocked", by)

    def _flag(self, worker_id: str, what: str, by: By) -> bool:
        with self._database.write() as session:
            if session.run(FLAGS[what], {"id": worker_id}):
                note(session, what, worker_id, by)
                return True
            return session.first(KNOWN, {"id": worker_id}) is not None

    def _all(self, beats: Sequence[Beat]) -> builtins.list[Answer | None]:
        with self._database.single() as session:
            if session.postgres:
                rows = session.all(BEATS, _columns(beats))
            else:
                rows = [row for beat in beats for row in session.all(BEAT, _values(beat))]
        heard = {row["id"]: row for row in rows}
        return [self._answer(beat, heard[beat.worker_id]) if beat.worker_id in heard else None for beat in beats]

    def _arrival(self, beat: Beat) -> Answer | None:
        """The first heartbeat of a process, or of one that was given up."""
        with self._database.write() as session:
            row = session.first(ARRIVE, _values(beat))
            if row is None:
                return None
            arrived(session, beat.worker_id, beat.incarnation)
        return self._answer(beat, row)

    def _answer(self, beat: Beat, row: Row) -> Answer:
        orders: tuple[Order, ...] = ()
        if row["commands"] != "[]":
            orders = self._to_be_told(beat)
        terms = row["reliability"]
        return Answer(
            config_version=row["config_version"], commands=orders, reliability=json.loads(terms) if terms else None
        )

    def _to_be_told(self, beat: Beat) -> tuple[Order, ...]:
        """What is left of the worker's commands after this heartbeat; what it obeyed is struck off."""
        with self._database.write() as session:
            row = _locked(session, "SELECT commands FROM workers WHERE id = :id", beat.worker_id)
            commands = _commands(row["commands"]) if row is not None else ()
            rest = undone(commands, beat.status, beat.incarnation)
            if rest != commands:
                session.run(TOLD, {"id": beat.worker_id, "commands": _written(rest)})
        return tuple(command.order for command in rest)


def _values(beat: Beat) -> dict[str, Any]:
    return {
        "id": beat.worker_id,
        "status": beat.status,
        "incarnation": beat.incarnation,
        "paused_reason": plain(beat.paused_reason, 500),
        "report": to_json(beat.report),
    }


def _columns(beats: Sequence[Beat]) -> dict[str, Any]:
    rows = [_values(beat) for beat in beats]
    names = {
        "ids": "id",
        "statuses": "status",
        "incarnations": "incarnation",
        "reasons": "paused_reason",
        "reports": "report",
    }
    return {parameter: [row[name] for row in rows] for parameter, name in names.items()}


def _locked(session: Session, select: str, worker_id: str) -> Row | None:
    """A worker's row, which nobody else changes until the transaction ends."""
    return session.first(f"{select} FOR UPDATE" if session.postgres else select, {"id": worker_id})


def _versioned(row: Row) -> Versioned:
    return Versioned(row["config_version"], json.loads(row["config"]) if row["config"] else {})


def _commands(text: str) -> tuple[Command, ...]:
    return tuple(Command(Order(item["order"]), item["incarnation"]) for item in json.loads(text))


def _written(commands: Sequence[Command]) -> str:
    return json.dumps([{"order": command.order.value, "incarnation": command.incarnation} for command in commands])


def _donor(row: Row) -> DonorRecord:
    return DonorRecord(
        worker=worker_record(row),
        registered=bool(row["registered"]),
        gpu_count=row["gpu_count"],
        models=None if row["models"] is None else frozenset(json.loads(row["models"])),
        direct_url=row["direct_url"],
        role=row["role"],
        owner=row["owner"],
        incarnation=row["incarnation"],
        paused_reason=row["paused_reason"],
        report=json.loads(row["report"]) if row["report"] else {},
        commands=_commands(row["commands"]),
        config=_versioned(row),
        reliability=json.loads(row["reliability"]) if row["reliability"] else None,
        blocked_at=instant_or_none(row["blocked_at"]),
    )
