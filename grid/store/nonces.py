"""Signed requests that were accepted: each is accepted once, by whichever process of the service it comes to."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..signing import KEPT
from .database import Database, Session
from .grouping import Grouped
from .rows import us

Pair = tuple[str, str]
POSTGRES = """
INSERT INTO nonces (key_id, nonce, at) SELECT *, {now} FROM unnest(:keys::text[], :nonces::text[])
ON CONFLICT DO NOTHING RETURNING key_id, nonce
"""
SQLITE = "INSERT OR IGNORE INTO nonces (key_id, nonce, at) VALUES (:key, :nonce, {now})"
FORGET = "DELETE FROM nonces WHERE at < {now} - :kept"
FORGET_EVERY = 5.0
"""Seconds between two looks at what need not be remembered any more."""


class NonceStore:
    """What was seen of signed requests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert: Grouped[Pair, bool] = Grouped(self._all)
        self._forget_at = 0.0

    def use(self, key_id: str, nonce: str) -> bool:
        """Remember a nonce, on disk; False when it was seen before. Raises StoreUnavailable: then accept nothing."""
        new = self._insert((key_id, nonce))
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET_EVERY
            self.forget()
        return new

    def forget(self, kept: float = KEPT) -> int:
        """Delete what is older than `kept` seconds: a request that old is refused for its age. How many."""
        with self._database.single() as session:
            return session.run(FORGET, {"kept": us(kept)})

    def _all(self, pairs: Sequence[Pair]) -> list[bool]:
        with self._database.single() as session:
            new = self._new(session, list(dict.fromkeys(pairs)))
        answers = []
        for pair in pairs:
            answers.append(pair in new)
            new.discard(pair)  # the same request twice in one group: only one of them is the first
        return answers

    def _new(self, session: Session, pairs: Sequence[Pair]) -> set[Pair]:
        if session.postgres:
            keys, nonces = [key for key, _ in pairs], [nonce for _, nonce in pairs]
            return {(row["key_id"], row["nonce"]) for row in session.all(POSTGRES, {"keys": keys, "nonces": nonces})}
        return {pair for pair in pairs if session.run(SQLITE, {"key": pair[0], "nonce": pair[1]})}
