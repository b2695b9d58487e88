"""Heartbeats of registered workers: the one call that everybody makes all the time, so it is one statement.

A worker proves with every heartbeat who it is. Who was seen before is proved in the statement that takes the heartbeat:
its token and its key still hold, it is not blocked, its request was never accepted before (the nonce). So a heartbeat
is one way to the database and one wait for the disk, and many at once are one together.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..commands import Command, Order, undone
from .database import Database, Row, Session
from .donor_values import Answer, Beat, Proof
from .grouping import Grouped
from .nonces import HOLDS, NonceStore, firsts, prove
from .rows import plain, to_json
from .stays import arrived

HEARD = "workers.incarnation, config_version, commands, reliability"
SAID = """
status = v.status, last_heartbeat = {now}, paused_reason = v.paused_reason, report = v.report
"""
BEATS = f"""
UPDATE workers SET {SAID}
FROM unnest(:ids::text[], :statuses::text[], :incarnations::text[], :reasons::text[], :reports::text[])
  AS v (id, status, incarnation, paused_reason, report)
WHERE workers.id = v.id AND workers.incarnation = v.incarnation AND workers.status <> 'offline'
RETURNING workers.id, {HEARD}
"""
PROVED_BEATS = f"""
WITH v AS (
  SELECT * FROM unnest(:ids::text[], :statuses::text[], :incarnations::text[], :reasons::text[], :reports::text[],
    :tokens::text[], :keys::text[], :nonces::text[])
  AS v (id, status, incarnation, paused_reason, report, token, key, nonce)),
new AS (
  INSERT INTO nonces (key_id, nonce, at) SELECT id, nonce, {{now}} FROM v WHERE EXISTS (SELECT 1 {HOLDS})
  ON CONFLICT DO NOTHING RETURNING key_id, nonce),
proved AS MATERIALIZED (
  SELECT v.* FROM v JOIN new ON new.key_id = v.id AND new.nonce = v.nonce),
said AS (
  UPDATE workers SET {SAID} FROM proved AS v
  WHERE workers.id = v.id AND workers.incarnation = v.incarnation AND workers.status <> 'offline'
  RETURNING workers.id, {HEARD})
SELECT proved.id AS key_id, proved.nonce, said.* FROM proved
LEFT JOIN said ON said.id = proved.id AND said.incarnation = proved.incarnation
"""
BEAT = f"""
UPDATE workers SET status = :status, last_heartbeat = {{now}}, paused_reason = :paused_reason, report = :report
WHERE id = :id AND incarnation = :incarnation AND status <> 'offline' RETURNING id, {HEARD}
"""
ARRIVE = f"""
UPDATE workers SET status = :status, last_heartbeat = {{now}}, paused_reason = :paused_reason, report = :report,
  incarnation = :incarnation
WHERE id = :id AND blocked_at IS NULL RETURNING id, {HEARD}
"""
TOLD = "UPDATE workers SET commands = :commands WHERE id = :id"
_COLUMNS = {
    "ids": "id",
    "statuses": "status",
    "incarnations": "incarnation",
    "reasons": "paused_reason",
    "reports": "report",
    "tokens": "token",
    "keys": "key",
    "nonces": "nonce",
}


class NotProved(Exception):
    """What was known of the worker holds no more, or its request was accepted before. Nothing was changed."""


Proved = tuple[Beat, Proof]
Heard = Row | None
"""A row of `HEARD`; None: it is the first of a process, or of a worker that was given up, or nobody's."""


class Beats:
    """Takes heartbeats. Many at once are one statement; the first of a process opens its stay."""

    def __init__(self, database: Database, nonces: NonceStore) -> None:
        self._database, self._nonces = database, nonces
        self._plain: Grouped[Beat, Heard] = Grouped(self._all)
        self._proved: Grouped[Proved, Heard | NotProved] = Grouped(self._all_proved)

    def take(self, beat: Beat, proof: Proof | None) -> Answer | None:
        """Note that a worker lives. None: nobody knows it. Raises NotProved, with a proof that does not hold."""
        heard = self._plain(beat) if proof is None else self._take_proved(beat, proof)
        return self._arrival(beat) if heard is None else self._answer(beat, heard)

    def _take_proved(self, beat: Beat, proof: Proof) -> Heard:
        heard = self._proved((beat, proof))
        if isinstance(heard, NotProved):
            raise heard
        self._nonces.tidy()
        return heard

    def _all(self, beats: Sequence[Beat]) -> builtins.list[Heard]:
        with self._database.single() as session:
            if session.postgres:
                found = session.all(BEATS, _columns([_values(beat) for beat in _in_order(beats)]))
            else:
                found = [row for beat in beats for row in session.all(BEAT, _values(beat))]
        heard = {(row["id"], row["incarnation"]): row for row in found}
        return [heard.get((beat.worker_id, beat.incarnation)) for beat in beats]

    def _all_proved(self, given: Sequence[Proved]) -> builtins.list[Heard | NotProved]:
        pairs = [(beat.worker_id, proof.nonce) for beat, proof in given]
        first = dict(zip(reversed(pairs), reversed(given), strict=True))
        with self._database.single() as session:
            take = _on_postgres if session.postgres else _on_sqlite
            heard = take(session, list(first.values()))
        news = firsts(pairs, set(heard))
        return [heard[pair] if new else NotProved() for pair, new in zip(pairs, news, strict=True)]

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
            row = locked(session, "SELECT commands FROM workers WHERE id = :id", beat.worker_id)
            commands = commands_of(row["commands"]) if row is not None else ()
            rest = undone(commands, beat.status, beat.incarnation)
            if rest != commands:
                session.run(TOLD, {"id": beat.worker_id, "commands": written(rest)})
        return tuple(command.order for command in rest)


def _on_postgres(session: Session, given: Sequence[Proved]) -> dict[tuple[str, str], Heard]:
    rows = [_values(beat, proof) for beat, proof in sorted(given, key=lambda pair: pair[0].worker_id)]
    found = session.all(PROVED_BEATS, _columns(rows))
    return {(row["key_id"], row["nonce"]): None if row["id"] is None else row for row in found}


def _on_sqlite(session: Session, given: Sequence[Proved]) -> dict[tuple[str, str], Heard]:
    held = prove(session, [(beat.worker_id, proof) for beat, proof in given])
    return {
        pair: session.first(BEAT, _values(beat))
        for beat, proof in given
        if (pair := (beat.worker_id, proof.nonce)) in held
    }


def locked(session: Session, select: str, worker_id: str) -> Row | None:
    """A worker's row, which nobody else changes until the transaction ends."""
    return session.first(f"{select} FOR UPDATE" if session.postgres else select, {"id": worker_id})


def commands_of(text: str) -> tuple[Command, ...]:
    """What a worker is to be told, out of its row."""
    return tuple(Command(Order(item["order"]), item["incarnation"]) for item in json.loads(text))


def written(commands: Sequence[Command]) -> str:
    """The inverse of `commands_of`."""
    return json.dumps([{"order": command.order.value, "incarnation": command.incarnation} for command in commands])


def _in_order(beats: Sequence[Beat]) -> builtins.list[Beat]:
    """Two groups with workers in common lock their rows in the same order."""
    return sorted(beats, key=lambda beat: beat.worker_id)


def _values(beat: Beat, proof: Proof | None = None) -> dict[str, Any]:
    said = {
        "id": beat.worker_id,
        "status": beat.status,
        "incarnation": beat.incarnation,
        "paused_reason": plain(beat.paused_reason, 500),
        "report": to_json(beat.report),
    }
    return said if proof is None else said | {"token": proof.token, "key": proof.key, "nonce": proof.nonce}


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {parameter: [row[name] for row in rows] for parameter, name in _COLUMNS.items() if name in rows[0]}
