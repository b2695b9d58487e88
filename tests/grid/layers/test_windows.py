"""The arrays say what the arithmetic says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from layer_fleets import fleets

from idlegrid.grid.layers.shape import LayerRange
from idlegrid.grid.layers.windows import windows


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_every_range_that_fits_with_its_rate(fleet):
    capacity, donors = fleet
    last = capacity.model.layers
    every = [LayerRange(start, end) for start in range(last) for end in range(start + 1, last + 1)]
    for one in donors:
        known = windows(capacity, one)
        found = {known.range(place): rate for place, rate in enumerate(known.rates.tolist())}
        assert found == pytest.approx({r: capacity.tokens_per_second(one, r) for r in every if capacity.fits(one, r)})


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_with_lengths_the_ends_are_still_there(fleet):
    capacity, donors = fleet
    for one in donors:
        known = windows(capacity, one, [2])
        found = {known.range(place) for place in range(len(known.rates))}
        assert all(len(layers) == 2 or layers.start == 0 or layers.end == capacity.model.layers for layers in found)
        if first := capacity.longest(one, 0):
            assert LayerRange(0, first) in found
        if final := capacity.longest_to_end(one):
            assert LayerRange(capacity.model.layers - final, capacity.model.layers) in found
