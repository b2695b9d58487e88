"""Fetches one address within limits: redirects by hand, bytes counted as they come, known by what they are."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import httpcore
import httpx

from ...grid.addresses import AddressRefused, Target, redirected, target
from ...grid.config.fetch import Fetch
from ...grid.sniffing import HEAD, OF_KIND, Kind, is_kind
from .pinned import PinnedNetwork

MB = 1_000_000
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = [
    ("User-Agent", "idlegrid"),
    ("Accept", "*/*"),
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
]


class FetchRefused(ValueError):
    """The client asked for what isn't fetched. The message says what, and what to do."""


class FetchFailed(Exception):
    """The other side did not answer as it should: another try may do better."""


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much one address may cost."""

    max_bytes: int = 50 * MB
    """Counted as they come, whatever the header says."""
    seconds: float = 30.0
    """For all of it: names, connections, redirects, bytes."""
    connect_seconds: float = 5.0
    """For one connection, with TLS."""
    max_redirects: int = 3
    allow_http: bool = False


class Fetched(Protocol):
    """Who fetches."""

    limits: FetchLimits

    async def fetch(self, url: str, *, kind: Kind, limits: FetchLimits | None = None) -> bytes:
        """See `Fetcher.fetch`."""


class Fetcher:
    """One a service: it bounds how much is fetched at the same time."""

    def __init__(
        self,
        limits: FetchLimits | None = None,
        *,
        enabled: bool = True,
        most: int = 8,
        network: PinnedNetwork | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`most`: addresses at the same time. `network` and `tls` are for tests, which fetch from themselves."""
        self.limits, self.enabled = limits or FetchLimits(), enabled
        self._network, self._tls = network or PinnedNetwork(), tls
        self._places = asyncio.Semaphore(most)

    @classmethod
    def from_settings(cls, settings: Fetch) -> Fetcher:
        """As the operator wants it."""
        limits = FetchLimits(int(settings.max_mb * MB), settings.timeout, allow_http=settings.allow_http)
        refused = [ipaddress.ip_network(one) for one in settings.refused_networks or ()]
        network = PinnedNetwork(refused=refused)
        return cls(limits, enabled=settings.enabled, most=settings.max_concurrent, network=network)

    async def fetch(self, url: str, *, kind: Kind, limits: FetchLimits | None = None) -> bytes:
        """The file behind `url`, which is sound (``audio``) or a picture (``image``) by its first bytes.

        Raises FetchRefused for an address that isn't fetched from or a file that isn't taken, FetchFailed when the
        other side doesn't answer, breaks off or takes too long.
        """
        if not self.enabled:
            raise FetchRefused("this service fetches no addresses (setting fetch.enabled); send the file as Base64")
        limits = limits or self.limits
        try:
            async with asyncio.timeout(limits.seconds), self._places:
                return await self._follow(target(url, allow_http=limits.allow_http), kind, limits)
        except AddressRefused as error:
            raise FetchRefused(str(error)) from None
        except TimeoutError:
            raise FetchFailed(f"the file did not come within {limits.seconds:g} s") from None
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise FetchFailed(f"no connection to the address: {_brief(error)}") from None
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
            raise FetchFailed(f"the other side broke off: {_brief(error)}") from None

    async def _follow(self, now: Target, kind: Kind, limits: FetchLimits) -> bytes:
        for _ in range(limits.max_redirects + 1):
            async with self._answer(now, limits) as answer:
                if answer.status not in _REDIRECTS:
                    return await _content(answer, kind, limits)
                now = redirected(now, _header(answer, b"location"), allow_http=limits.allow_http)
        raise FetchRefused(f"the address leads on more than {limits.max_redirects} times; name the file itself")

    @asynccontextmanager
    async def _answer(self, to: Target, limits: FetchLimits) -> AsyncIterator[httpcore.Response]:
        """One request on a connection of its own: no cookie, no proxy, no credential, nothing of the last one."""
        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        url = httpcore.URL(scheme=to.scheme, host=to.host, port=to.port, target=to.path)
        patience = {"connect": limits.connect_seconds, "read": limits.seconds, "write": limits.seconds}
        async with (
            httpcore.AsyncConnectionPool(self._tls, http2=False, retries=0, network_backend=self._network) as pool,
            pool.stream("GET", url, headers=_HEADERS, extensions={"timeout": patience}) as answer,
        ):
            yield answer


async def _content(answer: httpcore.Response, kind: Kind, limits: FetchLimits) -> bytes:
    if answer.status != 200:
        raise FetchFailed(f"the other side answered with status {answer.status}")
    if (coding := _header(answer, b"content-encoding").lower()) not in ("", "identity"):
        raise FetchRefused(f"the file comes compressed ({coding[:40]}), which was not asked for")
    said = _header(answer, b"content-length")
    if said.isdigit() and int(said[:20]) > limits.max_bytes:
        raise _too_large(limits)
    data, known = bytearray(), False
    async for piece in answer.aiter_stream():
        data += piece
        if len(data) > limits.max_bytes:
            raise _too_large(limits)
        if not known and len(data) >= HEAD:
            _check(data, kind)
            known = True
    _check(data, kind)
    return bytes(data)


def _check(data: bytearray, kind: Kind) -> None:
    if not is_kind(bytes(data[:HEAD]), kind):
        formats = ", ".join(sorted(OF_KIND[kind]))
        raise FetchRefused(f"behind the address is no {kind} of a known format: {formats}")


def _too_large(limits: FetchLimits) -> FetchRefused:
    return FetchRefused(f"the file has more than {limits.max_bytes:,} bytes (setting fetch.max_mb)")


def _header(answer: httpcore.Response, name: bytes) -> str:
    return next((value for key, value in answer.headers if key.lower() == name), b"").decode("latin-1").strip()


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
