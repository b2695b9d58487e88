"""API keys: made, found, listed, revoked. Only their hashes are kept."""

from __future__ import annotations

import builtins
import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Collection
from datetime import datetime
from hmac import compare_digest

from .database import Database, Row
from .rows import instant, instant_or_none, microseconds, plain, to_json
from .values import ApiKey

PREFIX = 8
USED_EVERY = 60_000_000
"""µs: `last_used_at` is written no more often."""
FORM = re.compile(r"ig_([A-Za-z0-9]{8})_[A-Za-z0-9_-]{43}")

INSERT = """
INSERT INTO api_keys (id, prefix, sha256, name, scopes, client_id, requests_per_minute, created_at, expires_at)
VALUES (:id, :prefix, :sha256, :name, :scopes, :client_id, :requests_per_minute, {now}, :expires_at) RETURNING *
"""
FIND = "SELECT api_keys.*, {now} AS now FROM api_keys WHERE prefix = :prefix"
USED = "UPDATE api_keys SET last_used_at = {now} WHERE id = :id"
REVOKE = "UPDATE api_keys SET revoked_at = {now} WHERE (id = :id OR prefix = :id) AND revoked_at IS NULL"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class KeyStore:
    """The API keys of a grid."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        scopes: Collection[str],
        client_id: str | None = None,
        requests_per_minute: int | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its secret ``ig_<8>_<43>``, shown this once.

        Without a `client_id` the key is a client of its own.
        """
        id_ = uuid.uuid4().hex
        prefix = "".join(secrets.choice(ALPHABET) for _ in range(PREFIX))
        secret = f"ig_{prefix}_{secrets.token_urlsafe(32)}"
        values = {
            "id": id_,
            "prefix": prefix,
            "sha256": _hash(secret),
            "name": plain(name),
            "scopes": to_json(sorted(set(scopes))),
            "client_id": client_id or f"key-{id_}",
            "requests_per_minute": requests_per_minute,
            "expires_at": None if expires_at is None else microseconds(expires_at),
        }
        with self._database.single() as session:
            row = session.first(INSERT, values)
        assert row is not None
        return _key(row), secret

    def find(self, secret: str) -> ApiKey | None:
        """The key behind a secret; None when there is none, or it is revoked or expired."""
        form = FORM.fullmatch(secret)
        if form is None:
            return None
        with self._database.read() as session:
            row = session.first(FIND, {"prefix": form[1]})
        if row is None or not compare_digest(row["sha256"], _hash(secret)):
            return None
        if row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= row["now"]):
            return None
        if row["last_used_at"] is None or row["now"] - row["last_used_at"] > USED_EVERY:
            with self._database.single() as session:
                session.run(USED, {"id": row["id"]})
        return _key(row)

    def list(self) -> builtins.list[ApiKey]:
        """All keys, the newest first, revoked ones too."""
        with self._database.read() as session:
            return [_key(row) for row in session.all("SELECT * FROM api_keys ORDER BY created_at DESC, id", {})]

    def revoke(self, id: str) -> bool:  # noqa: A002
        """Close a key for good. False when there is none of this id or prefix, or it is revoked already."""
        with self._database.single() as session:
            return session.run(REVOKE, {"id": id}) > 0


def _hash(secret: str) -> str:
    """Fast on purpose: the secret has 256 random bits, nobody guesses it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Row) -> ApiKey:
    return ApiKey(
        id=row["id"],
        name=row["name"],
        prefix=row["prefix"],
        scopes=frozenset(json.loads(row["scopes"])),
        client_id=row["client_id"],
        requests_per_minute=row["requests_per_minute"],
        created_at=instant(row["created_at"]),
        expires_at=instant_or_none(row["expires_at"]),
        revoked_at=instant_or_none(row["revoked_at"]),
        last_used_at=instant_or_none(row["last_used_at"]),
    )
