"""The address of a worker's own endpoint: what a donor may say, since clients will go there. Pure; nobody is asked.

The service never follows such an address, and resolves none of its names. What it keeps out: passwords in addresses,
prompts in the clear over the internet, and a donor who sends clients to machines in their own network.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

MAX_LENGTH = 255
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_NEARBY = (".local", ".localhost", ".internal", ".lan", ".home", ".home.arpa", ".localdomain")


def check_direct_url(url: str, *, private: bool = False) -> str:
    """The address in its normal form, without a slash at the end. Raises ValueError, which says what is allowed.

    `private`: the grid and all its clients are one private network (or one machine), so addresses of such networks and
    plain http may be named too.
    """
    if len(url) > MAX_LENGTH or not url.isascii() or any(letter <= " " or letter == "\x7f" for letter in url):
        raise ValueError(f"a worker's address has at most {MAX_LENGTH} printable ASCII characters")
    parts = urlsplit(url)
    if parts.scheme not in (("https", "http") if private else ("https",)):
        raise ValueError("a worker's address begins with https://; http:// is for grids in a private network")
    if "@" in parts.netloc:
        raise ValueError("a worker's address holds no user name and no password")
    if parts.path not in ("", "/") or "?" in url or "#" in url or "\\" in url:
        raise ValueError("a worker's address ends with its port: no path, no query, no fragment")
    host = _host(parts.hostname or "", private=private)
    port = parts.port  # raises ValueError for one that can't be
    if port == 0:
        raise ValueError("a worker's port is 1 to 65535")
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def _host(host: str, *, private: bool) -> str:
    """The host as it stands in an address. A number in disguise (``127.1``, ``0x7f000001``) is no name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _name(host, private=private)
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{host} is no address of one machine")
    real = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
    if not private and not real.is_global:
        raise ValueError(f"{host} is an address of a private network, where clients can't reach a worker")
    return f"[{address.compressed}]" if address.version == 6 else address.compressed


def _name(host: str, *, private: bool) -> str:
    name = host.lower().rstrip(".")
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit() or labels[-1].startswith("0x"):
        raise ValueError("a worker's address names its host by a name or by an IP address in its usual form")
    if not private and (len(labels) == 1 or name.endswith(_NEARBY)):
        raise ValueError(f"{name} is a name of a private network, where clients can't reach a worker")
    return name
