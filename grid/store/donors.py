"""Workers that registered: heartbeats, remote configuration, commands, and what an administrator decides of them."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from typing import Any

from ..commands import Command, Order, added
from .audit import By, note
from .beats import TOLD, Beats, commands_of, locked, written
from .database import Database, Row
from .donor_values import Answer, Beat, DonorRecord, NewWorker, Proof, Versioned, facts_of
from .nonces import NonceStore
from .rows import instant_or_none, to_json
from .stays import left
from .workers import SELECT, worker_record

FACTS = (
    *("name", "region", "country", "city", "gpu_model", "gpu_memory_gb", "gpu_count", "supported_types"),
    *("models", "direct_url", "role"),
)
"""What a machine says of itself."""
SAID = f"SELECT {', '.join(FACTS)} FROM workers WHERE id = :id"
ANNOUNCE = f"UPDATE workers SET {', '.join(f'{name} = :{name}' for name in FACTS)} WHERE id = :id"
STATUS = "UPDATE workers SET status = :status WHERE id = :id"
CONFIG = "SELECT config, config_version FROM workers WHERE id = :id"
SET_CONFIG = "UPDATE workers SET config = :config, config_version = config_version + 1 WHERE id = :id"
FLAGS = {
    "blocked": "UPDATE workers SET blocked_at = {now}, status = 'offline' WHERE id = :id AND blocked_at IS NULL",
    "unblocked": "UPDATE workers SET blocked_at = NULL WHERE id = :id AND blocked_at IS NOT NULL",
    "unlocked": "UPDATE workers SET unlocked_at = {now} WHERE id = :id",
}
BLOCKED = "SELECT id FROM workers WHERE blocked_at IS NOT NULL"
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

    def __init__(self, database: Database, nonces: NonceStore) -> None:
        self._database = database
        self._beats = Beats(database, nonces)

    def heartbeat(self, beat: Beat, proof: Proof | None = None) -> Answer | None:
        """Note that a worker lives. None: nobody knows it.

        With a `proof`, it is looked at in the same transaction: raises NotProved when it does not hold any more, or was
        shown before. Then nothing was changed.
        """
        return self._beats.take(beat, proof)

    def announce(self, worker_id: str, now: NewWorker) -> bool | None:
        """Keep what a worker says of itself in place of what it said before; its `config` is not looked at.

        Whether anything of it was news. None: nobody knows it.
        """
        said = facts_of(now)
        with self._database.write() as session:
            row = locked(session, SAID, worker_id)
            if row is None:
                return None
            changed = dict(row) != said
            if changed:
                session.run(ANNOUNCE, said | {"id": worker_id})
        return changed

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
            row = locked(session, CONFIG, worker_id)
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
            row = locked(session, "SELECT commands, incarnation FROM workers WHERE id = :id", worker_id)
            if row is None:
                return False
            commands = added(commands_of(row["commands"]), Command(order, row["incarnation"]))
            session.run(TOLD, {"id": worker_id, "commands": written(commands)})
            note(session, f"told_{order.value}", worker_id, by)
        return True

    def block(self, worker_id: str, by: By) -> bool:
        """Let nothing of this worker in any more, whatever it shows; its stay is over. False: nobody knows it.

        What it runs is taken back by `Store.block`.
        """
        return self._flag(worker_id, "blocked", by)

    def blocked(self) -> frozenset[str]:
        """Ids of all workers that are blocked."""
        with self._database.read() as session:
            return frozenset(row["id"] for row in session.all(BLOCKED, {}))

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
                if what == "blocked":
                    left(session, worker_id, graceful=True)
                return True
            return session.first(KNOWN, {"id": worker_id}) is not None


def _versioned(row: Row) -> Versioned:
    return Versioned(row["config_version"], json.loads(row["config"]) if row["config"] else {})


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
        commands=commands_of(row["commands"]),
        config=_versioned(row),
        reliability=json.loads(row["reliability"]) if row["reliability"] else None,
        blocked_at=instant_or_none(row["blocked_at"]),
    )
