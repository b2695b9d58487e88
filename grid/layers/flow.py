"""The maximum flow of tokens through the layers that donors hold, region first, by scipy's Dinic.

The graph is Helix's (Mei et al., 2024) with nodes for layer cuts instead of pairs of donors: a donor takes one inner
edge, its tokens/s, and an edge from each cut at which its layers may be entered, so edges grow with the number of
layers held, not with the square of the donors. A token that enters in mid-range counts at the full range's rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .capacity import Assignment, Capacity, LayerDonor
from .links import Links

Ints = npt.NDArray[np.int64]
_RESOLUTION = 2**28
"""Capacities are int32 for scipy: the most that can start is scaled to this, so a step is less than 4e-9 of it."""


class ScipyMissingError(ImportError):
    """Layers can't be placed without scipy."""

    def __init__(self) -> None:
        super().__init__("placing a model's layers needs scipy, which is not installed: pip install 'idlegrid[api]'")


@dataclass(frozen=True, slots=True)
class Entry:
    """Tokens that enter a donor's layers at a cut."""

    cut: int
    """The first layer that the donor computes for them."""
    region: str
    """The donor's."""
    donor_id: str
    end: int
    """The cut at which they leave the donor."""
    rate: float
    """Tokens/s."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Tokens that pass from a region to another one at a cut."""

    cut: int
    source: str
    target: str
    rate: float
    """Tokens/s."""


@dataclass(frozen=True, slots=True)
class Flow:
    """How tokens pass through an assignment when it carries the most that it can."""

    tokens_per_second: float = 0.0
    inside: float = 0.0
    """Tokens/s that the regions carry each by itself; the rest is spill over their borders."""
    entries: tuple[Entry, ...] = ()
    crossings: tuple[Crossing, ...] = ()


@dataclass(frozen=True, slots=True)
class _Graph:
    """Nodes: 0 source, 1 sink, an arrival and a departure for each (cut, region), an in and an out for each stage."""

    regions: list[str]
    cuts: Ints
    """The cuts at which tokens can be handed over: before layer 0, and every end of a stage. Ascending."""
    starts: Ints
    """Of each stage: index into `cuts` of the first cut at which it can be entered."""
    ends: Ints
    """Of each stage: index into `cuts` of its end."""
    places: Ints
    """Of each stage: index into `regions`."""
    rates: npt.NDArray[np.float64]
    """Of each stage: tokens/s."""

    @property
    def spots(self) -> int:
        return len(self.cuts) * len(self.regions)

    @property
    def size(self) -> int:
        return 2 + 2 * self.spots + 2 * len(self.rates)

    def arrival(self, cut: Any, region: Any) -> Any:
        return 2 + cut * len(self.regions) + region

    def departure(self, cut: Any, region: Any) -> Any:
        return 2 + self.spots + cut * len(self.regions) + region

    def into(self, stage: Any) -> Any:
        return 2 + 2 * self.spots + stage

    def out_of(self, stage: Any) -> Any:
        return 2 + 2 * self.spots + len(self.rates) + stage


def max_flow(
    capacity: Capacity, donors: Iterable[LayerDonor], assignment: Assignment, links: Links | None = None
) -> Flow:
    """The most tokens/s that `assignment` carries, and how they pass: first inside the regions, then between them.

    Regions are served by themselves as far as they can; what they can't is added by augmenting that flow over their
    borders, so the whole is a maximum. Zero when a layer is missing. Raises ScipyMissingError.
    """
    stages = [(one, assignment[one.id]) for one in donors if one.id in assignment and one.rate > 0]
    starting = sum(capacity.tokens_per_second(one, layers) for one, layers in stages if layers.start == 0)
    if not starting:
        return Flow()
    graph = _graph(capacity, stages)
    unit = starting / _RESOLUTION
    solved, inside = _solve(graph, _between(graph, capacity, links or Links(), unit), unit)
    total = int(solved[[0], :].sum())
    return Flow(total * unit, inside * unit, *_told(graph, stages, solved, unit)) if total else Flow()


def _graph(capacity: Capacity, stages: Sequence[tuple[LayerDonor, Any]]) -> _Graph:
    regions = sorted({one.region for one, _ in stages})
    starts, ends = (np.array([getattr(layers, side) for _, layers in stages]) for side in ("start", "end"))
    cuts = np.unique(np.concatenate([ends, [0, capacity.model.layers]]))
    rates = np.array([capacity.tokens_per_second(one, layers) for one, layers in stages])
    index = {region: place for place, region in enumerate(regions)}
    places = np.array([index[one.region] for one, _ in stages])
    return _Graph(regions, cuts, np.searchsorted(cuts, starts), np.searchsorted(cuts, ends), places, rates)


def _inside(graph: _Graph, unit: float) -> list[tuple[Any, Any, Any]]:
    """All edges but those between regions: (from, to, capacity), each a number or an array."""
    stages, regions, last = np.arange(len(graph.rates)), np.arange(len(graph.regions)), len(graph.cuts) - 1
    counts = graph.ends - graph.starts
    owners = np.repeat(stages, counts)
    entered = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + graph.starts[owners]
    spots = np.arange(graph.spots)
    rates = np.minimum(graph.rates / unit, _RESOLUTION)
    return [
        (0, graph.departure(0, regions), _RESOLUTION),
        (graph.arrival(last, regions), 1, _RESOLUTION),
        (graph.arrival(0, spots), graph.departure(0, spots), _RESOLUTION),
        (graph.departure(entered, graph.places[owners]), graph.into(owners), _RESOLUTION),
        (graph.into(stages), graph.out_of(stages), rates),
        (graph.out_of(stages), graph.arrival(graph.ends, graph.places), _RESOLUTION),
    ]


def _between(graph: _Graph, capacity: Capacity, links: Links, unit: float) -> list[tuple[Any, Any, Any]]:
    """The edges between regions, at every inner cut."""
    cuts = np.arange(1, len(graph.cuts) - 1)
    edges: list[tuple[Any, Any, Any]] = []
    for a, source in enumerate(graph.regions):
        for b, target in enumerate(graph.regions):
            tokens = links.bytes_per_second(source, target) / capacity.model.activation_bytes
            if a != b and tokens:
                edges.append((graph.arrival(cuts, a), graph.departure(cuts, b), min(tokens / unit, _RESOLUTION)))
    return edges


def _matrix(graph: _Graph, edges: Sequence[tuple[Any, Any, Any]]) -> Any:
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise ScipyMissingError from error
    tails, heads, capacities = zip(*(np.broadcast_arrays(*edge) for edge in edges), strict=True)
    data = np.concatenate([one.ravel() for one in capacities]).astype(np.int32)
    where = tuple(np.concatenate([one.ravel() for one in ends]).astype(np.int32) for ends in (tails, heads))
    return csr_array((data, where), shape=(graph.size, graph.size))


def _solve(graph: _Graph, between: list[tuple[Any, Any, Any]], unit: float) -> tuple[Any, int]:
    """The maximum flow as a matrix (negative against an edge's direction), and its part inside regions, in units."""
    inside = _matrix(graph, _inside(graph, unit))
    from scipy.sparse.csgraph import maximum_flow

    first = maximum_flow(inside, 0, 1)
    if not between:
        return first.flow, int(first.flow_value)
    rest = (inside + _matrix(graph, between) - first.flow).astype(np.int32)
    second = maximum_flow(rest, 0, 1)
    return first.flow + second.flow, int(first.flow_value)


def _told(
    graph: _Graph, stages: Sequence[tuple[LayerDonor, Any]], solved: Any, unit: float
) -> tuple[tuple[Entry, ...], tuple[Crossing, ...]]:
    """The flow in the words of the model, in order of cuts."""
    edges = solved.tocoo()
    leaving = (edges.data > 0) & (edges.row >= 2) & (edges.row < 2 + 2 * graph.spots)
    entries, crossings, count = [], [], len(graph.regions)
    for tail, head, units in zip(
        edges.row[leaving].tolist(), edges.col[leaving].tolist(), edges.data[leaving].tolist(), strict=True
    ):
        cut, region = divmod((tail - 2) % graph.spots, count)
        layer, name = int(graph.cuts[cut]), graph.regions[region]
        if head >= 2 + 2 * graph.spots:
            donor, layers = stages[head - graph.into(0)]
            entries.append(Entry(layer, name, donor.id, layers.end, units * unit))
        elif head >= 2 and (target := (head - 2) % graph.spots % count) != region:
            crossings.append(Crossing(layer, name, graph.regions[target], units * unit))
    return tuple(entries), tuple(crossings)
