"""What an assignment carries in closed form."""

from __future__ import annotations

import pytest
from layer_fleets import NO_KV, a_donor, a_model

from idlegrid.grid.layers.capacity import Capacity
from idlegrid.grid.layers.shape import LayerRange
from idlegrid.grid.layers.throughput import SPILL_COST, layer_rates, throughput, worth

CAPACITY = Capacity(a_model(4), NO_KV)
DONORS = [a_donor("a", rate=12.0), a_donor("b", rate=8.0), a_donor("c", rate=6.0, region="oceania")]


def test_the_weakest_layer():
    held = {"a": LayerRange(0, 3), "b": LayerRange(2, 4), "c": LayerRange(0, 2)}
    assert layer_rates(CAPACITY, DONORS, held).tolist() == [7, 7, 8, 4]
    assert throughput(CAPACITY, DONORS, held) == 4


def test_who_is_not_here_carries_nothing():
    held = {"a": LayerRange(0, 4), "gone": LayerRange(0, 4)}
    assert throughput(CAPACITY, DONORS, held) == 3
    assert throughput(CAPACITY, DONORS, {"a": LayerRange(0, 3)}) == 0


def test_what_crosses_a_border_is_worth_less():
    inside = {"a": LayerRange(0, 4), "c": LayerRange(0, 4)}
    across = {"a": LayerRange(0, 2), "c": LayerRange(2, 4)}
    assert worth(CAPACITY, DONORS, inside) == 4.5
    assert worth(CAPACITY, DONORS, across) == pytest.approx(3 * (1 - SPILL_COST))
    assert worth(CAPACITY, [], {}) == 0
