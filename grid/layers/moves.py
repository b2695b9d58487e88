"""How one assignment becomes another: which donor loads what, and in which order nothing is left without a holder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .capacity import Assignment, Capacity, LayerDonor
from .coverage import copies
from .shape import LayerRange


@dataclass(frozen=True, slots=True)
class Move:
    """One donor's change of layers."""

    donor_id: str
    before: LayerRange | None
    """None: it held nothing."""
    after: LayerRange
    load_bytes: int
    """Weights that it must fetch: those that it doesn't hold already."""
    seconds: float
    """What fetching them takes at the donor's download rate."""

    @property
    def grows(self) -> bool:
        """It keeps all that it holds and takes more: it can go on serving while it loads."""
        return self.before is not None and self.after.shared(self.before) == len(self.before)


def move(capacity: Capacity, donor: LayerDonor, before: LayerRange | None, after: LayerRange) -> Move:
    """The move of `donor` to `after`, with what it must load."""
    model = capacity.model
    load = (len(after) - after.shared(before)) * model.layer_bytes + model.end_bytes(after.start, after.end)
    if before is not None:
        load -= model.end_bytes(
            0 if before.start == after.start == 0 else 1,
            model.layers if before.end == after.end == model.layers else model.layers - 1,
        )
    return Move(donor.id, before, after, max(0, load), max(0, load) / donor.down_bytes_s)


def in_order(
    capacity: Capacity, donors: Mapping[str, LayerDonor], present: Assignment, wanted: Assignment
) -> tuple[Move, ...]:
    """The moves from `present` to `wanted` that can be made one after the other, each once the one before has loaded.

    A donor that moves counts as holding nothing until it has loaded; one that only gets more keeps what it has. While
    the model is covered, a move that would leave a layer without a holder waits for others, and is left out if none
    helps. Newcomers come first, then those with the least to load.
    """
    changed = {id_: after for id_, after in wanted.items() if present.get(id_) != after}
    pending = [move(capacity, donors[id_], present.get(id_), after) for id_, after in changed.items()]
    pending.sort(key=lambda one: (one.before is not None, one.load_bytes, one.donor_id))
    counts = np.array(copies(capacity.model.layers, present.values()))
    ordered: list[Move] = []
    while pending:
        waiting: list[Move] = []
        for one in pending:
            held = one.before
            if held is not None and not one.grows and counts.min() > 0 and counts[held.start : held.end].min() < 2:
                waiting.append(one)
                continue
            if held is not None:
                counts[held.start : held.end] -= 1
            counts[one.after.start : one.after.end] += 1
            ordered.append(one)
        if len(waiting) == len(pending):
            break
        pending = waiting
    return tuple(ordered)


def made(present: Assignment, moves: tuple[Move, ...]) -> dict[str, LayerRange]:
    """The assignment after these moves."""
    return {**present, **{one.donor_id: one.after for one in moves}}
