"""The grid's HTTP service as an agent speaks to it: registration, heartbeats, configuration, tokens. Plain JSON."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...grid.credentials import Credentials, Signer
from .face import ScoreTerms

CONNECT = 5.0
"""Seconds to reach the service."""
_WORKERS = "/api/v1/workers"
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})


class Away(Exception):
    """The service can't be reached, or can't answer now. The same call may be made again."""

    def __init__(self, told: str, *, retry_after: float | None = None, sent: bool = False) -> None:
        super().__init__(told)
        self.retry_after = retry_after
        """Seconds that the service asks for."""
        self.sent = sent
        """The service may have done what it was asked; only its answer is missing."""


class Refused(Exception):
    """The service says no, and would say it again."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"the grid refused it ({status} {code}): {detail}" if code else f"{status}: {detail}")
        self.status, self.code = status, code


class _Answer(BaseModel):
    """What the service says; fields of a later version are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RemoteConfig(_Answer):
    """The load control that the grid holds for this machine."""

    version: int
    config: dict[str, Any] = Field(default_factory=dict)


class Certificate(_Answer):
    """What this machine shows on the Dask network. All PEM."""

    certificate: str
    key: str
    authority: str


class Joined(_Answer):
    """What a machine is given when it registers."""

    worker_id: str
    token: str
    refresh_token: str
    signing_secret: str
    token_expires_at: datetime
    scheduler_address: str | None = None
    tls: Certificate | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    config_version: int = 0
    heartbeat_interval: float | None = None


class Terms(_Answer):
    """The reliability score and its terms, 0 to 1."""

    total: float
    success: float
    stability: float
    latency: float
    seniority: float

    @property
    def score(self) -> ScoreTerms:
        """The same for the owner."""
        return ScoreTerms(self.total, self.success, self.stability, self.latency, self.seniority)


class Heard(_Answer):
    """The answer to a heartbeat."""

    config_changed: bool = False
    config_version: int = 0
    commands: tuple[str, ...] = ()
    reliability: Terms | None = None
    heartbeat_interval: float | None = None
    token_expires_at: datetime | None = None
    scheduler_address: str | None = None


class Tokens(_Answer):
    """A new pair of tokens."""

    token: str
    refresh_token: str
    token_expires_at: datetime
    tls: Certificate | None = None


A = TypeVar("A", bound=_Answer)


class Service:
    """One grid's service. Enter it, then call; every call raises `Away` or `Refused`."""

    def __init__(
        self, url: str, *, timeout: float = 30.0, verify: bool | ssl.SSLContext = True, signer: Signer | None = None
    ) -> None:
        """`url`: base URL. `signer`: who this machine is; None before it is registered."""
        self.url = url.rstrip("/")
        self._signer = signer
        limits = httpx.Timeout(timeout, connect=min(CONNECT, timeout))
        self._http = httpx.AsyncClient(timeout=limits, verify=verify, trust_env=False, follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def register(self, enrolment: str, facts: Mapping[str, Any]) -> Joined:
        """Make this machine a worker of the grid, with an enrolment token, which is good for one."""
        answer = await self._send("POST", f"{_WORKERS}/register", facts, {"X-Enrolment-Token": enrolment})
        return _read(Joined, answer)

    async def heartbeat(self, worker_id: str, facts: Mapping[str, Any]) -> Heard:
        """A sign of life; the answer says what the grid wants."""
        return _read(Heard, await self._signed("POST", worker_id, "heartbeat", facts))

    async def config(self, worker_id: str) -> RemoteConfig:
        """The load control that the grid holds."""
        return _read(RemoteConfig, await self._signed("GET", worker_id, "config", None))

    async def put_config(self, worker_id: str, known: RemoteConfig) -> RemoteConfig:
        """Change it. Refused with 412 when `known.version` is not the one that the grid holds."""
        match = {"If-Match": f'"{known.version}"'}
        return _read(RemoteConfig, await self._signed("PUT", worker_id, "config", known.model_dump(), match))

    async def refresh(self, worker_id: str, refresh_token: str) -> Tokens:
        """Both tokens anew. The same refresh token may be shown again within a minute if the answer was lost."""
        return _read(Tokens, await self._signed("POST", worker_id, "refresh-token", {"refresh_token": refresh_token}))

    async def announce(self, worker_id: str, facts: Mapping[str, Any]) -> None:
        """Say what this machine is now, as `register` takes it."""
        await self._signed("POST", worker_id, "announce", facts)

    async def drain(self, worker_id: str) -> None:
        """Say that this machine takes nothing new."""
        await self._signed("POST", worker_id, "drain", {})

    async def offline(self, worker_id: str) -> None:
        """Say that this machine leaves, as it should: that costs nothing of its score."""
        await self._signed("POST", worker_id, "offline", {})

    async def clock(self) -> datetime | None:
        """The service's clock (aware), to the second; None when it doesn't say."""
        try:
            said = (await self._send("GET", "/healthz", None, {})).headers.get("Date")
        except Refused:
            return None
        return None if said is None else parsedate_to_datetime(said).astimezone(UTC)

    async def _signed(
        self, method: str, worker_id: str, door: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] = {}
    ) -> httpx.Response:
        path = f"{_WORKERS}/{quote(worker_id, safe='')}/{door}"
        return await self._send(method, path, body, headers, sign=True)

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        *,
        sign: bool = False,
    ) -> httpx.Response:
        content = b"" if body is None else json.dumps(body).encode()
        said = dict(headers) | ({} if body is None else {"Content-Type": "application/json"})
        if sign and self._signer is not None:
            said |= self._signer.headers(method, f"{self.url}{path}", content)
        try:
            response = await self._http.request(method, f"{self.url}{path}", content=content or None, headers=said)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise Away(f"{self.url} can't be reached ({_words(error)})") from None
        except httpx.TransportError as error:
            raise Away(f"{self.url} did not answer ({_words(error)})", sent=True) from None
        if response.status_code in _LATER:
            told = f"{self.url} can't answer now ({response.status_code})"
            raise Away(
                told, retry_after=_seconds(response.headers.get("Retry-After")), sent=response.status_code >= 500
            )
        if response.status_code >= 300:
            raise _refusal(response)
        return response


def credentials_of(joined: Joined, server: str) -> Credentials:
    """What a machine that registered must keep secret."""
    return Credentials(
        worker_id=joined.worker_id,
        server=server,
        token=joined.token,
        refresh_token=joined.refresh_token,
        signing_secret=joined.signing_secret,
        token_expires_at=joined.token_expires_at,
    )


def _read(kind: type[A], response: httpx.Response) -> A:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(response.status_code, "", f"not the answer of a grid: {where} {first['msg']}") from None


def _refusal(response: httpx.Response) -> Refused:
    try:
        said = response.json()
        code, detail = str(said.get("code", "")), str(said.get("detail") or said.get("title") or "")
    except (ValueError, AttributeError):
        code, detail = "", f"{response.url} is no grid's service, or an older one"
    return Refused(response.status_code, code, detail)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None
