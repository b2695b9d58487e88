"""Routes for many sessions: each donor gets its share of the maximum flow, interleaved and without chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from .flow import Flow
from .shape import LayerRange


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a route."""

    donor_id: str
    layers: LayerRange
    """What the donor computes on this route: all that it holds, or a part of it."""


@dataclass(frozen=True, slots=True)
class Route:
    """Stages that compute every layer once, in order."""

    hops: tuple[Hop, ...]

    @property
    def donors(self) -> tuple[str, ...]:
        """Ids, in order of their layers."""
        return tuple(hop.donor_id for hop in self.hops)


_Node = tuple[str, int, str]
"""("start", 0, ""), ("enter", cut, region): a donor of the region is next, or ("arrive", cut, region): a region is."""


@dataclass(slots=True)
class _Way:
    """One way on from a node, and what was sent that way so far."""

    weight: float
    """Tokens/s of the flow."""
    to: _Node
    donor_id: str = ""
    """Who computes on this way; empty where only the region is chosen."""
    sent: float = 0.0

    @property
    def turn(self) -> float:
        """The lowest is next: what it will have had, over its weight."""
        return (self.sent + 1.0) / self.weight


class Router:
    """Hands out routes in proportion to a flow, by interleaved weighted round robin at every cut (as Helix does).

    Routes follow the flow's own edges, so each computes every layer once, and of n routes a donor gets its share of n
    but for a few. A session keeps its route: ask once for each session, not for each token. Not safe for threads.
    """

    def __init__(self, flow: Flow, layers: int) -> None:
        self.layers = layers
        """Of the model."""
        self._ways: dict[_Node, dict[str, _Way]] = defaultdict(dict)
        leaving: dict[tuple[int, str], float] = defaultdict(float)
        for entry in flow.entries:
            way = _Way(entry.rate, ("arrive", entry.end, entry.region), entry.donor_id)
            self._ways["enter", entry.cut, entry.region][entry.donor_id] = way
            leaving[entry.cut, entry.region] += entry.rate
        for crossing in flow.crossings:
            way = _Way(crossing.rate, ("enter", crossing.cut, crossing.target))
            self._ways["arrive", crossing.cut, crossing.source][crossing.target] = way
            leaving[crossing.cut, crossing.target] -= crossing.rate
        for (cut, region), rate in leaving.items():
            node: _Node = ("arrive", cut, region) if cut else ("start", 0, "")
            if rate > 1e-6 * flow.tokens_per_second:  # not from over a border
                self._ways[node][region] = _Way(rate, ("enter", cut, region))

    @property
    def starts(self) -> dict[str, float]:
        """The regions in which routes begin, with the tokens/s that begin there."""
        return {region: way.weight for region, way in self._ways.get(("start", 0, ""), {}).items()}

    def route(self, region: str | None = None, avoid: Collection[str] = ()) -> Route | None:
        """The next session's route: begun in `region` where the flow has any there, else where the flow wants it.

        `avoid` names donors without room for another session, or who are ill. None when every way leads over them.
        """
        ways = self._walk(("start", 0, ""), frozenset(avoid), set(), region)
        if ways is None:
            return None
        hops, at = [], 0
        for way in ways:
            way.sent += 1.0
            if way.donor_id:
                hops.append(Hop(way.donor_id, LayerRange(at, way.to[1])))
                at = way.to[1]
        return Route(tuple(hops))

    def _walk(self, node: _Node, avoid: frozenset[str], dead: set[_Node], first: str | None) -> list[_Way] | None:
        """The ways from here to the last layer, each the one whose turn it is, if it leads there."""
        if node[1] == self.layers:
            return []
        ways = self._ways.get(node, {})
        for name in sorted(ways, key=lambda name: (name != first, ways[name].turn, name)):
            way = ways[name]
            if way.donor_id not in avoid and way.to not in dead:
                rest = self._walk(way.to, avoid, dead, None)
                if rest is not None:
                    return [way, *rest]
        dead.add(node)
        return None

    def renewed(self, flow: Flow) -> Router:
        """A router for a new flow that goes on where this one is: balances are kept, newcomers begin at the lowest."""
        new = Router(flow, self.layers)
        for node, ways in new._ways.items():
            known = self._ways.get(node, {})
            ages = {name: known[name].sent / known[name].weight for name in ways if name in known}
            for name, age in ages.items():
                ways[name].sent = (age - min(ages.values())) * ways[name].weight
        return new
