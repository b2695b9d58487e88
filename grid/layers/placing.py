"""Which layers each donor should hold: the assignment that carries the most, from scratch or around what is held.

The weakest layer is what an assignment carries (`throughput`), so layers are raised like a floor: one donor after the
other takes the range where its rate does the most for the weak layers, weighed by a softened minimum that hardens from
round to round. The rule by which Petals' servers join is its first step for one donor with a fixed length; here each
donor's length is free, all move until none improves, and the hardest floor of all rounds wins.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from .capacity import Assignment, Capacity, LayerDonor, by_id
from .coverage import can_cover, copies, tiling
from .cutting import disjoint_chains
from .shape import LayerRange
from .throughput import Rates, weigh, worth
from .windows import Windows, windows

SMALL_FLEET = 100
"""Up to so many donors every length is tried for each; beyond, where numbers even out, only the ample ones."""
LARGE_FLEET = 1000
"""Beyond so many, each donor is placed once: moving them again would gain a hundredth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to look for a better assignment."""

    hardness: tuple[float, ...] = (10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
    """Of the softened minimum, in rounds: 10 cares for all weak layers, 320 for the weakest alone."""
    passes: int = 8
    """Over all donors, for each hardness; fewer when nobody moves."""
    restarts: int = 4
    """Whole searches; every second one also seeks second holders, and from the third on half the donors begin anew."""

    @classmethod
    def for_fleet(cls, donors: int) -> Effort:
        """What pays: a second or less, since large fleets are even after one pass."""
        if donors > LARGE_FLEET:
            return cls(restarts=0)
        if donors > SMALL_FLEET:
            return cls(hardness=(20.0, 80.0), passes=1, restarts=1)
        return cls(restarts=min(100, max(4, 400 // max(1, donors))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Aims:
    """What an assignment should be, besides fast."""

    redundancy_cost: float = 0.1
    """Share of the throughput that may be given up so that every layer has a second holder."""
    region_first: float = 0.5
    """How far a region that can cover the model evens its own layers, 0 to 1; the rest goes to the layers of all."""


def place(
    capacity: Capacity,
    donors: Sequence[LayerDonor],
    rng: random.Random,
    *,
    held: Assignment | None = None,
    movable: Collection[str] | None = None,
    effort: Effort | None = None,
    aims: Aims | None = None,
) -> dict[str, LayerRange]:
    """The layers for each donor that can hold any.

    `held` is where to begin (default: nothing), `movable` who may be given other layers than held (default: all). When
    the donors can cover the model, and all may move, they do; else as much as possible is covered. The same arguments
    and state of `rng` give the same assignment. Raises ValueError when two donors have the same id.
    """
    by_id(donors)
    search = _Search(capacity, donors, rng, aims or Aims())
    search.begin(held or {}, movable)
    chosen = effort or Effort.for_fleet(len(donors))
    if not held and len(donors) <= SMALL_FLEET and chosen.restarts:
        search.see_chains()
    for restart in range(chosen.restarts):
        if not search.perfect:
            search.run(chosen, double=bool(restart % 2), kick=restart > 1)
    return search.result()


class _Search:
    """One search: where each donor's range lies now, and the best assignment seen."""

    def __init__(self, capacity: Capacity, donors: Sequence[LayerDonor], rng: random.Random, aims: Aims) -> None:
        self.capacity, self.rng, self.aims = capacity, rng, aims
        self.donors = sorted(donors, key=lambda one: (-one.rate, one.id))
        self.windows: dict[int, Windows] = {}
        regions = sorted({one.region for one in donors})
        self.place_of = [regions.index(one.region) for one in self.donors]
        groups = {name: [one for one in donors if one.region == name] for name in regions}
        self.alone = [len(regions) > 1 and bool(can_cover(capacity, groups[name])) for name in regions]
        self.bound = max(capacity.bound(donors), 1e-300)
        self.bounds = [max(capacity.bound(groups[name]), 1e-300) for name in regions]
        self.rates = np.zeros((len(regions), capacity.model.layers))
        self.copies = np.zeros(capacity.model.layers)
        self.at: list[tuple[LayerRange, float] | None] = [None] * len(donors)
        self.seen: list[tuple[float, int, list[LayerRange | None]]] = []

    def _lengths(self, donor: LayerDonor) -> list[int]:
        ample = self.capacity.ample(donor)
        return [ample, ample - 1, self.capacity.longest_inside(donor)]

    def begin(self, held: Assignment, movable: Collection[str] | None) -> None:
        """Take what is held, and for a fresh start a tiling, so that what can be covered is."""
        fits = self.capacity.fits
        start = {one.id: held[one.id] for one in self.donors if one.id in held and fits(one, held[one.id])}
        fixed = {id_ for id_ in start if movable is not None and id_ not in movable}
        if not start:
            start = tiling(self.capacity, self.donors)
        for place, one in enumerate(self.donors):
            if one.id in start:
                self._put(place, start[one.id], self.capacity.tokens_per_second(one, start[one.id]))
        small = len(self.donors) <= SMALL_FLEET
        for place, one in enumerate(self.donors):
            if one.id not in fixed:
                found = windows(self.capacity, one, None if small else self._lengths(one))
                if len(found.rates):
                    self.windows[place] = found
        self.free = list(self.windows)
        for place in self.free:
            if self.at[place] is None:
                self._move(place, 40.0)
        self._remember()

    def see_chains(self) -> None:
        """Remember the best disjoint chains: the result is never worse than they are."""
        donors = [self.donors[place] for place in self.free]
        best = max(
            disjoint_chains(self.capacity, donors), key=lambda one: worth(self.capacity, donors, one), default={}
        )
        ranges = [best.get(one.id) for one in self.donors]
        held = [one for one in ranges if one is not None]
        single = sum(count < 2 for count in copies(self.capacity.model.layers, held))
        self.seen.append((worth(self.capacity, donors, best), single, ranges))

    def run(self, effort: Effort, *, double: bool, kick: bool) -> None:
        """One search through all degrees of hardness, from where the last one ended; kicked, half begin anywhere."""
        order = list(self.free)
        self.rng.shuffle(order)
        if kick:
            for place in order[: (len(order) + 1) // 2]:
                self._take(place)
                known, window = self.windows[place], self.rng.randrange(len(self.windows[place].rates))
                self._put(place, known.range(window), float(known.rates[window]))
        skipped = self.rng.randrange(len(effort.hardness)) if kick else 0
        for hardness in effort.hardness[skipped:]:
            for _ in range(effort.passes):
                moved = [self._move(place, hardness, double=double) for place in order]
                self.rng.shuffle(order)
                if not any(moved):
                    break
            self._remember()

    def _put(self, place: int, layers: LayerRange, rate: float) -> None:
        self.rates[self.place_of[place], layers.start : layers.end] += rate
        self.copies[layers.start : layers.end] += 1
        self.at[place] = (layers, rate)

    def _take(self, place: int) -> LayerRange | None:
        """Take this donor out; what it held."""
        held = self.at[place]
        if held is None:
            return None
        layers, rate = held
        self.rates[self.place_of[place], layers.start : layers.end] -= rate
        self.copies[layers.start : layers.end] -= 1
        self.at[place] = None
        return layers

    def _move(self, place: int, hardness: float, *, double: bool = False) -> bool:
        """Take this donor out and put it where it does the most; whether that is elsewhere."""
        before, known, region = self._take(place), self.windows[place], self.place_of[place]
        gain = self._gain(self.rates.sum(axis=0), self.bound, known, hardness)
        if self.alone[region]:
            share, own = self.aims.region_first, self._gain(self.rates[region], self.bounds[region], known, hardness)
            gain = (1 - share) * gain + share * own
        if double:
            few = np.concatenate([[0.0], np.cumsum(self.copies < 2)])
            gain = gain + few[known.ends] - few[known.starts]
        best = int(gain.argmax())
        after = known.range(best)
        self._put(place, after, float(known.rates[best]))
        return after != before

    def _gain(self, rates: Rates, bound: float, known: Windows, hardness: float) -> Rates:
        """How much each window lowers the sum of exp(-hardness × rate ÷ bound) over the layers, (windows,)."""
        weak = np.exp((rates.min() - rates) * (hardness / bound))
        summed = np.concatenate([[0.0], np.cumsum(weak)])
        gained: Rates = (summed[known.ends] - summed[known.starts]) * -np.expm1(known.rates * (-hardness / bound))
        return gained

    def _remember(self) -> None:
        ranges = [None if one is None else one[0] for one in self.at]
        self.seen.append((weigh(self.rates), int((self.copies < 2).sum()), ranges))

    @property
    def perfect(self) -> bool:
        """Whether no compute is wasted, no border crossed and no layer held once: nothing is left to look for."""
        return any(value >= self.bound * (1 - 1e-9) and not single for value, single, _ in self.seen)

    def result(self) -> dict[str, LayerRange]:
        """The fastest seen; or, if that leaves layers with one holder, the best of those with the fewest such layers.

        The latter only among those that cost no more than agreed.
        """
        most = max(value for value, _, _ in self.seen)
        floor = most * (1 - self.aims.redundancy_cost)
        _, _, ranges = min((one for one in self.seen if one[0] >= floor), key=lambda one: (one[1], -one[0]))
        return {one.id: layers for one, layers in zip(self.donors, ranges, strict=True) if layers is not None}
