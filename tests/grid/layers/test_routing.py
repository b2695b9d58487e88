"""Routes in proportion to the flow, each over every layer once."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from layer_fleets import NO_KV, REGIONS, a_donor, a_fleet, a_model, an_assignment

from idlegrid.grid.layers.capacity import Capacity
from idlegrid.grid.layers.flow import Flow, max_flow
from idlegrid.grid.layers.routing import Router
from idlegrid.grid.layers.shape import LayerRange

CAPACITY = Capacity(a_model(8), NO_KV)


def a_flow(seed: int, size: int = 12, regions: int = 3):
    choose = random.Random(seed)
    donors = a_fleet(choose, size, 8, regions)
    held = {**an_assignment(choose, donors, CAPACITY), "whole": CAPACITY.model.whole}
    donors.append(a_donor("whole", 8, 9.0))
    return donors, held, max_flow(CAPACITY, donors, held)


@pytest.mark.parametrize("seed", range(2))
def test_ten_thousand_routes_are_shared_as_the_flow_is(seed):
    _, _, flow = a_flow(seed)
    router = Router(flow, 8)
    routes = [router.route() for _ in range(10_000)]
    counts = Counter((hop.donor_id, hop.layers.start) for route in routes for hop in route.hops)
    wanted = {(e.donor_id, e.cut): e.rate / flow.tokens_per_second * 10_000 for e in flow.entries}
    assert set(counts) <= set(wanted)
    assert all(abs(counts[name] - share) <= 200 for name, share in wanted.items())  # 2 %


@pytest.mark.parametrize("seed", range(20))
def test_every_route_computes_each_layer_once(seed):
    _, held, flow = a_flow(seed)
    router = Router(flow, 8)
    for _ in range(50):
        hops = router.route().hops
        assert [layer for hop in hops for layer in hop.layers] == list(range(8))
        assert all(hop.layers.end == held[hop.donor_id].end for hop in hops)
        assert all(hop.layers.start in held[hop.donor_id] for hop in hops)


def test_routes_take_turns():
    donors = [a_donor("a", rate=16.0), a_donor("b", rate=8.0)]
    router = Router(max_flow(CAPACITY, donors, dict.fromkeys("ab", CAPACITY.model.whole)), 8)
    turns = [router.route().donors[0] for _ in range(12)]
    assert all(sorted(turns[at : at + 3]) == ["a", "a", "b"] for at in range(0, 12, 3))


def test_a_session_begins_in_its_own_region_where_it_can():
    whole = dict.fromkeys("ab", CAPACITY.model.whole)
    donors = [a_donor("a", rate=80.0), a_donor("b", rate=8.0, region="oceania")]
    router = Router(max_flow(CAPACITY, donors, whole), 8)
    assert router.starts == pytest.approx({"europe-west": 10, "oceania": 1})
    assert router.route("oceania").donors == ("b",)
    assert router.route("oceania", avoid={"b"}).donors == ("a",)
    assert router.route("america-north").donors == ("a",)


def test_who_is_full_or_ill_is_passed_by():
    _, held, flow = a_flow(1)
    router = Router(flow, 8)
    for id_ in {entry.donor_id for entry in flow.entries} - {"whole"}:
        route = router.route(avoid={id_})
        assert route is not None
        assert id_ not in route.donors
    assert router.route(avoid=set(held)) is None
    assert Router(Flow(), 8).route() is None


def test_a_way_that_ends_at_a_full_donor_is_left_for_another():
    donors = [a_donor(name, rate=8.0) for name in "abcd"]
    held = {"a": LayerRange(0, 3), "b": LayerRange(3, 8), "c": LayerRange(0, 5), "d": LayerRange(5, 8)}
    router = Router(max_flow(CAPACITY, donors, held), 8)
    assert {router.route(avoid={"b"}).donors[0] for _ in range(5)} == {"c"}


def test_a_new_plan_keeps_the_balance_and_does_not_flood_the_newcomer():
    whole = dict.fromkeys("abc", CAPACITY.model.whole)
    donors = [a_donor(name, rate=8.0) for name in "abc"]
    router = Router(max_flow(CAPACITY, donors[:2], whole), 8)
    for _ in range(101):
        router.route()
    router = router.renewed(max_flow(CAPACITY, donors, whole))
    counts = Counter(router.route().donors[0] for _ in range(9))
    assert counts["c"] <= 4
    assert min(counts.values()) >= 2
    assert set(REGIONS[:1]) == set(router.starts)
