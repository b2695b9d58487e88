"""Moves from one assignment to another, in an order that uncovers nothing."""

from __future__ import annotations

import random

import pytest
from layer_fleets import NO_KV, a_donor, a_fleet, a_model, an_assignment

from idlegrid.grid.layers.capacity import Capacity
from idlegrid.grid.layers.coverage import covered
from idlegrid.grid.layers.moves import in_order, made, move
from idlegrid.grid.layers.shape import LayerRange

CAPACITY = Capacity(a_model(8, embed_bytes=7, head_bytes=5), NO_KV)


@pytest.mark.parametrize(
    ("before", "after", "load"),
    [
        (None, (0, 3), 37),
        ((0, 3), (0, 5), 20),
        ((0, 3), (1, 3), 0),
        ((1, 3), (0, 3), 17),
        ((2, 8), (5, 8), 0),
        ((2, 7), (5, 8), 15),
        ((0, 4), (4, 8), 45),
    ],
)
def test_only_what_is_not_held_is_loaded(before, after, load):
    held = LayerRange(*before) if before else None
    told = move(CAPACITY, a_donor("d", down_bytes_s=10.0), held, LayerRange(*after))
    assert told.load_bytes == load
    assert told.seconds == load / 10


def holders_while(moves, held):
    """What is held at each moment: without the donor that loads, and after it has loaded."""
    now = dict(held)
    for one in moves:
        if not one.grows:
            now.pop(one.donor_id, None)
        yield dict(now)
        now[one.donor_id] = one.after
        yield dict(now)


def test_no_move_uncovers_a_layer():
    capacity, dropped, kept = Capacity(a_model(8), NO_KV), 0, 0
    for seed in range(300):
        choose = random.Random(seed)
        donors = a_fleet(choose, 6, 8)
        held, wanted = an_assignment(choose, donors, capacity), an_assignment(choose, donors, capacity)
        if not covered(capacity, held) or not covered(capacity, wanted):
            continue
        moves = in_order(capacity, {one.id: one for one in donors}, held, wanted)
        assert all(covered(capacity, moment) for moment in holders_while(moves, held)), seed
        dropped += made(held, moves) != wanted
        kept += made(held, moves) == wanted
    assert dropped  # some can't be made
    assert kept


def test_two_who_swap_need_a_third():
    donors = {name: a_donor(name) for name in "abc"}
    swap = {"a": LayerRange(4, 8), "b": LayerRange(0, 4)}
    held = {"a": LayerRange(0, 4), "b": LayerRange(4, 8)}
    assert in_order(CAPACITY, donors, held, swap) == ()
    with_third = in_order(CAPACITY, donors, held, {**swap, "c": LayerRange(0, 8)})
    assert [one.donor_id for one in with_third] == ["c", "a", "b"]


def test_a_model_that_is_not_covered_has_nothing_to_lose():
    donors = {name: a_donor(name) for name in "ab"}
    moves = in_order(CAPACITY, donors, {"a": LayerRange(0, 4)}, {"a": LayerRange(4, 8), "b": LayerRange(0, 4)})
    assert [one.donor_id for one in moves] == ["b", "a"]
