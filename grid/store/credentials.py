"""Workers' credentials: made when they register, looked up with every request, renewed, taken away.

Of tokens only keyed digests are kept; signing secrets, and for a minute the successors of a spent refresh token, are
encrypted (`grid.vault`).
"""

from __future__ import annotations

import json
import secrets
import uuid
from typing import Any

from ..tokens import ACCESS_LIFE, REFRESH_LIFE, RETRY, Kind, RefreshState, Renewal, new_token, prefix_of, renewal
from ..vault import Vault
from . import enrolments
from .audit import By, note
from .database import Database, Row, Session
from .donor_values import NewWorker, Registration, Standing, TokenPair, facts_of
from .rows import instant, microseconds, to_json, us

WORKER = """
INSERT INTO workers (id, name, status, region, country, city, gpu_model, gpu_memory_gb, gpu_count, supported_types,
  models, direct_url, role, owner, config, config_version, registered_at)
VALUES (:id, :name, 'offline', :region, :country, :city, :gpu_model, :gpu_memory_gb, :gpu_count, :supported_types,
  :models, :direct_url, :role, :owner, :config, 1, {now})
"""
INSERT = """
INSERT INTO credentials (id, worker_id, kind, prefix, digest, family, generation, created_at, expires_at, sealed)
VALUES (:id, :worker_id, :kind, :prefix, :digest, :family, :generation, {now}, :expires_at, :sealed)
"""
FIND = """
SELECT w.blocked_at, w.unlocked_at, {now} AS now, s.id AS key, s.sealed, s.revoked_at AS key_revoked_at,
  a.id AS token, a.digest, a.expires_at, a.revoked_at, a.spent_at
FROM workers AS w
LEFT JOIN credentials AS s ON s.worker_id = w.id AND s.kind = 'signing'
LEFT JOIN credentials AS a ON a.kind = 'access' AND a.prefix = :prefix AND a.worker_id = w.id
WHERE w.id = :id
"""
SIGNING = "SELECT id, sealed FROM credentials WHERE worker_id = :id AND kind = 'signing' AND revoked_at IS NULL"
SHOWN = "UPDATE credentials SET spent_at = {now} WHERE id = :id AND spent_at IS NULL"
REFRESH = """
SELECT credentials.*, {now} AS now FROM credentials
WHERE kind = 'refresh' AND prefix = :prefix AND worker_id = :worker_id
"""
SUCCESSORS_USED = """
SELECT count(*) AS used FROM credentials
WHERE worker_id = :worker_id AND family = :family AND generation > :generation AND spent_at IS NOT NULL
"""
SPEND = "UPDATE credentials SET spent_at = {now}, sealed = :sealed WHERE id = :id"
RETIRE = """
UPDATE credentials SET expires_at = {now} + :grace
WHERE worker_id = :worker_id AND kind = 'access' AND generation <= :generation AND expires_at > {now} + :grace
"""
FORGET_SUCCESSORS = """
UPDATE credentials SET sealed = NULL
WHERE worker_id = :worker_id AND kind = 'refresh' AND sealed IS NOT NULL AND spent_at < {now} - :grace
"""
FORGET = "DELETE FROM credentials WHERE worker_id = :worker_id AND kind <> 'signing' AND expires_at < {now} - :kept"
REVOKE = """
UPDATE credentials SET revoked_at = {now}, sealed = CASE WHEN kind = 'signing' THEN sealed END
WHERE worker_id = :worker_id AND revoked_at IS NULL
"""
OF_OWNER = "SELECT count(*) AS workers FROM workers WHERE owner = :owner AND blocked_at IS NULL"
MOST_OF_OWNER = 256
"""Workers that one owner may have, blocked ones aside."""
DAY = 86_400.0


class TooManyWorkers(Exception):
    """The owner has as many workers as one may have."""


class BadRefreshToken(Exception):
    """The refresh token renews nothing. The message says why, as far as who shows it may know."""

    def __init__(self, told: str, *, stolen: bool = False) -> None:
        super().__init__(told)
        self.stolen = stolen
        """Its family was closed because of it."""


class CredentialStore:
    """The credentials of all workers."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    def register(self, enrolment: str, new: NewWorker, address: str | None = None) -> Registration:
        """Spend an enrolment token for a new worker. All of it, or nothing. Raises BadEnrolment, TooManyWorkers."""
        worker_id = f"w-{uuid.uuid4().hex}"
        with self._database.write() as session:
            row = enrolments.find(session, self._vault, enrolment)
            enrolments.use(session, row, worker_id)
            owner = row["owner"]
            if owner is not None and session.all(OF_OWNER, {"owner": owner})[0]["workers"] >= MOST_OF_OWNER:
                raise TooManyWorkers(f"{owner!r} has {MOST_OF_OWNER} workers already, which is the most of one owner")
            own = {"owner": owner, "config": to_json(new.config)}
            session.run(WORKER, facts_of(new) | own | {"id": worker_id})
            family = uuid.uuid4().hex
            pair = self._pair(session, worker_id, family, 0)
            secret = self._signing(session, worker_id, family)
            note(session, "registered", worker_id, By(f"enrolment {row['prefix']}", address), owner=owner)
        return Registration(worker_id=worker_id, tokens=pair, signing_secret=secret, config_version=1)

    def find(self, worker_id: str, token: str) -> Standing | None:
        """How this worker stands, and whether the access token is its own. None: there is no such worker."""
        prefix = prefix_of(Kind.ACCESS, token) or ""
        with self._database.read() as session:
            row = session.first(FIND, {"id": worker_id, "prefix": prefix})
        return None if row is None else self._standing(worker_id, token, row)

    def shown(self, token_id: str) -> None:
        """Note that an access token was shown: from now on nobody can say that it never arrived."""
        with self._database.single() as session:
            session.run(SHOWN, {"id": token_id})

    def signing_secret(self, worker_id: str) -> bytes | None:
        """The key of a worker's signatures and tickets; None: it has none, or none any more. Raises Tampered."""
        with self._database.read() as session:
            row = session.first(SIGNING, {"id": worker_id})
        return None if row is None else self._vault.open(row["sealed"], f"signing {row['id']}")

    def refresh(self, worker_id: str, refresh_token: str, by: By) -> TokenPair:
        """Both tokens anew, for who signed with the worker's secret. Raises BadRefreshToken.

        Within a minute the same token gives the same successors once more, if nobody used them: the answer was lost.
        A token that is shown again after that was stolen, or its successor was: nothing of its family opens any more.
        """
        with self._database.write() as session:
            row = self._refresh_row(session, worker_id, refresh_token)
            verdict = renewal(_refresh_state(session, row), row["now"])
            match verdict:
                case Renewal.ROTATE:
                    return self._rotate(session, row)
                case Renewal.REPEAT:
                    return self._successors(row)
                case Renewal.STOLEN:
                    session.run(REVOKE, {"worker_id": worker_id})
                    note(session, "refresh_token_reused", worker_id, by, generation=row["generation"])
        raise BadRefreshToken(_WHY[verdict], stolen=verdict is Renewal.STOLEN)

    def revoke(self, worker_id: str, by: By) -> bool:
        """Take all credentials away; the worker must register anew. False when it had none."""
        with self._database.write() as session:
            revoked = session.run(REVOKE, {"worker_id": worker_id}) > 0
            if revoked:
                note(session, "credentials_revoked", worker_id, by)
        return revoked

    def _standing(self, worker_id: str, token: str, row: Row) -> Standing:
        own = row["token"] is not None and self._vault.fits(token, row["digest"])
        why = ""
        if own and row["revoked_at"] is not None:
            why = "it was revoked"
        elif own and row["expires_at"] <= row["now"]:
            why = f"it expired at {instant(row['expires_at']):%Y-%m-%d %H:%M} UTC"
        signs = row["key"] is not None and row["key_revoked_at"] is None
        return Standing(
            worker_id=worker_id,
            registered=row["key"] is not None,
            token=row["token"] if own and not why else None,
            token_expires_at=instant(row["expires_at"]) if own and not why else None,
            unshown=own and row["spent_at"] is None,
            why=why,
            key=self._vault.open(row["sealed"], f"signing {row['key']}") if signs else None,
            key_id=row["key"] if signs else None,
            blocked=row["blocked_at"] is not None,
            unlocked_at=(row["unlocked_at"] or 0) / 1_000_000,
        )

    def _refresh_row(self, session: Session, worker_id: str, token: str) -> Row:
        prefix = prefix_of(Kind.REFRESH, token)
        lock = " FOR UPDATE" if session.postgres else ""
        row = session.first(f"{REFRESH}{lock}", {"prefix": prefix, "worker_id": worker_id}) if prefix else None
        if row is None or not self._vault.fits(token, row["digest"]):
            raise BadRefreshToken("it is not one of this worker's")
        return row

    def _rotate(self, session: Session, row: Row) -> TokenPair:
        worker_id, generation = row["worker_id"], row["generation"]
        pair = self._pair(session, worker_id, row["family"], generation + 1)
        told = {
            "token": pair.token,
            "refresh_token": pair.refresh_token,
            "token_expires_at": microseconds(pair.token_expires_at),
        }
        sealed = self._vault.seal(to_json(told).encode(), f"successor {row['id']}")
        session.run(SPEND, {"id": row["id"], "sealed": sealed})
        session.run(RETIRE, {"worker_id": worker_id, "generation": generation, "grace": us(RETRY)})
        session.run(FORGET_SUCCESSORS, {"worker_id": worker_id, "grace": us(RETRY)})
        session.run(FORGET, {"worker_id": worker_id, "kept": us(DAY)})
        return pair

    def _successors(self, row: Row) -> TokenPair:
        told = json.loads(self._vault.open(row["sealed"], f"successor {row['id']}"))
        return TokenPair(**{**told, "token_expires_at": instant(told["token_expires_at"])})

    def _pair(self, session: Session, worker_id: str, family: str, generation: int) -> TokenPair:
        access, refresh = new_token(Kind.ACCESS), new_token(Kind.REFRESH)
        ends = session.now + us(ACCESS_LIFE)
        for kind, token, expires_at in (
            (Kind.ACCESS, access, ends),
            (Kind.REFRESH, refresh, session.now + us(REFRESH_LIFE)),
        ):
            session.run(
                INSERT,
                {
                    "id": uuid.uuid4().hex,
                    "worker_id": worker_id,
                    "kind": kind.value,
                    "prefix": token.prefix,
                    "digest": self._vault.digest(token.text),
                    "family": family,
                    "generation": generation,
                    "expires_at": expires_at,
                    "sealed": None,
                },
            )
        return TokenPair(token=access.text, refresh_token=refresh.text, token_expires_at=instant(ends))

    def _signing(self, session: Session, worker_id: str, family: str) -> str:
        secret, id_ = secrets.token_hex(32), uuid.uuid4().hex
        values: dict[str, Any] = {"id": id_, "worker_id": worker_id, "kind": "signing", "prefix": id_, "digest": ""}
        sealed = self._vault.seal(secret.encode(), f"signing {id_}")
        session.run(INSERT, {**values, "family": family, "generation": 0, "expires_at": None, "sealed": sealed})
        return secret


def _refresh_state(session: Session, row: Row) -> RefreshState:
    place = {name: row[name] for name in ("worker_id", "family", "generation")}
    return RefreshState(
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        spent_at=row["spent_at"],
        successor_used=row["spent_at"] is not None and session.all(SUCCESSORS_USED, place)[0]["used"] > 0,
    )


_WHY = {
    Renewal.EXPIRED: "it has expired",
    Renewal.REVOKED: "it was revoked",
    Renewal.STOLEN: "it was used before, so it or its successor was stolen; this worker's credentials are all revoked",
}
