"""Signed requests that were accepted: each is accepted once, by whichever process of the service it comes to."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..signing import KEPT
from .database import Database, Session
from .donor_values import Proof
from .grouping import Grouped
from .rows import us

Pair = tuple[str, str]
POSTGRES = """
INSERT INTO nonces (key_id, nonce, at) SELECT *, {now} FROM unnest(:keys::text[], :nonces::text[])
ON CONFLICT DO NOTHING RETURNING key_id, nonce
"""
SQLITE = "INSERT OR IGNORE INTO nonces (key_id, nonce, at) VALUES (:key, :nonce, {now})"
HOLDS = """
FROM workers AS w
JOIN credentials AS s ON s.id = v.key AND s.worker_id = w.id AND s.kind = 'signing' AND s.revoked_at IS NULL
JOIN credentials AS a ON a.id = v.token AND a.worker_id = w.id AND a.kind = 'access' AND a.revoked_at IS NULL
  AND a.expires_at > {now}
WHERE w.id = v.id AND w.blocked_at IS NULL
"""
"""That a proof `v` is by a token and a key that are good now."""
PROVE = f"""
INSERT INTO nonces (key_id, nonce, at)
SELECT id, nonce, {{now}} FROM unnest(:ids::text[], :keys::text[], :tokens::text[], :nonces::text[])
  AS v (id, key, token, nonce)
WHERE EXISTS (SELECT 1 {HOLDS}) ON CONFLICT DO NOTHING RETURNING key_id, nonce
"""
PROVE_ONE = f"""
INSERT OR IGNORE INTO nonces (key_id, nonce, at)
SELECT id, nonce, {{now}} FROM (SELECT :id AS id, :key AS key, :token AS token, :nonce AS nonce) AS v
WHERE EXISTS (SELECT 1 {HOLDS})
"""
FORGET = "DELETE FROM nonces WHERE at < {now} - :kept"
FORGET_EVERY = 5.0
"""Seconds between two looks at what need not be remembered any more."""


class NonceStore:
    """What was seen of signed requests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert: Grouped[Pair, bool] = Grouped(self._all)
        self._prove: Grouped[tuple[str, Proof], bool] = Grouped(self._all_proofs)
        self._forget_at = 0.0

    def use(self, key_id: str, nonce: str) -> bool:
        """Remember a nonce, on disk; False when it was seen before. Raises StoreUnavailable: then accept nothing."""
        new = self._insert((key_id, nonce))
        self.tidy()
        return new

    def prove(self, worker_id: str, proof: Proof) -> bool:
        """Remember the nonce of a proof, on disk, if its token and its key are good and its worker is not blocked.

        False: that is not so, or the nonce was seen before; then nothing was changed. Raises StoreUnavailable.
        """
        held = self._prove((worker_id, proof))
        self.tidy()
        return held

    def tidy(self) -> None:
        """Forget what is old, if that was not done a moment ago."""
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET_EVERY
            self.forget()

    def forget(self, kept: float = KEPT) -> int:
        """Delete what is older than `kept` seconds: a request that old is refused for its age. How many."""
        with self._database.single() as session:
            return session.run(FORGET, {"kept": us(kept)})

    def _all(self, pairs: Sequence[Pair]) -> list[bool]:
        with self._database.single() as session:
            new = self._new(session, list(dict.fromkeys(pairs)))
        return firsts(pairs, new)

    def _all_proofs(self, given: Sequence[tuple[str, Proof]]) -> list[bool]:
        pairs = [(worker_id, proof.nonce) for worker_id, proof in given]
        first = dict(zip(reversed(pairs), reversed(given), strict=True))
        with self._database.single() as session:
            new = prove(session, list(first.values()))
        return firsts(pairs, new)

    def _new(self, session: Session, pairs: Sequence[Pair]) -> set[Pair]:
        if session.postgres:
            keys, nonces = [key for key, _ in pairs], [nonce for _, nonce in pairs]
            return {(row["key_id"], row["nonce"]) for row in session.all(POSTGRES, {"keys": keys, "nonces": nonces})}
        return {pair for pair in pairs if session.run(SQLITE, {"key": pair[0], "nonce": pair[1]})}


def prove(session: Session, given: Sequence[tuple[str, Proof]]) -> set[Pair]:
    """Remember the nonces of those proofs, each another, that hold; which ones those are."""
    rows = [
        {"id": worker_id, "key": proof.key, "token": proof.token, "nonce": proof.nonce} for worker_id, proof in given
    ]
    if session.postgres:
        columns = {f"{name}s": [row[name] for row in rows] for name in ("id", "key", "token", "nonce")}
        return {(row["key_id"], row["nonce"]) for row in session.all(PROVE, columns)}
    return {(row["id"], row["nonce"]) for row in rows if session.run(PROVE_ONE, row)}


def firsts(pairs: Sequence[Pair], new: set[Pair]) -> list[bool]:
    """Which of them are new: of the same request twice in one group only the first."""
    answers, left = [], set(new)
    for pair in pairs:
        answers.append(pair in left)
        left.discard(pair)
    return answers
