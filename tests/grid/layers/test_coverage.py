"""What misses, what one loss would uncover, and what memory would suffice."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from layer_fleets import NO_KV, a_donor, a_model, fleets

from idlegrid.grid.layers.capacity import Capacity, LayerDonor
from idlegrid.grid.layers.coverage import LayersMissingError, can_cover, copies, covered, held_below, tiling
from idlegrid.grid.layers.shape import LayerRange, Traffic


def test_layers_by_number_of_holders():
    held = [LayerRange(0, 3), LayerRange(2, 5), LayerRange(7, 8)]
    assert copies(9, held) == [1, 1, 2, 1, 1, 0, 0, 1, 0]
    assert held_below(1, 9, held) == (LayerRange(5, 7), LayerRange(8, 9))
    assert held_below(2, 9, held) == (LayerRange(0, 2), LayerRange(3, 9))
    assert held_below(1, 5, held[:2]) == ()


def coverable(capacity: Capacity, donors: list[LayerDonor]) -> bool:
    """By trying every order: each donor takes all that fits from where the one before ended, or stays out."""

    def reach(at: int, rest: frozenset[str]) -> bool:
        if at == capacity.model.layers:
            return True
        return any(
            reach(end, rest - {one.id})
            for one in donors
            if one.id in rest
            for end in range(at + 1, capacity.model.layers + 1)
            if capacity.fits(one, LayerRange(at, end))
        )

    return reach(0, frozenset(one.id for one in donors))


@settings(max_examples=60, deadline=None)
@given(fleets(most=4, layers=5))
def test_whether_a_model_can_be_covered_is_exact(fleet):
    capacity, donors = fleet
    verdict = can_cover(capacity, donors)
    assert bool(verdict) == coverable(capacity, donors)
    tiles = tiling(capacity, donors)
    known = {one.id: one for one in donors}
    assert all(capacity.fits(known[id_], layers) for id_, layers in tiles.items())
    assert all(not a.shared(b) for a, b in itertools.combinations(tiles.values(), 2))
    assert covered(capacity, tiles).missing == verdict.missing


@settings(max_examples=60, deadline=None)
@given(fleets(most=4, layers=5))
def test_the_memory_that_is_named_suffices(fleet):
    capacity, donors = fleet
    verdict = can_cover(capacity, donors)
    needed = [
        LayerDonor(id=f"new{n}", region="oceania", memory_bytes=capacity.least_bytes(one), layer_rate=1.0)
        for n, one in enumerate(verdict.missing)
    ]
    assert sum(one.memory_bytes for one in needed) == verdict.memory_bytes
    assert can_cover(capacity, [*donors, *needed])


def test_what_is_said_to_people():
    model = a_model(80, layer_bytes=1_711_000_000, head_bytes=500_000_000, kv_bytes=4096)
    capacity = Capacity(model, Traffic(context_tokens=2048, sequences=4))
    donors = [a_donor("a", rate=1.0, memory_bytes=80_000_000_000), a_donor("b", rate=1.0, memory_bytes=48_000_000_000)]
    verdict = can_cover(capacity, donors)
    assert not verdict
    assert verdict.missing == (LayerRange(45, 53),)
    assert verdict.memory_bytes == 8 * (1_711_000_000 + 4096 * 2048 * 4)
    assert verdict.detail.startswith("layers 45-52 of 0-79 have no holder; 13.96 GB of free donor memory more would")
    assert str(LayersMissingError(verdict)) == verdict.detail


def test_no_donors_at_all():
    verdict = can_cover(Capacity(a_model(4), NO_KV), [])
    assert verdict.missing == (LayerRange(0, 4),)
    assert verdict.memory_bytes == 44


def test_an_assignment_with_a_hole():
    verdict = covered(Capacity(a_model(4), NO_KV), {"a": LayerRange(0, 2), "b": LayerRange(3, 4)})
    assert verdict.missing == (LayerRange(2, 3),)
    assert verdict.detail.startswith("layer 2 of 0-3 has no holder")
    with pytest.raises(LayersMissingError, match="layer 2 of 0-3"):
        raise LayersMissingError(verdict)
