"""Who is near whom, and chains in which neighbours are."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_fleets import REGIONS, a_donor

from idlegrid.grid.layers.links import Links
from idlegrid.grid.layers.near import EXACT, Near, near, nearest_first
from idlegrid.grid.regions import round_trip_ms


def some(count, choose=None):
    return [a_donor(f"d{number}", region=REGIONS[choose[number] if choose else 0]) for number in range(count)]


def test_measured_pairs_then_their_regions_then_what_is_typical():
    told = {"a": {"b": 0.030, "x": 0.200, "gone": 1.0}, "b": {"a": 0.020}, "x": {"y": float("nan")}}
    regions = {"a": REGIONS[0], "b": REGIONS[0], "c": REGIONS[0], "x": REGIONS[1], "y": REGIONS[1]}
    found = near(regions, told)
    a, b, c, x, y = (a_donor(id_, region=region) for id_, region in regions.items())
    assert found.round_trip_s(a, b) == found.round_trip_s(b, a) == 0.020, "one link, of which both ends tell"
    assert found.round_trip_s(a, c) == 0.020, "as others of this region"
    assert found.round_trip_s(b, x) == 0.200, "as others of these regions"
    assert found.round_trip_s(x, y) == Links().inside_s, "nobody measured it"
    assert found.round_trip_s(a, a) == 0.0
    typical = Near().round_trip_s(a, x)
    assert typical == pytest.approx(Links().inside_s + round_trip_ms(REGIONS[0], REGIONS[1]) / 1000)


def test_an_access_line_that_is_slow_counts_where_nothing_was_measured():
    a, slow = a_donor("a"), a_donor("b", link_seconds=0.05)
    assert Near().round_trip_s(a, slow) == pytest.approx(Links().inside_s + 0.1)


pairs = st.dictionaries(
    st.tuples(st.integers(0, 11), st.integers(0, 11)).map(lambda pair: tuple(f"d{n}" for n in pair)),
    st.floats(0.0, 0.5),
    max_size=30,
)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), pairs)
def test_a_ring_is_the_shortest_of_all_orders(choose, measured):
    net = Near(pairs={tuple(sorted(pair)): seconds for pair, seconds in measured.items()})
    donors = some(len(choose), choose)
    ring = net.ring(donors)
    assert ring[0] is donors[0]
    assert sorted(one.id for one in ring) == sorted(one.id for one in donors)
    assert net.ring_s(ring) == pytest.approx(min(map(net.ring_s, permutations(donors))))


@settings(max_examples=20)
@given(st.permutations(range(12)))
def test_a_long_chain_goes_round_a_circle(places):
    """Twelve donors on a circle, in any order: no way between them is walked twice."""
    apart = {(a, b): abs(places[a] - places[b]) for a in range(12) for b in range(12)}
    way = {tuple(sorted((f"d{a}", f"d{b}"))): min(steps, 12 - steps) / 100 for (a, b), steps in apart.items()}
    net = Near(pairs=way)
    donors = some(12)
    assert len(donors) > EXACT
    assert net.ring_s(net.ring(donors)) == pytest.approx(0.06)


def test_regions_stay_together_and_equals_keep_their_order():
    donors = some(5, [0, 1, 0, 1, 0])
    regions = [one.region for one in Near().ring(donors)]
    assert sum(a != b for a, b in pairwise([*regions, regions[0]])) == 2
    assert Near().ring(some(5)) == some(5)
    assert [one.id for one in nearest_first(Near(), donors[1], donors)] == ["d1", "d3", "d0", "d2", "d4"]
