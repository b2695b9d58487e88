"""Which layers nobody holds, which only one donor does, and what memory would suffice for those that miss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from .capacity import Assignment, Capacity, LayerDonor
from .shape import LayerRange


@dataclass(frozen=True, slots=True)
class Cover:
    """Whether every layer of a model has, or could have, a holder. Truthy if so."""

    missing: tuple[LayerRange, ...] = ()
    """Layers without a holder, ascending."""
    memory_bytes: int = 0
    """Free memory that would suffice: one donor more for each missing range, in sum."""
    detail: str = "every layer has a holder"
    """One sentence for people."""

    def __bool__(self) -> bool:
        return not self.missing


class LayersMissingError(ValueError):
    """A model can't be cut over these donors: the message says which layers miss and what memory would suffice."""

    def __init__(self, cover: Cover) -> None:
        super().__init__(cover.detail)
        self.cover = cover


def copies(layers: int, held: Iterable[LayerRange]) -> list[int]:
    """How many of the ranges hold each layer, [layers]."""
    changes = [0] * (layers + 1)
    for one in held:
        changes[one.start] += 1
        changes[one.end] -= 1
    return list(accumulate(changes[:layers]))


def held_below(least: int, layers: int, held: Iterable[LayerRange]) -> tuple[LayerRange, ...]:
    """The layers with fewer than `least` holders. 1: the missing ones; 2: also those that one loss would uncover."""
    runs = groupby(enumerate(copies(layers, held)), key=lambda pair: pair[1] < least)
    few = ([layer for layer, _ in run] for below, run in runs if below)
    return tuple(LayerRange(run[0], run[-1] + 1) for run in few)


def covered(capacity: Capacity, assignment: Assignment) -> Cover:
    """Whether this assignment covers the model, and if not, what misses."""
    return tell_missing(capacity, held_below(1, capacity.model.layers, assignment.values()))


def can_cover(capacity: Capacity, donors: Sequence[LayerDonor]) -> Cover:
    """Whether any assignment to these donors covers the model (exact), and if not, what misses at best."""
    return tell_missing(capacity, held_below(1, capacity.model.layers, tiling(capacity, donors).values()))


def tell_missing(capacity: Capacity, missing: tuple[LayerRange, ...]) -> Cover:
    if not missing:
        return Cover()
    need = sum(capacity.least_bytes(one) for one in missing)
    named = ", ".join(map(str, missing))
    count = sum(map(len, missing))
    detail = (
        f"layer{'s' if count > 1 else ''} {named} of 0-{capacity.model.layers - 1} ha{'ve' if count > 1 else 's'} no "
        f"holder; {need / 1e9:.2f} GB of free donor memory more would suffice ({capacity.bytes_a_layer / 1e9:.3f} GB "
        "a layer with its keys and values)"
    )
    return Cover(missing, need, detail)


def tiling(capacity: Capacity, donors: Sequence[LayerDonor]) -> dict[str, LayerRange]:
    """Ranges side by side, each donor at most one: they hold every layer if any assignment does.

    Only the two ends cost more than their layers, so all that can be chosen is who takes them: those who lose the
    fewest layers to the embedding and to the output head. Ties go to the faster donor, then by id.
    """
    last = capacity.model.layers
    ranked = sorted(donors, key=lambda one: (-one.rate, one.id))
    whole = next((one for one in ranked if capacity.longest(one, 0) == last), None)
    if whole is not None:
        return {whole.id: capacity.model.whole}
    inner = {one.id: capacity.longest_inside(one) for one in ranked}
    first, final = _ends(capacity, ranked, inner)
    tiles: dict[str, LayerRange] = {}
    at, until = 0, last
    if first is not None:
        at = capacity.longest(first, 0)
        tiles[first.id] = LayerRange(0, at)
    if final is not None:
        until = max(at, last - capacity.longest_to_end(final))
        tiles[final.id] = LayerRange(until, last)
    at = max(at, 0 if first is not None else 1)
    stop = until if final is not None else last - 1
    for one in sorted(ranked, key=lambda one: -inner[one.id]):
        if one.id not in tiles and inner[one.id] and at < stop:
            tiles[one.id] = LayerRange(at, min(stop, at + inner[one.id]))
            at = tiles[one.id].end
    return tiles


def _ends(
    capacity: Capacity, donors: Sequence[LayerDonor], inner: dict[str, int]
) -> tuple[LayerDonor | None, LayerDonor | None]:
    """Who holds the first layer and who the last: two donors that lose the fewest layers by it, if there are any."""
    first = {one.id: capacity.longest(one, 0) for one in donors}
    final = {one.id: capacity.longest_to_end(one) for one in donors}
    heads = sorted((one for one in donors if first[one.id]), key=lambda one: inner[one.id] - first[one.id])
    tails = sorted((one for one in donors if final[one.id]), key=lambda one: inner[one.id] - final[one.id])
    pairs = [(a, b) for a in heads[:2] for b in tails[:2] if a.id != b.id]
    if not pairs:  # at most one donor can hold an end
        return (heads[0], None) if heads else (None, tails[0] if tails else None)
    return max(pairs, key=lambda two: first[two[0].id] - inner[two[0].id] + final[two[1].id] - inner[two[1].id])
