"""Where to cut a model for one chain of donors, or for many that share none: by their memory and measured speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush

from .capacity import Capacity, LayerDonor
from .coverage import LayersMissingError, tell_missing
from .shape import LayerRange


class StagesError(ValueError):
    """A chain of so many stages can't be cut."""


def chain_cuts(capacity: Capacity, donors: Sequence[LayerDonor]) -> tuple[LayerRange, ...]:
    """The layers of each donor, in the donors' order: one chain whose slowest stage is as fast as any cut makes it.

    Each next layer goes to the stage that is fastest with it. That is exact, because a stage only gets slower with
    more layers. Raises StagesError for more stages than layers or a donor that can't hold its one layer, and
    LayersMissingError when the memory of all doesn't suffice.
    """
    last, count = capacity.model.layers, len(donors)
    if not 1 <= count <= last:
        raise StagesError(f"{count} stages of {last} layers: there can be 1 to {last}, each on a donor of its own")
    rooms = [_room(capacity, one, place, count) for place, one in enumerate(donors)]
    for one, room in zip(donors, rooms, strict=True):
        if room < 1:
            raise StagesError(f"donor {one.id} has no room for one layer of its stage: leave it out")
    if sum(rooms) < last:
        gap = sum(rooms[:-1]) if count > 1 else rooms[0]
        raise LayersMissingError(tell_missing(capacity, (LayerRange(gap, gap + last - sum(rooms)),)))
    lengths = [1] * count
    queue = [(_slowness(capacity, donors[place], place, count, 2), place) for place in range(count) if rooms[place] > 1]
    heapify(queue)
    for _ in range(last - count):
        _, place = heappop(queue)
        lengths[place] += 1
        if lengths[place] < rooms[place]:
            heappush(queue, (_slowness(capacity, donors[place], place, count, lengths[place] + 1), place))
    ends = [sum(lengths[: place + 1]) for place in range(count)]
    return tuple(LayerRange(end - length, end) for end, length in zip(ends, lengths, strict=True))


def disjoint_chains(capacity: Capacity, donors: Sequence[LayerDonor]) -> Iterator[dict[str, LayerRange]]:
    """Assignments in which each donor serves in one chain: for any number of chains, packed by memory and by compute.

    What exo and Parallax do, made as good as packing makes it. Nothing comes where no chain holds the model.
    """
    most = sum(capacity.longest_inside(one) for one in donors) // capacity.model.layers
    weights: tuple[Callable[[LayerDonor], float], ...] = (lambda one: one.memory_bytes, lambda one: one.rate)
    for weigh in weights:
        for count in range(1, max(1, most) + 1):
            try:
                chains = [(chain, chain_cuts(capacity, chain)) for chain in _packed(capacity, donors, count, weigh)]
            except (StagesError, LayersMissingError):
                continue
            yield {one.id: layers for chain, cuts in chains for one, layers in zip(chain, cuts, strict=True)}


def _packed(
    capacity: Capacity, donors: Sequence[LayerDonor], count: int, weigh: Callable[[LayerDonor], float]
) -> list[list[LayerDonor]]:
    """The donors over so many chains, heaviest first, each to the lightest chain of those that still miss layers."""
    packed: list[list[LayerDonor]] = [[] for _ in range(count)]
    rooms, weights = [0] * count, [0.0] * count
    for one in sorted(donors, key=lambda one: (-weigh(one), one.id)):
        lightest = min(range(count), key=lambda chain: (rooms[chain] >= capacity.model.layers, weights[chain]))
        packed[lightest].append(one)
        rooms[lightest] += capacity.longest_inside(one)
        weights[lightest] += weigh(one)
    return packed


def _room(capacity: Capacity, donor: LayerDonor, place: int, count: int) -> int:
    """The most layers of a donor at this place of a chain, one left for each other stage."""
    if place == 0:
        room = capacity.longest(donor, 0)
    elif place == count - 1:
        room = capacity.longest_to_end(donor)
    else:
        room = capacity.longest_inside(donor)
    return min(room, capacity.model.layers - count + 1)


def _slowness(capacity: Capacity, donor: LayerDonor, place: int, count: int, length: int) -> tuple[float, float]:
    """Seconds a token of a stage of `length` layers at this place; where that is equal, the computing part of it."""
    last = capacity.model.layers
    start = 0 if place == 0 else last - length if place == count - 1 else 1
    layers = LayerRange(start, start + length)
    return 1.0 / capacity.tokens_per_second(donor, layers), capacity.model.work(layers) / donor.rate
