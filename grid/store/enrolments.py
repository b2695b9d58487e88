"""Enrolments: an administrator lets one machine in, once, for a while."""

from __future__ import annotations

import builtins
import uuid

from ..tokens import Kind, new_token, prefix_of
from ..vault import Vault
from .audit import By, note
from .database import Database, Row, Session
from .donor_values import Enrolment
from .rows import instant, instant_or_none, plain, us

INSERT = """
INSERT INTO enrolments (id, prefix, digest, owner, created_at, expires_at)
VALUES (:id, :prefix, :digest, :owner, {now}, {now} + :valid) RETURNING *
"""
FIND = "SELECT enrolments.*, {now} AS now FROM enrolments WHERE prefix = :prefix"
USE = """
UPDATE enrolments SET used_at = {now}, worker_id = :worker_id
WHERE id = :id AND used_at IS NULL AND revoked_at IS NULL AND expires_at > {now}
"""
REVOKE = """
UPDATE enrolments SET revoked_at = {now} WHERE (id = :id OR prefix = :id) AND revoked_at IS NULL AND used_at IS NULL
"""
LIST = "SELECT * FROM enrolments ORDER BY created_at DESC, id LIMIT 1000"


class BadEnrolment(Exception):
    """The token lets nobody in: unknown, used, expired or revoked. The message says which, if it once was good."""


class EnrolmentStore:
    """The enrolments of a grid."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    def create(self, valid: float, owner: str | None, by: By) -> tuple[Enrolment, str]:
        """A new one, good for `valid` seconds, and its token, shown this once."""
        token = new_token(Kind.ENROLMENT)
        values = {
            "id": uuid.uuid4().hex,
            "prefix": token.prefix,
            "digest": self._vault.digest(token.text),
            "owner": plain(owner, 200),
            "valid": us(valid),
        }
        with self._database.write() as session:
            row = session.first(INSERT, values)
            assert row is not None
            note(session, "enrolment_created", None, by, enrolment=token.prefix, owner=owner)
        return _enrolment(row), token.text

    def check(self, token: str) -> None:
        """Raise BadEnrolment unless the token would let somebody in now."""
        with self._database.read() as session:
            find(session, self._vault, token)

    def list(self) -> builtins.list[Enrolment]:
        """The last thousand, newest first, used ones too."""
        with self._database.read() as session:
            return [_enrolment(row) for row in session.all(LIST, {})]

    def revoke(self, id: str, by: By) -> bool:  # noqa: A002
        """Take it back. False when there is none of this id or prefix that could still be used."""
        with self._database.write() as session:
            revoked = session.run(REVOKE, {"id": id}) > 0
            if revoked:
                note(session, "enrolment_revoked", None, by, enrolment=id)
        return revoked


def find(session: Session, vault: Vault, token: str) -> Row:
    """The row of a token that is good now. Raises BadEnrolment."""
    prefix = prefix_of(Kind.ENROLMENT, token)
    row = session.first(FIND, {"prefix": prefix}) if prefix else None
    if row is None or not vault.fits(token, row["digest"]):
        raise BadEnrolment("this grid did not make it")
    if row["used_at"] is not None:
        raise BadEnrolment("it was used already: each lets one machine in")
    if row["revoked_at"] is not None:
        raise BadEnrolment("an administrator took it back")
    if row["expires_at"] <= row["now"]:
        raise BadEnrolment(f"it expired at {instant(row['expires_at']):%Y-%m-%d %H:%M} UTC")
    return row


def use(session: Session, row: Row, worker_id: str) -> None:
    """Spend it for this worker, in the transaction that makes it. Raises BadEnrolment when another was faster."""
    if not session.run(USE, {"id": row["id"], "worker_id": worker_id}):
        raise BadEnrolment("it was used already: each lets one machine in")


def _enrolment(row: Row) -> Enrolment:
    return Enrolment(
        id=row["id"],
        prefix=row["prefix"],
        owner=row["owner"],
        created_at=instant(row["created_at"]),
        expires_at=instant(row["expires_at"]),
        used_at=instant_or_none(row["used_at"]),
        worker_id=row["worker_id"],
        revoked_at=instant_or_none(row["revoked_at"]),
    )
