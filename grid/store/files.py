"""Files of clients: what is known of them. Their content lies in a folder, under their id."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import datetime

from .database import Database, Row, Session
from .rows import instant, instant_or_none, plain, us

INSERT = """
INSERT INTO files (id, client_id, filename, bytes, purpose, sha256, created_at, expires_at)
VALUES (:id, :client_id, :filename, :bytes, :purpose, :sha256, {now}, {now} + :lives) RETURNING *
"""
LIVING = "(expires_at IS NULL OR expires_at > {now})"
GET = f"SELECT * FROM files WHERE id = :id AND client_id = :client_id AND {LIVING}"
DELETE = "DELETE FROM files WHERE id = :id AND client_id = :client_id"
OVERDUE = "SELECT id FROM files WHERE expires_at <= {now} ORDER BY expires_at LIMIT :limit"
FORGET = "DELETE FROM files WHERE id = :id AND expires_at <= {now}"
USED = "SELECT COALESCE(SUM(bytes), 0) AS bytes, COUNT(*) AS files FROM files WHERE client_id = :client_id"
PURGE = "UPDATE files SET expires_at = 0, filename = 'deleted' WHERE client_id = :client_id"
LOCK = "SELECT pg_advisory_xact_lock(hashtext(:client_id))"
"""PostgreSQL: what is counted of a client and what is added to it happen as one. SQLite has one writer anyway."""


class QuotaExceeded(Exception):
    """The client keeps too much already."""

    def __init__(self, used: int) -> None:
        super().__init__(f"{used:,} bytes are kept")
        self.used = used


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file whose content is in the folder already."""

    id: str
    client_id: str
    filename: str
    bytes: int
    purpose: str
    sha256: str
    lives: float | None
    """Seconds until it is deleted. None: for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file of a client."""

    id: str
    client_id: str
    filename: str
    bytes: int
    purpose: str
    sha256: str
    created_at: datetime
    expires_at: datetime | None


class FileStore:
    """What is known of clients' files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, file: NewFile, *, most: int | None = None) -> FileRecord:
        """From now on it is there. Raises QuotaExceeded if the client would have more than `most` bytes."""
        with self._database.write() as session:
            if most is not None:
                lock_client(session, file.client_id)
                row = session.first(USED, {"client_id": file.client_id})
                assert row is not None
                if int(row["bytes"]) + file.bytes > most:
                    raise QuotaExceeded(int(row["bytes"]))
            return insert(session, file)

    def get(self, file_id: str, client_id: str) -> FileRecord | None:
        """One of a client's files. None: there is none, it is another's, or its time is over."""
        with self._database.read() as session:
            row = session.first(GET, {"id": file_id, "client_id": client_id})
        return None if row is None else _record(row)

    def list(
        self,
        client_id: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 100,
        oldest_first: bool = False,
    ) -> builtins.list[FileRecord]:
        """A client's files, the newest first unless said; `after`: those behind this one."""
        conditions = ["client_id = :client_id", LIVING]
        if purpose is not None:
            conditions.append("purpose = :purpose")
        if after is not None:
            mine = "(SELECT created_at, id FROM files WHERE id = :after AND client_id = :client_id)"
            conditions.append(f"(created_at, id) {'>' if oldest_first else '<'} {mine}")
        way = "ASC" if oldest_first else "DESC"
        statement = f"""
            SELECT * FROM files WHERE {" AND ".join(conditions)} ORDER BY created_at {way}, id {way} LIMIT :limit
        """
        values = {"client_id": client_id, "purpose": purpose, "after": after, "limit": limit}
        with self._database.read() as session:
            rows = session.all(statement, values)
        return [_record(row) for row in rows]

    def delete(self, file_id: str, client_id: str) -> bool:
        """Forget it; its content may go. False: it was not there."""
        with self._database.single() as session:
            return session.run(DELETE, {"id": file_id, "client_id": client_id}) > 0

    def used(self, client_id: str) -> tuple[int, int]:
        """Bytes and number of a client's files."""
        with self._database.read() as session:
            row = session.first(USED, {"client_id": client_id})
        assert row is not None
        return int(row["bytes"]), int(row["files"])

    def overdue(self, limit: int = 100) -> builtins.list[str]:
        """Files whose time is over: remove their content, then `forget` them."""
        with self._database.read() as session:
            return [row["id"] for row in session.all(OVERDUE, {"limit": limit})]

    def forget(self, file_id: str) -> None:
        """The content of an overdue file is gone."""
        with self._database.single() as session:
            session.run(FORGET, {"id": file_id})


def lock_client(session: Session, client_id: str) -> None:
    """Nobody else counts or adds what is this client's until the transaction ends."""
    if session.postgres:
        session.all(LOCK, {"client_id": client_id})


def insert(session: Session, file: NewFile) -> FileRecord:
    """Inside of a transaction that may add more."""
    row = session.first(
        INSERT,
        {
            "id": file.id,
            "client_id": file.client_id,
            "filename": plain(file.filename, 255),
            "bytes": file.bytes,
            "purpose": file.purpose,
            "sha256": file.sha256,
            "lives": None if file.lives is None else us(file.lives),
        },
    )
    assert row is not None
    return _record(row)


def _record(row: Row) -> FileRecord:
    return FileRecord(
        id=row["id"],
        client_id=row["client_id"],
        filename=row["filename"],
        bytes=row["bytes"],
        purpose=row["purpose"],
        sha256=row["sha256"],
        created_at=instant(row["created_at"]),
        expires_at=instant_or_none(row["expires_at"]),
    )
