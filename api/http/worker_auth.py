"""Who speaks for a worker that registered: its token, its signature over the raw request, and each request once."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from ...grid.capability import Capability
from ...grid.lockout import Lockout
from ...grid.signing import TOKEN, BadSignature, ClockSkew, Signature, check, read_signature
from ...grid.store import BadEnrolment, Proof, Standing
from ..logs import logger
from .acquaintances import Acquaintance, Acquaintances
from .client_address import AddressOf
from .errors import ApiError
from .jobs_door import JobDoor
from .problems import Problem, retry_after
from .worker_bodies import NAME

log = logger(__name__)

ENROLMENT_TOKEN = "X-Enrolment-Token"  # noqa: S105 - the header's name
ENROLLING = "enrolment"
"""What a machine that registers claims to be, for the lock-out."""
STRANGERS_FRESH = 60.0
"""Seconds for which an id is remembered as one without credentials. An id that has none never gets any."""
MOST_STRANGERS = 10_000
_ID = re.compile(NAME)


@dataclass(frozen=True, slots=True)
class Enrolling:
    """A machine that shows an enrolment token which was good when it was looked at."""

    token: str


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """A worker that proved who it is."""

    worker_id: str
    token_expires_at: datetime | None = None
    """Of the access token that it showed; None: it showed none that is good."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """A worker that this process knows, whose signature is right. The route has the store look at its `proof` in the
    transaction that does what is asked, and tells what came of that.
    """

    worker_id: str
    token_expires_at: datetime | None
    proof: Proof
    held: Callable[[], None]
    """The store took the proof."""
    otherwise: Callable[[], Awaitable[object]]
    """The store did not: who it is by all that the database says. Raises Problem."""


@dataclass(frozen=True, slots=True)
class Unproved:
    """Somebody whose head was good, and whose signature covers a body that is still to be read."""

    prove: Callable[[str], Awaitable[object]]
    """Takes the body's hex SHA-256, tells who it is. Raises Problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """What a route wants to know of who speaks for a worker."""

    capability: Capability | None = None
    signed: bool = True
    renews: bool = False
    deferred: bool = False

    def who(self, worker_id: str, token_expires_at: datetime | None) -> object:
        """Who asks, once that is proved."""
        return self.capability or RegisteredWorker(worker_id, token_expires_at)


class Checkpoint:
    """Decides on requests that speak for workers. One a process; its locks are this process's own."""

    def __init__(
        self,
        door: JobDoor,
        address_of: AddressOf,
        *,
        lockout: Lockout | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._door, self._address_of = door, address_of
        self._lockout, self._clock = lockout or Lockout(), clock
        self._strangers: OrderedDict[str, float] = OrderedDict()
        self._known = Acquaintances()

    def unlock(self, worker_id: str) -> None:
        """Forget all failures for this worker."""
        self._lockout.unlock(worker_id)

    async def enrolling(self, scope: Scope) -> Enrolling:
        """Who registers. Raises Problem."""
        token = Headers(scope=scope).get(ENROLMENT_TOKEN) or ""
        try:
            await self._door.call(self._door.store.enrolments.check, token)
        except BadEnrolment as error:
            told = f"{ENROLMENT_TOKEN}: {error}. An administrator makes one with `idlegrid admin enroll`."
            raise self._failure(scope, ENROLLING, "invalid_enrolment_token", told) from None
        self._lockout.succeeded(ENROLLING, self._address_of(scope))
        return Enrolling(token)

    async def admit_if_registered(
        self, scope: Scope, worker_id: str, *, capability: Capability | None = None
    ) -> object | None:
        """As `admit`; None for an id that has no credentials, so that others may decide.

        `capability`: of the attempt that it speaks of; who asks is then this, once the worker has proved who it is.
        """
        found_at = self._strangers.get(worker_id)
        if found_at is not None and self._clock() - found_at < STRANGERS_FRESH:
            return None
        how = _How(capability=capability)
        if (known := self._recognised(scope, worker_id, how)) is not None:
            return known
        standing = await self._find(scope, worker_id)
        if standing is not None and standing.registered:
            return self._admit(scope, worker_id, standing, how)
        self._strangers[worker_id] = self._clock()
        if len(self._strangers) > MOST_STRANGERS:
            self._strangers.popitem(last=False)
        return None

    async def admit(
        self, scope: Scope, worker_id: str, *, signed: bool = True, renews: bool = False, deferred: bool = False
    ) -> object:
        """The worker, or an `Unproved` that will be, for a request that speaks for it. Raises Problem.

        `signed`: it must be signed; a signature that is there is looked at in any case. `renews`: it shows a refresh
        token, for which the access token need not be good any more. `deferred`: the route takes a `Recognised` too.
        """
        how = _How(signed=signed, renews=renews, deferred=deferred)
        if (known := self._recognised(scope, worker_id, how)) is not None:
            return known
        return self._admit(scope, worker_id, await self._find(scope, worker_id), how)

    def _recognised(self, scope: Scope, worker_id: str, how: _How) -> Unproved | None:
        """A worker that this process knows, if that can help. None: what the database says is needed at once."""
        if how.renews or (known := self._known.get(worker_id, _token(scope))) is None:
            return None
        return Unproved(partial(self._prove_known, scope, known, how))

    async def _prove_known(self, scope: Scope, known: Acquaintance, how: _How, body_hash: str) -> object:
        """One look at the database at most, and none at what is decided by `otherwise`: everything that is not as it
        was when the worker was met.
        """

        async def otherwise() -> object:
            self._known.forget(known.worker_id)
            standing = await self._find(scope, known.worker_id)
            found = self._admit(scope, known.worker_id, standing, how)
            return await found.prove(body_hash) if isinstance(found, Unproved) else found

        def held() -> None:
            self._lockout.succeeded(known.worker_id, self._address_of(scope))

        proof = self._proof(scope, known, body_hash)
        if proof is None:
            return await otherwise()
        if how.deferred:
            return Recognised(known.worker_id, known.token_expires_at, proof, held, otherwise)
        if not await self._door.call(self._door.store.nonces.prove, known.worker_id, proof):
            return await otherwise()
        held()
        return how.who(known.worker_id, known.token_expires_at)

    def _proof(self, scope: Scope, known: Acquaintance, body_hash: str) -> Proof | None:
        try:
            signature = read_signature(scope["headers"])
            if signature is None:
                return None
            nonce = self._check(scope, known.worker_id, known.key, signature, body_hash)
        except BadSignature:
            return None
        return Proof(token=known.token_id, key=known.key_id, nonce=nonce)

    async def _find(self, scope: Scope, worker_id: str) -> Standing | None:
        if not _ID.fullmatch(worker_id):
            return None
        return await self._door.call(self._door.store.credentials.find, worker_id, _token(scope))

    def _admit(self, scope: Scope, worker_id: str, standing: Standing | None, how: _How) -> object:
        try:
            signature = read_signature(scope["headers"])
        except BadSignature as error:
            raise self._failure(scope, worker_id, "invalid_signature", f"{error}.", standing) from None
        if standing is None or standing.key is None or not (how.renews or standing.token):
            raise self._failure(scope, worker_id, "invalid_worker_token", _why(standing), standing)
        who = how.who(worker_id, standing.token_expires_at)
        if signature is None:
            if how.signed:
                told = "This request must be signed: send X-Signature, X-Timestamp and X-Nonce."
                raise self._failure(scope, worker_id, "invalid_signature", told, standing)
            self._passed(scope, standing)
            return who
        key = standing.key

        async def prove(body_hash: str) -> object:
            await self._prove(scope, standing, key, signature, body_hash)
            return who

        return Unproved(prove)

    def _check(self, scope: Scope, worker_id: str, key: bytes, signature: Signature, body_hash: str) -> str:
        """What is in no other request. Raises BadSignature."""
        return check(
            key,
            signature,
            key_id=worker_id,
            method=scope["method"],
            host=Headers(scope=scope).get("host", ""),
            raw_path=scope["raw_path"],
            raw_query=scope["query_string"],
            body_hash=body_hash,
            now=self._clock(),
        )

    async def _prove(self, scope: Scope, standing: Standing, key: bytes, signature: Signature, body_hash: str) -> None:
        try:
            nonce = self._check(scope, standing.worker_id, key, signature, body_hash)
        except ClockSkew as error:  # who holds the secret is no stranger, and must read this every time
            raise Problem("clock_skew", f"{error}.") from None
        except BadSignature as error:
            raise self._failure(scope, standing.worker_id, "invalid_signature", f"{error}.", standing) from None
        if not await self._door.call(self._first_time, standing, nonce):
            raise Problem("replayed", "This very request was accepted before: sign every request anew.")
        self._passed(scope, standing)
        self._known.meet(standing, _token(scope))

    def _first_time(self, standing: Standing, nonce: str) -> bool:
        """Whether the request is new; remembers it, and that its token arrived. Blocks: for threads."""
        if not self._door.store.nonces.use(standing.worker_id, nonce):
            return False
        if standing.token is not None and standing.unshown:
            self._door.store.credentials.shown(standing.token)
        return True

    def _passed(self, scope: Scope, standing: Standing) -> None:
        """It is who it says. Raises Problem for one that is blocked all the same."""
        self._lockout.succeeded(standing.worker_id, self._address_of(scope))
        if standing.blocked:
            raise Problem("worker_blocked", "An administrator of this grid has blocked this worker.")

    def _failure(self, scope: Scope, claimed: str, code: str, detail: str, standing: Standing | None = None) -> Problem:
        """What a request is answered that did not prove what it claimed: the same for every claim."""
        address, now = self._address_of(scope), self._clock()
        claimed = claimed if _ID.fullmatch(claimed) else ""  # what can be nobody's id is not worth remembering
        wait = self._lockout.failed(claimed, address, now)
        locked_at = self._lockout.since(claimed, address)
        if wait and standing is not None and locked_at is not None and standing.unlocked_at > locked_at:
            self._lockout.unlock(claimed)
            wait = self._lockout.failed(claimed, address, now)
        if not wait:
            return Problem(code, detail, headers=_CHALLENGE)
        told = f"Too many failed authentications from this address. Try again in {wait:.0f} s; a valid token opens now."
        return Problem("locked_out", told, headers=retry_after(wait))


def _token(scope: Scope) -> str:
    return Headers(scope=scope).get(TOKEN) or ""


def _why(standing: Standing | None) -> str:
    if standing is not None and standing.why:
        return f"{TOKEN}: {standing.why}. Refresh it, or join again with a new enrolment token."
    return f"The header {TOKEN} does not hold this worker's token."


async def whole_body(receive: Receive) -> tuple[Receive, str]:
    """The body of a request read and hashed, and a `receive` that gives it once more.

    Raises ApiError for one that is too large, ConnectionError when the client has hung up.
    """
    digest, parts = sha256(), []
    while True:
        try:
            message = await receive()
        except HTTPException as error:
            raise ApiError(413, str(error.detail), code="request_too_large", headers=error.headers) from None
        if message["type"] != "http.request":
            raise ConnectionError("the client hung up before its request was whole")
        parts.append(message.get("body", b""))
        digest.update(parts[-1])
        if not message.get("more_body", False):
            break
    whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again, digest.hexdigest()


_CHALLENGE = {"WWW-Authenticate": 'IdlegridWorker realm="idlegrid"'}
