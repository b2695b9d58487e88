"""Which addresses the service may fetch from on behalf of strangers. Pure: no name is resolved here.

An address of somebody's own network must never be reached through the service, however it is written: as a number in
disguise, inside an IPv6 address, behind a name, behind a redirect. What isn't known to be public is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import quote, urljoin, urlsplit

import idna

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL = 4096
PORTS = {"https": 443, "http": 80}
"""Schemes, and the one port of each."""
_UNICAST = IPv6Network("2000::/3")
"""All that is given out of IPv6: what lies elsewhere is nobody's public address."""
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
_NEVER: tuple[Network, ...] = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments: Python takes two of them for public
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    IPv4Network("168.63.129.16/32"),  # the host of every virtual machine at Azure
    IPv6Network("2001::/23"),
    IPv6Network("3fff::/20"),  # documentation, newer than some Pythons
)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_PLAIN = re.compile(r"[\x21-\x7e]*")
_SAFE = "!$%&'()*+,-./:;=?@_~[]"


class AddressRefused(ValueError):
    """The service doesn't go there. The message says why, in words for who asked."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address of the web, taken apart once: nobody else reads it anew, and differently."""

    scheme: str
    """``https`` or ``http``."""
    host: str
    """A name in ASCII, or an IP address in its usual form, without brackets."""
    path: str
    """What is asked for: path and query, in ASCII."""

    @property
    def port(self) -> int:
        return PORTS[self.scheme]

    @property
    def url(self) -> str:
        """The whole address, without what stands behind a ``#``."""
        return (
            f"{self.scheme}://[{self.host}]{self.path}"
            if ":" in self.host
            else f"{self.scheme}://{self.host}{self.path}"
        )


def target(url: str, *, allow_http: bool = False) -> Target:
    """What `url` names. Raises AddressRefused for what isn't plain https (or http) at its usual port."""
    if not 0 < len(url) <= MAX_URL:
        raise AddressRefused(f"an address has 1 to {MAX_URL:,} characters, not {len(url):,}")
    if any(letter <= " " or letter in "\\\x7f" for letter in url):
        raise AddressRefused("an address holds no spaces, no control characters and no backslashes")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressRefused(f"that is no address: {error}") from None
    schemes = ("https", "http") if allow_http else ("https",)
    if parts.scheme not in schemes:
        raise AddressRefused(f"an address begins with {' or '.join(f'{one}://' for one in schemes)}")
    if "@" in parts.netloc:
        raise AddressRefused("an address holds no user name and no password")
    if port not in (None, PORTS[parts.scheme]):
        raise AddressRefused(f"{parts.scheme} is fetched from port {PORTS[parts.scheme]}, not from {port}")
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_SAFE)
    return Target(parts.scheme, host(parts.hostname or ""), path)


def redirected(now: Target, location: str, *, allow_http: bool = False) -> Target:
    """Where a redirect leads. Raises AddressRefused as `target`, and for one that gives up TLS."""
    try:
        url = urljoin(now.url, location)
    except ValueError as error:
        raise AddressRefused(f"the redirect leads to no address: {error}") from None
    found = target(url, allow_http=allow_http)
    if now.scheme == "https" and found.scheme == "http":
        raise AddressRefused("the redirect leads from https to http")
    return found


def host(text: str) -> str:
    """A host in its usual form: letters of all alphabets become ASCII, full-width digits digits.

    Raises AddressRefused for numbers in disguise (``127.1``, ``0x7f000001``) and for what can't be a public name.
    """
    plain = text.strip("[]") if ":" in text else text
    try:
        if ":" not in plain and not (plain.isascii() and _PLAIN.fullmatch(plain)):
            plain = idna.encode(plain, uts46=True, transitional=False).decode()
    except idna.IDNAError:
        raise AddressRefused("the host's name is no name that a domain can have") from None
    try:
        return ipaddress.ip_address(plain).compressed
    except ValueError:
        return _name(plain)


def _name(text: str) -> str:
    name = text.lower().rstrip(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressRefused("the host's name is no name that a domain can have")
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        raise AddressRefused("an IP address is written in its usual form, with four decimal numbers")
    if len(labels) == 1:
        raise AddressRefused(f"{name} is no name of the public internet")
    return name


def check_addresses(
    name: str, found: Iterable[str], refused: Iterable[Network] = (), permit: Callable[[Address], bool] | None = None
) -> list[Address]:
    """All addresses of a host, as they are to be connected to. AddressRefused unless every one is public.

    One that isn't spoils the others: a name with a public and a private address is an attack, or a mistake.
    `refused`: networks that the operator excludes. `permit` replaces the rule (`is_public`).
    """
    networks, rule = tuple(refused), permit or is_public
    addresses = []
    for text in found:
        try:
            one = ipaddress.ip_address(text)
        except ValueError:
            raise AddressRefused(f"{name} has an address that is none") from None
        if not rule(one) or any(
            each.version == net.version and each in net for each in wrapped(one) for net in networks
        ):
            raise AddressRefused(f"{name} is not on the public internet, and nothing else is fetched from")
        addresses.append(one)
    if not addresses:
        raise AddressRefused(f"{name} has no address")
    return addresses


def is_public(address: Address) -> bool:
    """Whether an address, and every address that is hidden in it, is one machine of the public internet."""
    return all(_is_public(one) for one in wrapped(address))


def wrapped(address: Address) -> list[Address]:
    """The address and those of IPv4 inside it: mapped, NAT64, 6to4, Teredo's server and client, ISATAP."""
    if isinstance(address, IPv4Address):
        return [address]
    inside: list[Address] = []
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [IPv4Address(address.packed[12:])]
    if address in _6TO4:
        inside.append(IPv4Address(address.packed[2:6]))
    if address in _TEREDO and address.teredo is not None:
        inside.extend(address.teredo)
    if address.packed[8:12] in _ISATAP:
        inside.append(IPv4Address(address.packed[12:]))
    return [address, *inside]


def _is_public(address: Address) -> bool:
    if any(address.version == net.version and address in net for net in _NEVER):
        return False
    if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
        return False
    if isinstance(address, IPv6Address):
        if address.scope_id is not None or address not in _UNICAST:
            return False
        return address in _6TO4 or address.is_global  # newer Pythons call all of 6to4 private
    return address.is_global and not address.is_reserved
