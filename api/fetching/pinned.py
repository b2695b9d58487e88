"""The only way out: a name is resolved, all its addresses are checked, and one of those is dialled.

Between the check and the connection nobody asks the name again: a name that changes its mind changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import httpcore

from ...grid.addresses import Address, AddressRefused, Network, check_addresses, is_public

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port → all its addresses. Raises OSError."""
MOST_TRIED = 3
"""Addresses of a name that are dialled, one after the other."""


async def system_resolver(host: str, port: int) -> list[str]:
    """As this machine resolves names."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class PinnedNetwork(httpcore.AsyncNetworkBackend):
    """The network as httpcore sees it. Raises AddressRefused instead of connecting to what isn't public."""

    def __init__(
        self,
        resolver: Resolver = system_resolver,
        refused: Iterable[Network] = (),
        *,
        permit: Callable[[Address], bool] = is_public,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        """`permit` and `network` are for tests: which addresses are good, and who dials them."""
        self._resolver, self._refused, self._permit = resolver, tuple(refused), permit
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - of httpcore
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to one of the host's addresses. The name stays httpcore's, for TLS and the header `Host`."""
        last: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in (await self._addresses(host, port))[:MOST_TRIED]:
            try:
                return await self._network.connect_tcp(str(address), port, timeout=timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise AddressRefused("a socket of this machine is nothing to fetch from")

    async def sleep(self, seconds: float) -> None:
        """As httpcore wants it."""
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            found: Sequence[str] = [str(ipaddress.ip_address(host))]
        except ValueError:
            try:
                found = await self._resolver(host, port)
            except (OSError, UnicodeError):
                raise httpcore.ConnectError(f"the name {host} is not known") from None
        return check_addresses(host, found, self._refused, self._permit)
