"""Who connects: the address of a client, also behind proxies that are trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_network

from starlette.datastructures import Headers
from starlette.types import Scope

from ...grid.client_region import parse_address

FORWARDED = "x-forwarded-for"
AddressOf = Callable[[Scope], str | None]


def address_reader(trusted: Sequence[str] | None) -> AddressOf:
    """The function that tells a request's client by its ASGI scope; None where the server does not know.

    `trusted`: networks (CIDR) whose `X-Forwarded-For` is believed. The header is read from its end, where the nearest
    proxy wrote: the first address that is no trusted proxy is the client, whatever it wrote in front of it.
    """
    networks = [ip_network(network) for network in trusted or ()]

    def is_trusted(text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in network for network in networks)

    def address_of(scope: Scope) -> str | None:
        connected = scope.get("client")
        found = _plain(connected[0]) if connected else None
        if found is None or not is_trusted(found):
            return found
        hops = [hop for value in Headers(scope=scope).getlist(FORWARDED) for hop in value.split(",")]
        for hop in reversed(hops):
            address = _plain(hop)
            if address is None:
                return found  # what is no address was not written by a proxy
            found = address
            if not is_trusted(address):
                return found
        return found

    return address_of


def _plain(text: str) -> str | None:
    address = parse_address(text)
    return None if address is None else str(address)
