"""Another cut of a chain on donors that hold stages already: what loads, what goes, and where both have room. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...grid.layers.capacity import Capacity
from ...grid.layers.shape import LayerRange
from .chain_plan import Cut, Offer, Part


@dataclass(frozen=True, slots=True)
class Holding:
    """The memory of a stage on its donor. All in bytes."""

    offered: int
    """What the donor had before the stage came."""
    weights: int
    """What it has taken for certain."""
    most: int
    """What it may take in all: its pages are taken as they are written."""

    def freed(self, free: int) -> int:
        """What the donor would have more of if the stage went; `free`: what it has now.

        That tells only in part: pages that were never written are free, and promised. So the donor would have what it
        had before, as far as that can be.
        """
        return min(max(self.offered - free, self.weights), self.most)


def holding(capacity: Capacity, layers: range, offered: int) -> Holding:
    """Of a stage of these layers, on a donor that had `offered` bytes."""
    its = LayerRange(layers.start, layers.stop)
    return Holding(offered, capacity.model.weight_bytes(its), capacity.least_bytes(its))


@dataclass(frozen=True, slots=True)
class Recut:
    """How one cut becomes another."""

    loads: tuple[Part, ...]
    kept: tuple[Part, ...]
    gone: tuple[Part, ...]
    why: str
    """What the other cut is good for."""
    short: str = ""
    """Why what loads can't be loaded beside what goes. Empty: it can."""


def recut(capacity: Capacity, held: Iterable[Part], found: Cut) -> Recut:
    """From the stages that are held to the cut that was found. All offers are those of donors that hold nothing."""
    held = tuple(held)
    before = {(one.offer.donor.id, one.layers): one for one in held}
    after = {(one.offer.donor.id, one.layers): one for one in found.parts}
    loads = tuple(one for key, one in after.items() if key not in before)
    gone = tuple(one for key, one in before.items() if key not in after)
    there = {one.offer.donor.id: one for one in gone}
    lacks = [
        f"{one.offer.donor.id} has {lack / 1e9:.2f} GB too little for both its present layers and the new ones"
        for one in loads
        if (lack := _lack(capacity, one, there.get(one.offer.donor.id))) > 0
    ]
    kept = tuple(one for key, one in before.items() if key in after)
    return Recut(loads, kept, gone, found.why, "; ".join(lacks))


def _lack(capacity: Capacity, comes: Part, goes: Part | None) -> int:
    """Bytes."""
    if goes is None:
        return 0
    return _most(capacity, comes) + _most(capacity, goes) - _memory(comes.offer)


def _most(capacity: Capacity, part: Part) -> int:
    return capacity.least_bytes(LayerRange(part.layers.start, part.layers.stop))


def _memory(offer: Offer) -> int:
    return offer.donor.memory_bytes
