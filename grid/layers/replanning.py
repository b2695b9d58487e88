"""What to change when donors join, leave or change: as little as serves, and more only where it pays."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from .capacity import Assignment, Capacity, LayerDonor, by_id
from .coverage import Cover, can_cover, copies, covered
from .moves import Move, in_order, made, move
from .placing import Aims, Effort, place
from .shape import LayerRange
from .throughput import worth
from .windows import windows

_NEWCOMERS = Effort(hardness=(40.0,), passes=2, restarts=1)
"""Enough for those who join: the others stay where they are."""


class Change(StrEnum):
    """What a revision does, in one word. The value is what logs and answers show."""

    PLACED = "placed"
    """Nothing was held; now the layers are given out."""
    KEPT = "kept"
    """Nothing moves: nothing better was found, or not enough better."""
    JOINED = "joined"
    """Newcomers get layers, nobody else moves."""
    REPAIRED = "repaired"
    """Layers had lost their last holder: the fewest bytes that bring them back."""
    DOUBLED = "doubled"
    """Spare donors become second holders of layers that only one had."""
    REBALANCED = "rebalanced"
    """Donors move because it gains more than the threshold."""
    UNCOVERABLE = "uncoverable"
    """Whatever is done, some layers have no holder; `cover` says which and what memory would suffice."""


@dataclass(frozen=True, slots=True)
class Revision:
    """The assignment that should be, and the way there."""

    change: Change
    assignment: dict[str, LayerRange]
    moves: tuple[Move, ...]
    """In order: made one after the other, each once the one before has loaded, they leave no layer without a holder
    that had one, unless the model was not covered to begin with."""
    before: float
    """What the present assignment is worth without the donors that are gone, in tokens/s (`throughput.worth`)."""
    after: float
    cover: Cover
    """Of the new assignment."""
    detail: str
    """One sentence for people: the values that decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hysteresis:
    """When moving pays."""

    gain: float = 0.15
    """Donors that serve move only for so much more throughput, as a share."""
    horizon_s: float = 3600.0
    """So long a gain is expected to last: it must outweigh what is not served while the moving donors load."""


def revise(
    capacity: Capacity,
    donors: Sequence[LayerDonor],
    held: Assignment,
    rng: random.Random,
    *,
    movable: Collection[str] | None = None,
    hysteresis: Hysteresis | None = None,
    effort: Effort | None = None,
    aims: Aims | None = None,
) -> Revision:
    """What should be held, given the donors that are here now and what they hold.

    In `held`, donors that are gone or can't hold their layers any more count for nothing. `movable` are those who may
    give up layers now, idle or drained (default: all). First newcomers get layers; then layers without a holder get
    one; then donors move if that pays. Equal arguments and state of `rng` give the same answer.
    """
    known = by_id(donors)
    present = {id_: one for id_, one in held.items() if id_ in known and capacity.fits(known[id_], one)}
    free = frozenset(known if movable is None else movable)
    case = _Case(capacity, known, present, free, hysteresis or Hysteresis(), rng, effort, aims or Aims())
    if not present:
        return case.revision(Change.PLACED, case.placed({}, free), "nothing was held")
    change, wanted, why = case.served()
    better = case.rebalanced(wanted)
    if better is None and (doubled := case.doubled(wanted)) != wanted:
        return case.revision(Change.DOUBLED, doubled, f"{why}; spare donors take layers that only one had")
    if better is None:
        return case.revision(change, wanted, f"{why}; {case.why_not(wanted)}")
    gained = f"{case.worth(wanted):.1f} to {case.worth(better):.1f} tokens/s by moving what is held"
    return case.revision(Change.REBALANCED, better, gained)


@dataclass(frozen=True, slots=True)
class _Case:
    """What one revision decides on."""

    capacity: Capacity
    donors: Mapping[str, LayerDonor]
    present: Assignment
    movable: frozenset[str]
    hysteresis: Hysteresis
    rng: random.Random
    effort: Effort | None
    aims: Aims

    def worth(self, assignment: Assignment) -> float:
        return worth(self.capacity, self.donors.values(), assignment)

    def placed(self, held: Assignment, movable: frozenset[str], effort: Effort | None = None) -> dict[str, LayerRange]:
        chosen = effort or self.effort
        donors = list(self.donors.values())
        return place(self.capacity, donors, self.rng, held=held, movable=movable, effort=chosen, aims=self.aims)

    def served(self) -> tuple[Change, dict[str, LayerRange], str]:
        """Newcomers take layers; then, if layers have no holder, as few others as bring them back."""
        wanted = self.placed(self.present, frozenset(), _NEWCOMERS)
        joined = len(wanted) - len(self.present)
        change, why = (Change.JOINED, f"{joined} newcomers") if joined else (Change.KEPT, "the same donors")
        if not covered(self.capacity, wanted) and can_cover(self.capacity, list(self.donors.values())):
            wanted, change = self._repaired(wanted), Change.REPAIRED
            why = "layers had lost their last holder"
        return change, wanted, why

    def _repaired(self, held: dict[str, LayerRange]) -> dict[str, LayerRange]:
        """The missing layers given to whom it costs the fewest bytes; all anew where single moves don't do."""
        while (found := _filler(self.capacity, self._movers, held, 1)) is not None:
            held = found
        if not covered(self.capacity, held):
            held = self.placed(held, self.movable)
        if not covered(self.capacity, held) and self._all_move:
            held = self.placed({}, self.movable)
        return held

    def doubled(self, held: dict[str, LayerRange]) -> dict[str, LayerRange]:
        """Spare donors made second holders of what one loss would uncover, where that costs no more than agreed."""
        floor = self.worth(held) * (1 - self.aims.redundancy_cost)
        while (found := _filler(self.capacity, self._movers, held, 2)) is not None and self.worth(found) >= floor:
            held = found
        return held

    @property
    def _movers(self) -> list[LayerDonor]:
        return [self.donors[id_] for id_ in sorted(self.movable & self.donors.keys())]

    @property
    def _all_move(self) -> bool:
        return self.movable >= self.donors.keys()

    def _hopeless(self, wanted: Assignment) -> bool:
        """Whether even all compute, nothing wasted, would gain less than the threshold."""
        threshold = self.worth(wanted) * (1 + self.hysteresis.gain)
        return self.capacity.bound(self.donors.values()) < threshold

    def rebalanced(self, wanted: Assignment) -> dict[str, LayerRange] | None:
        """The assignment that pays best after what moving costs, if any passes the threshold."""
        if self._hopeless(wanted) or not covered(self.capacity, wanted):
            return None
        found = [self.placed(wanted, self.movable)]
        if self._all_move:
            found.append(self.placed({}, self.movable))
        possible = [made(self.present, self._moves(one)) for one in found]
        paying = [(self._payoff(wanted, one), index, one) for index, one in enumerate(possible)]
        payoff, _, best = max(paying, key=lambda row: (row[0], -row[1]))
        return best if payoff > 0 else None

    def _payoff(self, wanted: Assignment, better: Assignment) -> float:
        """Tokens gained over the horizon, less those not served while the movers load. Below the threshold: none."""
        before, after = self.worth(wanted), self.worth(better)
        if after < before * (1 + self.hysteresis.gain):
            return 0.0
        lost = sum(
            one.seconds * self.capacity.tokens_per_second(self.donors[one.donor_id], one.before)
            for one in self._moves(better)
            if one.before is not None
        )
        return (after - before) * self.hysteresis.horizon_s - lost

    def _moves(self, wanted: Assignment) -> tuple[Move, ...]:
        return in_order(self.capacity, self.donors, self.present, wanted)

    def why_not(self, wanted: Assignment) -> str:
        if not covered(self.capacity, wanted):
            return "nothing is served until every layer has a holder"
        share = self.hysteresis.gain * 100
        if self._hopeless(wanted):
            return f"no assignment to these donors can gain {share:.0f} %"
        return f"nothing was found that gains {share:.0f} % and is worth the loading"

    def revision(self, change: Change, wanted: Assignment, detail: str) -> Revision:
        moves = self._moves(wanted)
        assignment = made(self.present, moves)
        cover = covered(self.capacity, assignment)
        if not moves:
            change = Change.KEPT
        if not cover:
            change, detail = Change.UNCOVERABLE, cover.detail
            if can_cover(self.capacity, list(self.donors.values())):
                detail += "; the donors have room, but those who hold it may not move now"
        return Revision(change, assignment, moves, self.worth(self.present), self.worth(assignment), cover, detail)


def _filler(
    capacity: Capacity, donors: Sequence[LayerDonor], held: Assignment, least: int
) -> dict[str, LayerRange] | None:
    """`held` after the move that leaves the fewest holders missing, where each layer should have `least`.

    Ties go to the fewest bytes to load, then to the fewest layers given up. None when no move makes it fewer. With
    `least` above 1, no layer loses its last holder for it.
    """
    counts = np.array(copies(capacity.model.layers, held.values()))
    if counts.min() >= least:
        return None
    best: tuple[tuple[float, int, int, float], Move] | None = None
    for donor in donors:
        now, known, others = held.get(donor.id), windows(capacity, donor), counts.copy()
        if now is not None:
            others[now.start : now.end] -= 1
        short = np.concatenate([[0], np.cumsum(others < least)])
        gain = short[known.ends] - short[known.starts] - (short[now.end] - short[now.start] if now else 0)
        alone = [layer for layer in now or () if not others[layer]]
        if alone and least > 1:
            gain = np.where((known.starts <= alone[0]) & (known.ends > alone[-1]), gain, 0)
        if not gain.size or gain.max() <= 0:
            continue
        for index in np.flatnonzero(gain == gain.max()).tolist():
            option = move(capacity, donor, now, known.range(index))
            key = (-float(gain.max()), option.load_bytes, -option.after.shared(now), -float(known.rates[index]))
            if best is None or key < best[0]:
                best = key, option
    return made(held, (best[1],)) if best else None
