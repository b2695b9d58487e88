"""What fits a donor, and the three limits of what it carries."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from layer_fleets import NO_KV, a_donor, a_model, fleets

from idlegrid.grid.layers.capacity import Capacity, LayerDonor, by_id
from idlegrid.grid.layers.shape import LayerRange, Traffic


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_the_longest_range_fits_and_a_longer_one_does_not(fleet):
    capacity, donors = fleet
    last = capacity.model.layers
    for one in donors:
        for start in range(last):
            most = max(
                (end - start for end in range(start + 1, last + 1) if capacity.fits(one, LayerRange(start, end))),
                default=0,
            )
            assert capacity.longest(one, start) == most
        to_end = max((last - start for start in range(last) if capacity.fits(one, LayerRange(start, last))), default=0)
        assert capacity.longest_to_end(one) == to_end
        inner = (
            len(LayerRange(a, b))
            for a in range(1, last)
            for b in range(a + 1, last)
            if capacity.fits(one, LayerRange(a, b))
        )
        assert capacity.longest_inside(one) == max(inner, default=0)


def test_compute_memory_and_network_limit():
    model = a_model(10, layer_bytes=100, kv_bytes=2, activation_bytes=50)
    capacity, layers = Capacity(model, Traffic(context_tokens=10, token_seconds=0.5)), LayerRange(2, 6)
    donor = LayerDonor(id="d", region="oceania", memory_bytes=10_000, layer_rate=80, reliability=0.5)
    assert capacity.tokens_per_second(donor, layers) == 10  # 80 × 0.5 over 4 layers
    small = LayerDonor(id="d", region="oceania", memory_bytes=400 + 4 * 20 * 3, layer_rate=80)
    assert capacity.sequences(small, layers) == 3
    assert capacity.tokens_per_second(small, layers) == 6  # 3 sequences, a token each every half second
    slow = LayerDonor(id="d", region="oceania", memory_bytes=10_000, layer_rate=80, up_bytes_s=100, down_bytes_s=150)
    assert capacity.tokens_per_second(slow, layers) == 2  # 100 bytes/s at 50 bytes a token


def test_ample_layers_leave_room_for_keys_and_values():
    model = a_model(40, layer_bytes=100, kv_bytes=1)
    capacity = Capacity(model, Traffic(context_tokens=10, token_seconds=1.0))
    donor = LayerDonor(id="d", region="oceania", memory_bytes=2000, layer_rate=100)
    ample = capacity.ample(donor)
    limits = [capacity.tokens_per_second(donor, LayerRange(1, 1 + n)) * n < 100 - 1e-9 for n in range(1, 19)]
    assert ample == 10
    assert limits == [n > ample for n in range(1, 19)]


def test_the_bound_is_all_compute():
    capacity = Capacity(a_model(8, head_layers=2.0), NO_KV)
    assert capacity.bound([a_donor("a", rate=30.0), a_donor("b", rate=20.0)]) == 5


@pytest.mark.parametrize("facts", [{"rate": 0.0}, {"reliability": 0.0}])
def test_who_computes_nothing_holds_nothing(facts):
    capacity, donor = Capacity(a_model(), NO_KV), a_donor("d", **facts)
    assert not capacity.fits(donor, LayerRange(0, 1))
    assert capacity.longest(donor, 0) == capacity.longest_inside(donor) == capacity.longest_to_end(donor) == 0


@pytest.mark.parametrize(
    "facts", [{"rate": -1.0}, {"rate": float("inf")}, {"reliability": 1.5}, {"up_bytes_s": 0}, {"link_seconds": -1}]
)
def test_impossible_donors_are_refused(facts):
    with pytest.raises(ValueError, match="allowed"):
        a_donor("d", **facts)


def test_two_donors_of_one_id_are_refused():
    with pytest.raises(ValueError, match="each id once"):
        by_id([a_donor("d"), a_donor("d")])
