"""Which donors are near each other: round trips that links have measured, and what follows for those that have none."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from .capacity import LayerDonor
from .links import Links

EXACT = 7
"""Chains of up to so many stages are ordered by trying all orders; longer ones by improving one."""


@dataclass(frozen=True, slots=True)
class Near:
    """Round trips between donors. Costs nothing for pairs that never met: only links that exist are measured."""

    links: Links = field(default_factory=Links)
    """Between regions: of those that were measured, the median of their donors' pairs."""
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Measured: donor ids in order → seconds."""

    def round_trip_s(self, a: LayerDonor, b: LayerDonor) -> float:
        """A round trip between two donors, in s; 0 for a donor and itself."""
        if a.id == b.id:
            return 0.0
        measured = self.pairs.get(_pair(a.id, b.id))
        if measured is not None:
            return measured
        return self.links.round_trip_s(a.region, b.region) + 2 * (a.link_seconds + b.link_seconds)

    def ring_s(self, chain: Sequence[LayerDonor]) -> float:
        """What a token spends between the stages of a chain, in s: one way each, and from the last, where the head is,
        back to the first."""
        following = [*chain[1:], chain[0]]
        return sum(self.round_trip_s(a, b) for a, b in zip(chain, following, strict=True)) / 2

    def ring(self, chain: Sequence[LayerDonor]) -> list[LayerDonor]:
        """The same donors, the first one first, in the order in which a token spends the least between them.

        The least of all orders up to `EXACT` donors; beyond, what no turning round of a part makes better.
        """
        if len(chain) <= 3:  # a ring of three is the same both ways round
            return list(chain)
        first, rest = chain[0], chain[1:]
        if len(chain) <= EXACT:
            return min(([first, *order] for order in permutations(rest)), key=self.ring_s)
        return self._turned(self._greedy(chain))

    def _greedy(self, chain: Sequence[LayerDonor]) -> list[LayerDonor]:
        """Each time the nearest of those that are left."""
        found, left = [chain[0]], list(chain[1:])
        while left:
            nearest = min(left, key=lambda one: (self.round_trip_s(found[-1], one), one.id))
            found.append(nearest)
            left.remove(nearest)
        return found

    def _turned(self, ring: list[LayerDonor]) -> list[LayerDonor]:
        """Parts of it turned round while that makes it shorter (2-opt)."""
        better = True
        while better:
            better, now = False, self.ring_s(ring)
            for start in range(1, len(ring) - 1):
                for stop in range(start + 2, len(ring) + 1):
                    other = ring[:start] + ring[start:stop][::-1] + ring[stop:]
                    if self.ring_s(other) < now - 1e-9:
                        ring, now, better = other, self.ring_s(other), True
        return ring


def near(regions: Mapping[str, str], told: Mapping[str, Mapping[str, float]]) -> Near:
    """From what donors tell: `regions` of all that are here, and for those that have links, donor id → seconds.

    What both ends of a pair tell is the same link: the shorter counts, the other has waited somewhere. A pair whose
    end is not here tells nothing.
    """
    pairs: dict[tuple[str, str], float] = {}
    for one, its in told.items():
        for other, seconds in its.items():
            if one != other and one in regions and other in regions and 0 <= seconds < math.inf:
                pair = _pair(one, other)
                pairs[pair] = min(seconds, pairs.get(pair, math.inf))
    between: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (a, b), seconds in pairs.items():
        between[_pair(regions[a], regions[b])].append(seconds)
    return Near(Links(round_trips_s={pair: statistics.median(all_) for pair, all_ in between.items()}), pairs)


def nearest_first(among: Near, start: LayerDonor, others: Iterable[LayerDonor]) -> list[LayerDonor]:
    """The others by how far they are from `start`; those that are equally far keep their order."""
    return sorted(others, key=lambda one: among.round_trip_s(start, one))


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a <= b else (b, a)
