"""Assignments from scratch: against the optimum of a MILP, and what always holds."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from layer_fleets import NO_KV, REGIONS, a_donor, a_fleet, a_model, fleets
from scipy.optimize import LinearConstraint, milp

from idlegrid.grid.layers.capacity import Capacity
from idlegrid.grid.layers.coverage import can_cover, covered, held_below
from idlegrid.grid.layers.cutting import disjoint_chains
from idlegrid.grid.layers.placing import SMALL_FLEET, Aims, Effort, place
from idlegrid.grid.layers.shape import LayerRange
from idlegrid.grid.layers.throughput import throughput
from idlegrid.grid.layers.windows import windows

FREE = Aims(redundancy_cost=0.0)
BRIEF = Effort(restarts=6)
QUICK = Effort(passes=2, restarts=1)


def optimum(capacity: Capacity, donors, gap: float = 0.0) -> float:
    """What no assignment can exceed, within `gap`: each donor takes at most one window, and the floor is raised."""
    layers = capacity.model.layers
    known = [windows(capacity, one) for one in donors]  # proven against brute force in test_windows
    count = sum(len(one.rates) for one in known)
    rates, owners = np.zeros((layers, count + 1)), np.zeros((len(donors), count + 1))
    at = 0
    for number, one in enumerate(known):
        for start, end, rate in zip(one.starts, one.ends, one.rates, strict=True):
            rates[start:end, at] = rate
            owners[number, at] = 1
            at += 1
    rates[:, count] = -1.0
    goal = np.zeros(count + 1)
    goal[count] = -1.0
    found = milp(
        goal,
        constraints=[LinearConstraint(rates, lb=0), LinearConstraint(owners, ub=1)],
        integrality=np.array([1] * count + [0]),
        options={"mip_rel_gap": gap},
        bounds=(np.zeros(count + 1), np.array([1.0] * count + [np.inf])),
    )
    assert found.status == 0
    return -found.mip_dual_bound


@pytest.mark.parametrize("part", range(5))
def test_fifty_fleets_within_a_tenth_of_the_optimum(part):
    for seed in range(10 * part, 10 * part + 10):
        choose = random.Random(seed)
        capacity = Capacity(a_model(choose.randint(3, 6)), NO_KV)
        donors = a_fleet(choose, choose.randint(2, 4), capacity.model.layers)
        ours = throughput(capacity, donors, place(capacity, donors, random.Random(seed), aims=FREE))
        best = optimum(capacity, donors, gap=0.03)
        assert best * 0.9 - 1e-6 <= ours <= best + 1e-6, seed


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_what_can_be_covered_is_covered_and_everything_fits(fleet):
    capacity, donors = fleet
    held = place(capacity, donors, random.Random(0), effort=QUICK)
    known = {one.id: one for one in donors}
    assert all(capacity.fits(known[id_], layers) for id_, layers in held.items())
    assert bool(covered(capacity, held)) == bool(can_cover(capacity, donors))


def test_three_donors_placed_by_hand():
    """All compute is 36 layers × tokens/s over 6 layers, so 6 tokens/s: only one assignment wastes nothing."""
    donors = [a_donor("fast", 3, 18.0), a_donor("left", 1, 6.0), a_donor("right", 2, 12.0)]
    capacity = Capacity(a_model(6), NO_KV)
    held = place(capacity, donors, random.Random(0))
    assert throughput(capacity, donors, held) == 6
    assert {id_: len(layers) for id_, layers in held.items()} == {"fast": 3, "left": 1, "right": 2}


def test_a_model_that_fits_each_donor_is_held_whole_by_each():
    capacity, donors = Capacity(a_model(8), NO_KV), [a_donor(name, 8, rate) for name, rate in (("a", 9.0), ("b", 4.0))]
    assert place(capacity, donors, random.Random(0)) == dict.fromkeys("ab", LayerRange(0, 8))


def test_spare_donors_are_second_holders():
    capacity = Capacity(a_model(8), NO_KV)
    for seed in range(10):
        donors = a_fleet(random.Random(seed), 9, 8)
        held = place(capacity, donors, random.Random(seed), effort=BRIEF)
        assert not held_below(2, 8, held.values()), seed
        best = throughput(capacity, donors, place(capacity, donors, random.Random(seed), effort=BRIEF, aims=FREE))
        assert throughput(capacity, donors, held) >= 0.85 * best


def test_a_second_holder_costs_no_more_than_agreed():
    """`a` holds one half alone; `d` at its side gives up a twentieth of what it would add to the weaker half."""
    capacity = Capacity(a_model(4), NO_KV)
    donors = [a_donor("a", 2, 10.0), a_donor("b", 2, 4.0), a_donor("c", 2, 4.0), a_donor("d", 2, 0.4)]
    fastest = place(capacity, donors, random.Random(0), aims=FREE)
    assert throughput(capacity, donors, fastest) == pytest.approx(4.2)
    assert sum(map(len, held_below(2, 4, fastest.values()))) == 2
    doubled = place(capacity, donors, random.Random(0), aims=Aims(redundancy_cost=0.1))
    assert throughput(capacity, donors, doubled) == pytest.approx(4.0)
    assert not held_below(2, 4, doubled.values())


def test_never_worse_than_disjoint_chains():
    for seed in range(15):
        choose = random.Random(seed)
        capacity = Capacity(a_model(12), NO_KV)
        donors = a_fleet(choose, 9, 9)
        chains = [throughput(capacity, donors, one) for one in disjoint_chains(capacity, donors)]
        held = place(capacity, donors, random.Random(seed), effort=QUICK, aims=FREE)
        assert throughput(capacity, donors, held) >= max(chains, default=0.0) - 1e-9


def test_regions_that_can_cover_the_model_do():
    choose = random.Random(3)
    capacity = Capacity(a_model(8), NO_KV)
    donors = a_fleet(choose, 60, 8, regions=3)
    held = place(capacity, donors, random.Random(0), effort=QUICK)
    total = throughput(capacity, donors, held)
    inside = [throughput(capacity, [one for one in donors if one.region == name], held) for name in REGIONS]
    assert total >= 0.9 * capacity.bound(donors)
    assert sum(inside) >= 0.9 * total


def test_a_region_too_small_for_the_model_helps_the_others():
    capacity = Capacity(a_model(8), NO_KV)
    donors = [a_donor("a", 8, 40.0), a_donor("b", 8, 40.0), a_donor("far", 4, 16.0, region="oceania")]
    held = place(capacity, donors, random.Random(0))
    assert throughput(capacity, donors, held) == pytest.approx(optimum(capacity, donors))  # 10 without it


def test_large_fleets_come_close_to_all_their_compute():
    capacity = Capacity(a_model(12), NO_KV)
    donors = a_fleet(random.Random(1), SMALL_FLEET + 150, 12)
    held = place(capacity, donors, random.Random(0))
    assert throughput(capacity, donors, held) >= 0.95 * capacity.bound(donors)


def test_the_same_arguments_give_the_same_assignment():
    capacity, donors = Capacity(a_model(8), NO_KV), a_fleet(random.Random(5), 7, 8)
    assert place(capacity, donors, random.Random(1)) == place(capacity, donors[::-1], random.Random(1))


def test_only_who_may_moves():
    capacity, donors = Capacity(a_model(8), NO_KV), [a_donor(name, 4) for name in "abc"]
    held = {"a": LayerRange(1, 5), "b": LayerRange(3, 7)}
    placed = place(capacity, donors, random.Random(0), held=held, movable={"b"})
    assert placed["a"] == held["a"]
    assert placed["b"] != held["b"]
    assert place(capacity, donors, random.Random(0), held=held, movable=set()).items() >= held.items()
