"""Lock-out: who fails too often is not listened to for a while, alone and from one address.

A counter belongs to a pair of what was claimed (a worker's id) and where from, so a stranger who fails for a worker
locks out nobody but himself. It decides on failures only: a valid token is looked at first, and always opens.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TypeVar

_K = TypeVar("_K")

FAILURES = 5
"""In a row, by one pair; the next ones are not listened to."""
FAILURES_OF_ADDRESS = 100
"""By one address, whatever it claimed."""
SECONDS = 15 * 60.0
"""For which a lock holds, and for which failures are counted together."""
MOST = 100_000
"""Pairs, and addresses, that are remembered; the ones that were seen longest ago are forgotten first."""


def network_of(address: str | None) -> str:
    """Whom an address stands for: itself in IPv4, its /64 in IPv6, where everybody has that many; '' for none."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return ""
    mapped = getattr(found, "ipv4_mapped", None)
    if found.version == 4 or mapped is not None:
        return str(mapped or found)
    return str(ip_network(f"{found}/64", strict=False))


@dataclass(slots=True)
class _Count:
    failures: int
    since: float


class Lockout:
    """The counters of one process. `now`: seconds of any clock; a lock does not outlast one that is set back."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, str], _Count] = OrderedDict()
        self._addresses: OrderedDict[str, _Count] = OrderedDict()

    def failed(self, claimed: str, address: str | None, now: float) -> float:
        """Note a failure. Seconds until this pair is listened to again; 0: it may try again at once."""
        place = network_of(address)
        by_pair = _up(self._pairs, (claimed, place), FAILURES, now)
        return max(by_pair, _up(self._addresses, place, FAILURES_OF_ADDRESS, now))

    def succeeded(self, claimed: str, address: str | None) -> None:
        """The pair was right: its failures are no row any more."""
        self._pairs.pop((claimed, network_of(address)), None)

    def unlock(self, claimed: str) -> None:
        """Forget all failures that claimed this, wherever they came from."""
        for pair in [pair for pair in self._pairs if pair[0] == claimed]:
            del self._pairs[pair]

    def since(self, claimed: str, address: str | None) -> float | None:
        """When the pair failed first, of what is counted now."""
        count = self._pairs.get((claimed, network_of(address)))
        return None if count is None else count.since


def _up(table: OrderedDict[_K, _Count], key: _K, most: int, now: float) -> float:
    """Count a failure; the seconds of the lock that holds against it. A lock begins with the last free failure."""
    count = table.get(key)
    if count is None or not 0 <= now - count.since < SECONDS:
        count = table[key] = _Count(0, now)
    table.move_to_end(key)
    if len(table) > MOST:
        table.popitem(last=False)
    if count.failures >= most:
        return count.since + SECONDS - now
    count.failures += 1
    if count.failures == most:
        count.since = now
    return 0.0
