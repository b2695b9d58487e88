"""Who should hold which layers of one chain, and when another cut is worth it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from ...grid.layers.capacity import Capacity, LayerDonor
from ...grid.layers.coverage import LayersMissingError, can_cover, tell_missing, tiling
from ...grid.layers.cutting import StagesError, chain_cuts
from ...grid.layers.near import Near, nearest_first
from ...grid.layers.replanning import Hysteresis
from ...grid.layers.shape import LayerRange
from ...grid.layers.speed import Source

SOONER = 0.85
"""Donors that are nearer to each other are taken instead of better ones when a token then takes at most this share,"""
SLOWER = 0.5
"""and the chain carries at least this share of what the better ones would."""
DOUBT = 0.5
"""Another cut must gain at least this share where its speeds were not all measured by steps: trials may be off."""
ANYWHERE = Near()


@dataclass(frozen=True, slots=True)
class Offer:
    """A donor that may take a stage now."""

    donor: LayerDonor
    address: str
    """Dask's, of its worker."""
    score: float = 0.0
    """The higher, the better."""
    source: Source = Source.PRESUMED
    """Where its speed comes from."""


@dataclass(frozen=True, slots=True)
class Part:
    """Layers for a donor."""

    layers: range
    offer: Offer


@dataclass(frozen=True, slots=True)
class Cut:
    """Parts in the order of their layers; or none, and why. Truthy if there are any."""

    parts: tuple[Part, ...] = ()
    why: str = ""

    def __bool__(self) -> bool:
        return bool(self.parts)


@dataclass(frozen=True, slots=True)
class Split:
    """What is wanted of the cut: see `Deployment.stages` and `Deployment.layers`."""

    stages: int = 0
    layers: tuple[tuple[int, int], ...] | None = None


def cut(
    capacity: Capacity,
    offers: Sequence[Offer],
    split: Split,
    gap: range | None = None,
    *,
    near: Near = ANYWHERE,
    beside: Sequence[LayerDonor] = (),
) -> Cut:
    """Donors for the layers of `gap` (default: all), at most one part each.

    The number of stages counts for the whole model only: a gap is filled by as few donors as it takes. `beside`: who
    holds the other layers. Donors that are near each other, and near those, come before better ones where that pays.
    """
    whole = range(capacity.model.layers)
    gap = whole if gap is None else gap
    if split.layers is not None:
        return _given(capacity, offers, split.layers, gap)
    count = split.stages if gap == whole else 0
    if count:
        return _counted(capacity, offers, count, near)
    return _fewest(capacity, offers, gap, _Net(near, tuple(beside)))


def rate(capacity: Capacity, parts: Iterable[Part]) -> float:
    """Tokens a second of a chain: those of its slowest stage."""
    return min(capacity.tokens_per_second(one.offer.donor, _layers(one.layers)) for one in parts)


def token_seconds(capacity: Capacity, parts: Sequence[Part], near: Near = ANYWHERE) -> float:
    """One token of a single session through a chain and back to its head, waiting for nobody."""
    return _computing(capacity, parts) + near.ring_s([one.offer.donor for one in parts])


def better(
    capacity: Capacity,
    offers: Sequence[Offer],
    split: Split,
    held: Sequence[Part],
    hysteresis: Hysteresis,
    near: Near = ANYWHERE,
) -> Cut:
    """Another cut that is worth its moves, or none, with the reason. `offers`: also those that hold parts now."""
    found = cut(capacity, offers, split, near=near)
    if not found:
        return found
    before, after = rate(capacity, held), rate(capacity, found.parts)
    gain = hysteresis.gain if _one_measure((*held, *found.parts)) else max(hysteresis.gain, DOUBT)
    if after < before * (1 + gain):
        return Cut(why=f"{after:.1f} instead of {before:.1f} tokens/s: less than {gain:.0%} more")
    loading = max(
        capacity.model.weight_bytes(_layers(one.layers)) / one.offer.donor.down_bytes_s for one in found.parts
    )
    if (after - before) * hysteresis.horizon_s < loading * before:
        return Cut(why="what is not served while it loads is more than it gains")
    return Cut(found.parts, f"{after:.1f} instead of {before:.1f} tokens/s")


def _one_measure(parts: Iterable[Part]) -> bool:
    """Whether their speeds compare as well as they can: all by steps, or all by what donors look like."""
    return {one.offer.source for one in parts} in ({Source.MEASURED}, {Source.PRESUMED})


def _layers(layers: range) -> LayerRange:
    return LayerRange(layers.start, layers.stop)


def _inner(capacity: Capacity, gap: range) -> Capacity:
    """The layers of `gap` as a model of its own."""
    model = capacity.model
    first, last = gap.start == 0, gap.stop == model.layers
    return replace(
        capacity,
        model=replace(
            model,
            layers=len(gap),
            embed_bytes=model.embed_bytes if first else 0,
            head_bytes=model.head_bytes if last else 0,
            head_layers=model.head_layers if last else 0.0,
        ),
    )


def _missing(capacity: Capacity, gap: range, missing: Iterable[LayerRange]) -> Cut:
    """What misses, with the numbers that the layers have in the whole model."""
    shifted = tuple(LayerRange(gap.start + one.start, gap.start + one.end) for one in missing)
    return Cut(why=tell_missing(capacity, shifted).detail)


def _given(capacity: Capacity, offers: Sequence[Offer], layers: Iterable[tuple[int, int]], gap: range) -> Cut:
    """The ranges as they were given, the largest first: to the best donors; or, if that fails, to the largest."""
    if (end := max(stop for _, stop in layers)) != (last := capacity.model.layers):
        return Cut(why=f"the ranges end at layer {end - 1}, but the model has layers 0 to {last - 1}")
    clipped = (range(max(start, gap.start), min(stop, gap.stop)) for start, stop in layers)
    wanted = sorted((one for one in clipped if one), key=lambda one: -capacity.least_bytes(_layers(one)))
    missing: list[range] = []
    for order in _orders(offers):
        parts: list[Part] = []
        missing, left = [], list(order)
        for layers_ in wanted:
            found = next((one for one in left if capacity.fits(one.donor, _layers(layers_))), None)
            if found is None:
                missing.append(layers_)
            else:
                left.remove(found)
                parts.append(Part(layers_, found))
        if not missing:
            return Cut(tuple(sorted(parts, key=lambda one: one.layers.start)))
    return _missing(capacity, range(capacity.model.layers), map(_layers, sorted(missing, key=lambda one: one.start)))


def _counted(capacity: Capacity, offers: Sequence[Offer], count: int, near: Near) -> Cut:
    """So many stages: the best donors; or, if they can't hold the model, the largest."""
    last = capacity.model.layers
    if count > last:
        return Cut(why=f"{count} stages are wanted, but the model has {last} layers")
    able = [one for one in offers if capacity.longest_inside(one.donor) or capacity.longest(one.donor, 0)]
    if len(able) < count:
        return Cut(
            why=f"{count} stages are wanted, each on a donor of its own, and {len(able)} may take one now; "
            f"{_missing(capacity, range(last), _uncovered(capacity, able)).why}"
        )
    return _nearest(capacity, able, count, range(last), _Net(near))


def _fewest(capacity: Capacity, offers: Sequence[Offer], gap: range, net: _Net) -> Cut:
    """As few donors as it takes, of one region if one can; of those, the one with the fewest, then the best."""
    inner = _inner(capacity, gap)
    groups = [list(group) for _, group in groupby(sorted(offers, key=_region), key=_region)]
    groups.sort(key=lambda group: -max(one.score for one in group))
    found = [one for group in groups if can_cover(inner, _donors(group)) and (one := _tiled(inner, group, gap, net))]
    if found:
        fewest = min(len(one.parts) for one in found)
        return _sooner(inner, [one for one in found if len(one.parts) == fewest], net)
    if can_cover(inner, _donors(offers)):
        return _tiled(inner, offers, gap, net)
    return _missing(capacity, gap, can_cover(inner, _donors(offers)).missing)


def _tiled(inner: Capacity, offers: Sequence[Offer], gap: range, net: _Net) -> Cut:
    """As few of these donors as it takes, the best of them if they do, else the largest."""
    tiles = tiling(inner, _donors(offers))
    for count in range(1, len(tiles) + 1):
        if found := _nearest(inner, offers, count, gap, net):
            return found
    exact = sorted((one for one in offers if one.donor.id in tiles), key=lambda one: tiles[one.donor.id].start)
    return _chain(inner, _by_region(exact), gap) or _chain(inner, exact, gap)


@dataclass(frozen=True, slots=True)
class _Net:
    """What lies between the donors of a chain."""

    near: Near
    beside: tuple[LayerDonor, ...] = ()
    """Who holds its other layers."""

    def hops_s(self, donors: Sequence[LayerDonor]) -> float:
        """What a token spends between them; for a part of a chain: between them, and from and to the rest of it."""
        if not self.beside:
            return self.near.ring_s(donors)
        within = sum(self.near.round_trip_s(a, b) for a, b in pairwise(donors)) / 2
        ends = (self.near.round_trip_s(one, other) for one in (donors[0], donors[-1]) for other in self.beside)
        return within + sum(ends) / 2 / len(self.beside)

    def ordered(self, order: Sequence[Offer]) -> list[Offer]:
        """Region by region, and neighbours near each other."""
        known = {one.donor.id: one for one in order}
        return [known[one.id] for one in self.near.ring(_donors(_by_region(order)))]

    def nearest(self, offers: Sequence[Offer], count: int) -> list[list[Offer]]:
        """Beginning with each of the best: it and those that are nearest to it, or the nearest to the rest."""
        best = _orders(offers)[0]
        known = {one.donor.id: one for one in best}
        starts = self.beside or tuple(_donors(best[:STARTS]))
        found = []
        for start in starts:
            order = nearest_first(self.near, start, _donors(best))
            found.append([known[one.id] for one in order[:count]])
        return found


STARTS = 4
"""Of so many donors, those that are nearest to each are looked at."""


def _nearest(inner: Capacity, offers: Sequence[Offer], count: int, gap: range, net: _Net) -> Cut:
    """So many donors: the best, or the largest where those can't hold it; or such as are near, if it is worth it."""
    tried = [_chain(inner, net.ordered(order[:count]), gap) for order in _orders(offers)]
    found = next((one for one in tried if one), None)
    if found is None:
        return tried[-1]
    others = [_chain(inner, net.ordered(order), gap) for order in net.nearest(offers, count)]
    return _sooner(inner, [found, *(one for one in others if one)], net)


def _sooner(inner: Capacity, cuts: Sequence[Cut], net: _Net) -> Cut:
    """The first, or the one on which a single session's token comes so much sooner that it is worth carrying less."""
    first = cuts[0]
    least, seconds = SLOWER * _rate(inner, first), SOONER * _alone(inner, first, net)
    able = [one for one in cuts if _rate(inner, one) >= least and _alone(inner, one, net) < seconds]
    return min(able, key=lambda one: _alone(inner, one, net), default=first)


def _rate(inner: Capacity, found: Cut) -> float:
    return rate(inner, _inside(found))


def _alone(inner: Capacity, found: Cut, net: _Net) -> float:
    """See `token_seconds`."""
    return _computing(inner, _inside(found)) + net.hops_s([one.offer.donor for one in found.parts])


def _inside(found: Cut) -> list[Part]:
    """Its parts, numbered as `_inner` does."""
    at = found.parts[0].layers.start
    return [Part(range(one.layers.start - at, one.layers.stop - at), one.offer) for one in found.parts]


def _computing(capacity: Capacity, parts: Iterable[Part]) -> float:
    return sum(capacity.model.work(_layers(one.layers)) * one.offer.donor.seconds_a_layer for one in parts)


def _orders(offers: Sequence[Offer]) -> tuple[list[Offer], list[Offer]]:
    """The best first; the largest first."""
    best = sorted(offers, key=lambda one: (-one.score, one.donor.id))
    return best, sorted(best, key=lambda one: -one.donor.memory_bytes)


def _chain(inner: Capacity, order: Sequence[Offer], gap: range) -> Cut:
    """These donors, in this order, so that the slowest is as fast as can be."""
    try:
        ranges = chain_cuts(inner, _donors(order))
    except LayersMissingError as error:
        return Cut(why=str(error))
    except StagesError as error:
        return Cut(why=str(error))
    return Cut(
        tuple(
            Part(range(gap.start + one.start, gap.start + one.end), offer)
            for one, offer in zip(ranges, order, strict=True)
        )
    )


def _uncovered(capacity: Capacity, offers: Sequence[Offer]) -> tuple[LayerRange, ...]:
    return can_cover(capacity, _donors(offers)).missing


def _by_region(order: Sequence[Offer]) -> list[Offer]:
    """A chain crosses each border once."""
    first: dict[str, int] = {}
    for place, one in enumerate(order):
        first.setdefault(one.donor.region, place)
    return sorted(order, key=lambda one: first[one.donor.region])


def _region(offer: Offer) -> str:
    return offer.donor.region


def _donors(offers: Sequence[Offer]) -> list[LayerDonor]:
    return [one.donor for one in offers]
