"""The soonest route against all routes there are."""

from __future__ import annotations

import random

import pytest
from layer_fleets import NO_KV, REGIONS, a_donor, a_fleet, a_model, an_assignment

from idlegrid.grid.layers.capacity import Capacity
from idlegrid.grid.layers.latency import least_latency
from idlegrid.grid.layers.links import Links
from idlegrid.grid.layers.shape import LayerRange

CAPACITY = Capacity(a_model(6, head_layers=1.0), NO_KV)


def soonest(donors, held, links, layers, home, to, waits) -> float | None:
    """By trying every sequence of donors."""
    times = []

    def go(cut: int, region: str, spent: float) -> None:
        if cut == layers.end:
            times.append(spent + links.round_trip_s(region, to) / 2)
            return
        for one in donors:
            if one.id in held and cut in held[one.id]:
                end = min(held[one.id].end, layers.end)
                work = CAPACITY.model.work(LayerRange(cut, end)) * one.seconds_a_layer
                hop = links.round_trip_s(region, one.region) / 2 + 2 * one.link_seconds
                go(end, one.region, spent + hop + work + waits.get(one.id, 0.0))

    go(layers.start, home, 0.0)
    return min(times, default=None)


@pytest.mark.parametrize("seed", range(60))
def test_as_soon_as_any_route(seed):
    choose = random.Random(seed)
    donors = [
        a_donor(one.id, 6, one.layer_rate, region=one.region, link_seconds=choose.choice([0.0, 0.02]))
        for one in a_fleet(choose, 7, 6, regions=3)
    ]
    held = an_assignment(choose, donors, CAPACITY)
    start = choose.randrange(6)
    layers = choose.choice([LayerRange(0, 6), LayerRange(start, choose.randint(start + 1, 6))])
    home, to = choose.choice(REGIONS), choose.choice(REGIONS)
    waits = {one.id: choose.random() / 5 for one in donors}
    links = Links(round_trips_s={(REGIONS[0], REGIONS[1]): 0.9})
    found = least_latency(CAPACITY, donors, held, home, links=links, layers=layers, to=to, waits=waits)
    best = soonest(donors, held, links, layers, home, to, waits)
    if best is None:
        assert found is None
    else:
        assert found.seconds == pytest.approx(best)
        assert [layer for hop in found.route.hops for layer in hop.layers] == list(layers)


def test_a_near_chain_beats_a_fast_far_donor():
    near = [a_donor("n0", rate=100.0), a_donor("n1", rate=100.0)]
    far = a_donor("far", rate=1000.0, region="oceania")
    held = {"n0": LayerRange(0, 3), "n1": LayerRange(3, 6), "far": LayerRange(0, 6)}
    assert least_latency(CAPACITY, [*near, far], held, "europe-west").route.donors == ("n0", "n1")
    assert least_latency(CAPACITY, [*near, far], held, "oceania").route.donors == ("far",)
    assert least_latency(CAPACITY, [*near, far], held, "europe-west", waits={"n1": 1.0}).route.donors == ("far",)


def test_a_lost_stage_is_replaced_by_two():
    donors = [a_donor(name) for name in "abcd"]
    held = {
        "a": LayerRange(0, 2),
        "lost": LayerRange(2, 5),
        "b": LayerRange(1, 4),
        "c": LayerRange(3, 6),
        "d": LayerRange(5, 6),
    }
    found = least_latency(CAPACITY, donors, held, "europe-west", layers=LayerRange(2, 5), avoid={"d"})
    assert [(hop.donor_id, str(hop.layers)) for hop in found.route.hops] == [("b", "2-3"), ("c", "4")]
    assert least_latency(CAPACITY, donors, held, "europe-west", layers=LayerRange(2, 5), avoid={"c"}) is None
