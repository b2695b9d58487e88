"""Cuts of one chain: exact against every cut there is."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from layer_fleets import NO_KV, a_donor, a_model, fleets

from idlegrid.grid.layers.capacity import Capacity
from idlegrid.grid.layers.coverage import LayersMissingError
from idlegrid.grid.layers.cutting import StagesError, chain_cuts
from idlegrid.grid.layers.shape import LayerRange


def every_cut(layers: int, stages: int):
    for inner in itertools.combinations(range(1, layers), stages - 1):
        ends = (0, *inner, layers)
        yield tuple(LayerRange(a, b) for a, b in itertools.pairwise(ends))


@settings(max_examples=60, deadline=None)
@given(fleets(most=4, layers=7))
def test_the_slowest_stage_is_as_fast_as_any_cut_makes_it(fleet):
    capacity, donors = fleet

    def slowest(cuts):
        fits = all(capacity.fits(one, layers) for one, layers in zip(donors, cuts, strict=True))
        rates = (capacity.tokens_per_second(one, layers) for one, layers in zip(donors, cuts, strict=True))
        return min(rates) if fits else -1.0

    best = max(map(slowest, every_cut(capacity.model.layers, len(donors))), default=-1.0)
    try:
        cuts = chain_cuts(capacity, donors)
    except (StagesError, LayersMissingError):
        assert best == -1.0
    else:
        assert slowest(cuts) == pytest.approx(best)
        assert [layer for layers in cuts for layer in layers] == list(range(capacity.model.layers))


def test_by_speed_and_memory():
    capacity = Capacity(a_model(12), NO_KV)
    fast, slow = a_donor("fast", 12, 20.0), a_donor("slow", 12, 10.0)
    assert chain_cuts(capacity, [fast, slow]) == (LayerRange(0, 8), LayerRange(8, 12))
    small = a_donor("small", 2, 100.0)
    assert chain_cuts(capacity, [slow, small, fast]) == (LayerRange(0, 3), LayerRange(3, 5), LayerRange(5, 12))


def test_the_output_head_counts_as_layers():
    capacity = Capacity(a_model(12, head_layers=4.0), NO_KV)
    assert chain_cuts(capacity, [a_donor("a", 12), a_donor("b", 12)]) == (LayerRange(0, 8), LayerRange(8, 12))


def test_what_cannot_be_cut_says_why():
    capacity = Capacity(a_model(4, head_bytes=20), NO_KV)
    with pytest.raises(StagesError, match="5 stages of 4 layers"):
        chain_cuts(capacity, [a_donor(str(n)) for n in range(5)])
    with pytest.raises(StagesError, match="donor b has no room"):
        chain_cuts(capacity, [a_donor("a"), a_donor("b", 1)])
    with pytest.raises(LayersMissingError, match=r"layers 1-2 of 0-3 .* more would suffice"):
        chain_cuts(capacity, [a_donor("a", 1), a_donor("b", 1, memory_bytes=31)])
