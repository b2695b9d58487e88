"""Who may do what: API keys with scopes and rates, workers with their tokens. Whatever is not public needs one."""

from __future__ import annotations

import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ...grid.capability import HEADER as ATTEMPT_TOKEN
from ...grid.capability import BadCapability, Capability, check
from ...grid.signing import TOKEN as WORKER_TOKEN
from ...grid.store import ApiKey, NotProved, Proof, StoreUnavailable
from ...grid.token_bucket import TokenBucket
from .errors import ApiError
from .problems import Problem, in_form, retry_after, store_unavailable
from .worker_auth import Checkpoint, Enrolling, Recognised, RegisteredWorker, Unproved, whole_body

_K = TypeVar("_K")
_V = TypeVar("_V")

JOBS, ADMIN, NODES = "jobs", "admin", "nodes"
SCOPES = frozenset({JOBS, ADMIN, NODES})
API_KEY = "X-API-Key"
PUBLIC = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect"})
"""Paths that need nothing."""
NEEDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("/api/v1/admin/", frozenset({ADMIN})),
    ("/api/v1/state", frozenset({ADMIN, NODES})),
    ("/metrics", frozenset({ADMIN})),
    ("/", frozenset({JOBS})),
)
"""The first beginning of a path that fits tells which scopes open it: one of them is enough."""
KEY_FRESH = 1.0
"""Seconds for which a key that was found is believed, so that not every request asks the database."""
MOST_KEYS = 10_000
"""Keys, and buckets of keys, that one process remembers."""
_SECRET = re.compile(r"ig_[A-Za-z0-9_-]{8}_[A-Za-z0-9_-]{43}")
_WORKERS = "/api/v1/workers"
_ATTEMPT = re.compile(rf"{_WORKERS}/([^/]+)/jobs/([^/]+)/(?:progress|complete)")
_PULL = re.compile(rf"{_WORKERS}/([^/]+)/next-job")
_OWN = re.compile(rf"{_WORKERS}/([^/]+)/(heartbeat|announce|config|refresh-token|drain|offline)")
_DEFERRED = frozenset({"heartbeat"})
"""Doors whose routes take a `Recognised`."""
REGISTER = f"{_WORKERS}/register"
_READS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks."""

    client_id: str
    """Whose jobs it makes."""
    scopes: frozenset[str]
    key_id: str | None = None
    """None: authentication is off."""

    @property
    def sees(self) -> str | None:
        """Whose jobs it sees. None: everybody's, for who has the scope `admin`."""
        return None if ADMIN in self.scopes else self.client_id


LOCAL = Principal(client_id="local", scopes=SCOPES)
"""Everybody, where authentication is off."""
FindKey = Callable[[str], Awaitable[ApiKey | None]]


class KeyRing:
    """API keys by their secrets, remembered for `KEY_FRESH` seconds, and a bucket of requests for each.

    Both are this process's own: a revoked key may live on for a second, and its rate is counted per process.
    """

    def __init__(self, find: FindKey, rate: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`rate`: requests in a minute for keys that have none of their own."""
        self._find, self._rate, self._clock = find, rate, clock
        self._known: OrderedDict[bytes, tuple[float, ApiKey]] = OrderedDict()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    async def principal(self, secret: str | None) -> Principal:
        """Who shows this secret. Raises Problem: no key, a wrong one, or one that asks too often."""
        if not secret:
            detail = f"Send an API key in the header {API_KEY}, or as Authorization: Bearer."
            raise Problem("api_key_required", detail, headers=_CHALLENGE)
        key = await self._key(secret)
        if key is None:
            raise Problem("invalid_api_key", "The key is unknown, expired or revoked.", headers=_CHALLENGE)
        self._pay(key)
        return Principal(client_id=key.client_id, scopes=key.scopes, key_id=key.id)

    def forget(self) -> None:
        """Ask the database again for every key: one was revoked."""
        self._known.clear()

    async def _key(self, secret: str) -> ApiKey | None:
        if not _SECRET.fullmatch(secret):
            return None
        digest, now = sha256(secret.encode()).digest(), self._clock()
        found_at, key = self._known.get(digest, (float("-inf"), None))
        if key is None or now - found_at > KEY_FRESH:
            key = await self._find(secret)
            if key is not None:
                _remember(self._known, digest, (now, key))
        return key

    def _pay(self, key: ApiKey) -> None:
        now, rate = self._clock(), key.requests_per_minute or self._rate
        bucket = self._buckets.get(key.id)
        if bucket is None or bucket.capacity != rate:
            bucket = TokenBucket.per_minute(rate, now)
        _remember(self._buckets, key.id, bucket)
        if wait := bucket.take(now):
            detail = f"This key may send {rate} requests a minute. Try again in {wait:.1f} s."
            raise Problem("rate_limited", detail, headers=retry_after(wait))


class Guard(Protocol):
    """Decides on a request by its head, before anything of its body is read."""

    async def admit(self, scope: Scope) -> object:
        """Who asks; None at a public path and for a worker that asks for jobs with the grid's own token.

        An `Unproved` when the body must be looked at too. Raises Problem.
        """
        ...


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """The guard of the service."""

    keys: KeyRing | None
    """None: authentication is off."""
    secret: bytes | None
    """Signs the capabilities of attempts. None: there are no doors for workers."""
    worker_token: str | None
    """With which workers that never registered ask for jobs. None: they can't."""
    workers: Checkpoint | None = None
    """Of workers that registered. None: there is no store that knows any."""

    async def admit(self, scope: Scope) -> object:
        path, headers = scope["path"], Headers(scope=scope)
        if path in PUBLIC:
            return None
        if self.workers is not None and path == REGISTER:
            return await self.workers.enrolling(scope)
        if attempt := _ATTEMPT.fullmatch(path):
            return await self._attempt(scope, attempt[1], attempt[2], headers.get(ATTEMPT_TOKEN) or "")
        if pull := _PULL.fullmatch(path):
            return await self._pull(scope, pull[1], headers.get(WORKER_TOKEN) or "")
        if self.workers is not None and (own := _OWN.fullmatch(path)):
            return await self._own(scope, own[1], own[2], headers)
        return await self._client(path, headers)

    async def _client(self, path: str, headers: Headers, wanted: frozenset[str] | None = None) -> Principal:
        who = LOCAL if self.keys is None else await self.keys.principal(_shown(headers))
        wanted = wanted or next(scopes for start, scopes in NEEDS if path.startswith(start))
        if not wanted & who.scopes:
            needed = " or ".join(sorted(wanted))
            raise Problem("scope_missing", f"This needs a key with the scope {needed}.")
        return who

    async def _own(self, scope: Scope, worker_id: str, door: str, headers: Headers) -> object:
        """What a worker says of itself. Its configuration is an administrator's affair too."""
        assert self.workers is not None
        if door == "config" and WORKER_TOKEN not in headers and (self.keys is None or _shown(headers)):
            return await self._client(scope["path"], headers, frozenset({ADMIN}))
        signed = door != "config" or scope["method"] not in _READS
        return await self.workers.admit(
            scope, worker_id, signed=signed, renews=door == "refresh-token", deferred=door in _DEFERRED
        )

    async def _attempt(self, scope: Scope, worker_id: str, job_id: str, token: str) -> object:
        """The attempt's capability; a worker that registered proves who it is as well."""
        try:
            if self.secret is None:
                raise BadCapability("there are no doors for workers here")
            capability = check(self.secret, token, datetime.now(UTC))
        except BadCapability as error:
            raise Problem("invalid_attempt_token", f"{ATTEMPT_TOKEN}: {error}.") from None
        if capability.job_id != job_id:
            raise Problem("invalid_attempt_token", f"{ATTEMPT_TOKEN}: it is for another job.")
        if self.workers is not None:
            return await self.workers.admit_if_registered(scope, worker_id, capability=capability) or capability
        return capability

    async def _pull(self, scope: Scope, worker_id: str, token: str) -> object:
        if self.workers is not None:
            registered = await self.workers.admit_if_registered(scope, worker_id)
            if registered is not None:
                return registered
        if self.worker_token is None:
            raise Problem("pull_closed", "The operator of this grid has set no api.worker_token.")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.worker_token.encode()):
            raise Problem("invalid_worker_token", f"The header {WORKER_TOKEN} does not hold this grid's worker token.")
        return None


class Gate:
    """ASGI middleware: lets in whom the guard admits, as ``request.state.who``."""

    def __init__(self, app: ASGIApp, *, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        try:
            who = await self._guard.admit(scope)
            if isinstance(who, Unproved):
                receive, body_hash = await whole_body(receive)
                who = await who.prove(body_hash)
        except (Problem, ApiError) as refusal:
            await in_form(path, refusal)(scope, receive, send)
        except StoreUnavailable:
            await in_form(path, store_unavailable())(scope, receive, send)
        except ConnectionError:  # nobody is there to be answered
            return
        else:
            scope.setdefault("state", {})["who"] = who
            await self._app(scope, receive, send)


def _is(who: object, kind: type[_V]) -> _V:
    """Who asks, as the only kind for which a route is. Raises TypeError on any other."""
    if not isinstance(who, kind):
        raise TypeError(f"a route for {kind.__name__} was reached by {type(who).__name__}: the gate has a hole")
    return who


def principal(request: Request) -> Principal:
    """Who asks, at a route for API keys."""
    return _is(request.state.who, Principal)


def capability(request: Request) -> Capability:
    """What the attempt's token allows, at a route for workers."""
    return _is(request.state.who, Capability)


def worker(request: Request) -> RegisteredWorker:
    """Which worker speaks of itself, at a route for registered workers."""
    return _is(request.state.who, RegisteredWorker)


def enrolling(request: Request) -> Enrolling:
    """The machine that registers."""
    return _is(request.state.who, Enrolling)


async def proving(request: Request, act: Callable[[Proof | None], Awaitable[_V]]) -> tuple[RegisteredWorker, _V]:
    """Which worker speaks of itself, and what `act` gives, which has the store look at the proof in its transaction.

    `act` raises NotProved when the proof doesn't hold, and then has done nothing: who it is by all that the database
    says may do it without. Raises Problem.
    """
    who = request.state.who
    if isinstance(who, Recognised):
        try:
            given = await act(who.proof)
        except NotProved:
            who = await who.otherwise()
        else:
            who.held()
            return RegisteredWorker(who.worker_id, who.token_expires_at), given
    return _is(who, RegisteredWorker), await act(None)


def _shown(headers: Headers) -> str | None:
    kind, _, secret = headers.get("authorization", "").partition(" ")
    return headers.get(API_KEY) or (secret.strip() if kind.lower() == "bearer" else None)


def _remember(table: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > MOST_KEYS:
        table.popitem(last=False)


_CHALLENGE: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="idlegrid"'}
