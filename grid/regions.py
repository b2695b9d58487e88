"""The seven regions and how far apart they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .suggest import did_you_mean


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the world with short ways inside it."""

    code: str
    """What configuration, jobs and answers say."""
    name: str
    """For people."""


REGIONS: Mapping[str, Region] = MappingProxyType(
    {
        code: Region(code, name)
        for code, name in (
            ("asia-east", "East Asia"),
            ("asia-south", "South and South-East Asia"),
            ("europe-west", "Western Europe"),
            ("europe-east", "Eastern Europe"),
            ("america-north", "North America"),
            ("america-south", "South America"),
            ("oceania", "Oceania"),
        )
    }
)

# Typical round trips between large data centres of the two regions, in ms, beyond the round trip inside one region.
# Rounded to 10: they order the regions, they don't predict a connection.
_ROUND_TRIP_MS = {
    ("asia-east", "asia-south"): 80,
    ("asia-east", "europe-west"): 220,
    ("asia-east", "europe-east"): 230,
    ("asia-east", "america-north"): 150,
    ("asia-east", "america-south"): 270,
    ("asia-east", "oceania"): 120,
    ("asia-south", "europe-west"): 130,
    ("asia-south", "europe-east"): 150,
    ("asia-south", "america-north"): 210,
    ("asia-south", "america-south"): 300,
    ("asia-south", "oceania"): 140,
    ("europe-west", "europe-east"): 40,
    ("europe-west", "america-north"): 90,
    ("europe-west", "america-south"): 190,
    ("europe-west", "oceania"): 260,
    ("europe-east", "america-north"): 120,
    ("europe-east", "america-south"): 220,
    ("europe-east", "oceania"): 280,
    ("america-north", "america-south"): 120,
    ("america-north", "oceania"): 180,
    ("america-south", "oceania"): 300,
}
_FARTHEST_MS = max(_ROUND_TRIP_MS.values())
_DISTANCE = {(a, b): ms / _FARTHEST_MS for pair, ms in _ROUND_TRIP_MS.items() for a, b in (pair, pair[::-1])}
_DISTANCE |= {(code, code): 0.0 for code in REGIONS}

FARTHEST_NEARNESS = 0.1
"""Nearness of the two regions that lie farthest apart: far work is a last resort, never impossible."""


class UnknownRegionError(ValueError):
    """A region code that is none of the seven."""

    def __init__(self, code: str) -> None:
        super().__init__(f"unknown region {code!r}; known: {', '.join(REGIONS)}.{did_you_mean(code, REGIONS)}")


def check_region(code: str) -> str:
    """`code` itself if it is one of the seven; raises UnknownRegionError otherwise."""
    if code not in REGIONS:
        raise UnknownRegionError(code)
    return code


def distance(a: str, b: str) -> float:
    """How far apart two regions are: 0 (the same) to 1 (the farthest pair), symmetric. Raises UnknownRegionError."""
    try:
        return _DISTANCE[a, b]
    except KeyError:
        raise UnknownRegionError(b if a in REGIONS else a) from None


def round_trip_ms(a: str, b: str) -> float:
    """A typical round trip between the two regions beyond the one inside a region, in ms. Raises UnknownRegionError."""
    return distance(a, b) * _FARTHEST_MS


def nearness(a: str | None, b: str) -> float:
    """The factor that closeness gives to a score, in (0, 1]: 1 in the same region and when `a` is None (anywhere)."""
    return 1.0 if a is None else 1.0 - (1.0 - FARTHEST_NEARNESS) * distance(a, b)
