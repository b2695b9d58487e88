"""The route on which one session's next token comes soonest, over all layers or over those that a dead donor held."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from .capacity import Assignment, Capacity, LayerDonor
from .links import Links
from .routing import Hop, Route
from .shape import LayerRange


@dataclass(frozen=True, slots=True)
class TimedRoute:
    """A route and what one token takes on it."""

    route: Route
    seconds: float
    """From where it starts, over all hops, to where it ends: waiting, computing and half a round trip for each hop."""


@dataclass(slots=True)
class _Best:
    """The soonest way to a cut in a region."""

    seconds: float
    donor_id: str
    """Whose layers end there. Empty: this is where the token starts."""
    begun: int = 0
    """The cut at which it entered that donor."""
    source: str = ""
    """The region that it came from."""


def least_latency(
    capacity: Capacity,
    donors: Iterable[LayerDonor],
    assignment: Assignment,
    home: str,
    *,
    links: Links | None = None,
    layers: LayerRange | None = None,
    to: str | None = None,
    waits: Mapping[str, float] | None = None,
    avoid: Collection[str] = (),
) -> TimedRoute | None:
    """The soonest route from region `home` through `layers` (default: all) to region `to` (default: `home`, the head).

    For a replacement in mid-chain, `layers` are those of the lost stage, `home` and `to` its neighbours' regions: the
    answer may be several donors. A donor may be entered at any of its layers and runs to the end of what it holds or of
    `layers`. `waits` says how long a token queues at a donor, in s. None when a layer has no holder outside `avoid`.
    """
    wanted, net, queue = layers or capacity.model.whole, links or Links(), waits or {}
    entering: dict[int, list[tuple[LayerDonor, int]]] = defaultdict(list)
    for one in donors:
        held = assignment.get(one.id)
        if held is not None and held.shared(wanted) and one.rate > 0 and one.id not in avoid:
            entering[max(held.start, wanted.start)].append((one, min(held.end, wanted.end)))
    best: dict[int, dict[str, _Best]] = defaultdict(dict)
    best[wanted.start][home] = _Best(0.0, "")
    inside: list[tuple[LayerDonor, int]] = []
    for cut in wanted:
        inside = [pair for pair in inside if pair[1] > cut] + entering[cut]
        if cut in best:
            nearest = {region: _nearest(net, best[cut], region) for region in {one.region for one, _ in inside}}
            for one, end in inside:
                _relax(capacity, best, (one, cut, end), nearest[one.region], queue.get(one.id, 0.0))
    return _told(best, wanted, net, to or home)


def _nearest(net: Links, arrived: Mapping[str, _Best], region: str) -> tuple[float, str]:
    """When a token that arrived anywhere can be in `region`, and from where it comes."""
    return min((way.seconds + net.round_trip_s(source, region) / 2, source) for source, way in arrived.items())


def _relax(
    capacity: Capacity,
    best: dict[int, dict[str, _Best]],
    stage: tuple[LayerDonor, int, int],
    nearest: tuple[float, str],
    wait: float,
) -> None:
    """Let the token pass this donor from the cut on: over its access line, through its queue and layers, and back."""
    one, cut, end = stage
    computing = capacity.model.work(LayerRange(cut, end)) * one.seconds_a_layer
    seconds = nearest[0] + 2 * one.link_seconds + wait + computing
    known = best[end].get(one.region)
    if known is None or seconds < known.seconds:
        best[end][one.region] = _Best(seconds, one.id, cut, nearest[1])


def _told(best: Mapping[int, Mapping[str, _Best]], wanted: LayerRange, net: Links, to: str) -> TimedRoute | None:
    if wanted.end not in best:
        return None
    seconds, region = _nearest(net, best[wanted.end], to)
    hops: list[Hop] = []
    cut = wanted.end
    while (way := best[cut][region]).donor_id:
        hops.append(Hop(way.donor_id, LayerRange(way.begun, cut)))
        cut, region = way.begun, way.source
    return TimedRoute(Route(tuple(reversed(hops))), seconds)
