"""The maximum flow against linear programs, its own closed form, and a graph solved by hand."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
from layer_fleets import NO_KV, REGIONS, a_donor, a_fleet, a_model, an_assignment
from scipy.optimize import linprog

from idlegrid.grid.layers.capacity import Capacity
from idlegrid.grid.layers.flow import Flow, max_flow
from idlegrid.grid.layers.links import Links
from idlegrid.grid.layers.shape import LayerRange
from idlegrid.grid.layers.throughput import throughput


def optimum(capacity: Capacity, donors, held, links: Links) -> float:
    """The same flow as a linear program: tokens/s into each donor at each cut, and over each border at each cut."""
    layers = capacity.model.layers
    names: list[tuple] = []
    for one in donors:
        if one.id in held:
            names += [("enter", one.id, cut) for cut in held[one.id]]
    names += [("cross", a, b, cut) for cut in range(1, layers) for a in REGIONS for b in REGIONS]
    column = {name: number for number, name in enumerate(names)}
    rows, limits = [], []
    balance = defaultdict(lambda: np.zeros(len(names)))
    for one in donors:
        if one.id in held:
            row = np.zeros(len(names))
            for cut in held[one.id]:
                row[column["enter", one.id, cut]] = 1
                balance["leave", one.region, cut][column["enter", one.id, cut]] -= 1
                balance["arrive", one.region, held[one.id].end][column["enter", one.id, cut]] += 1
            rows.append(row)
            limits.append(capacity.tokens_per_second(one, held[one.id]))
    bounds = []
    for name in names:
        if name[0] == "cross":
            _, a, b, cut = name
            balance["arrive", a, cut][column[name]] -= 1
            balance["leave", b, cut][column[name]] += 1
            bounds.append((0, None if a == b else links.bytes_per_second(a, b) / capacity.model.activation_bytes))
        else:
            bounds.append((0, None))
    inner = [row for (_, _, cut), row in balance.items() if 0 < cut < layers]
    goal = -sum(row for (side, _, cut), row in balance.items() if side == "arrive" and cut == layers)
    if not rows or np.isscalar(goal):
        return 0.0
    found = linprog(goal, A_ub=rows, b_ub=limits, A_eq=inner or None, b_eq=[0] * len(inner) or None, bounds=bounds)
    assert found.status == 0
    return -found.fun


@pytest.mark.parametrize("part", range(4))
def test_two_hundred_graphs_against_a_linear_program(part):
    for seed in range(50 * part, 50 * part + 50):
        choose = random.Random(seed)
        capacity = Capacity(a_model(choose.randint(1, 7)), NO_KV)
        donors = a_fleet(choose, choose.randint(1, 8), capacity.model.layers, regions=3)
        held = an_assignment(choose, donors, capacity)
        links = Links(bytes_s={(a, b): choose.choice([0.0, 1.0, 4.0, 50.0]) for a in REGIONS for b in REGIONS})
        flow = max_flow(capacity, donors, held, links)
        assert flow.tokens_per_second == pytest.approx(optimum(capacity, donors, held, links), rel=1e-6, abs=1e-6), seed
        open_borders = max_flow(capacity, donors, held)
        assert open_borders.tokens_per_second == pytest.approx(throughput(capacity, donors, held), rel=1e-6), seed


def test_tokens_are_conserved_and_no_donor_overfilled():
    for seed in range(40):
        choose = random.Random(seed)
        capacity = Capacity(a_model(8), NO_KV)
        donors = a_fleet(choose, 12, 8, regions=3)
        held = an_assignment(choose, donors, capacity)
        flow = max_flow(capacity, donors, held, Links(bytes_s={("oceania", "europe-west"): 2.0}))
        used, at = defaultdict(float), defaultdict(float)
        for entry in flow.entries:
            assert entry.cut in held[entry.donor_id]
            assert entry.end == held[entry.donor_id].end
            used[entry.donor_id] += entry.rate
            at[entry.cut, entry.region] -= entry.rate
            at[entry.end, entry.region] += entry.rate
        for crossing in flow.crossings:
            at[crossing.cut, crossing.source] -= crossing.rate
            at[crossing.cut, crossing.target] += crossing.rate
        assert [at[cut, region] for cut in range(1, 8) for region in REGIONS] == pytest.approx([0.0] * 21, abs=1e-6)
        assert sum(at[8, region] for region in REGIONS) == pytest.approx(flow.tokens_per_second)
        known = {one.id: one for one in donors}
        assert all(rate <= capacity.tokens_per_second(known[id_], held[id_]) + 1e-6 for id_, rate in used.items())


def test_a_fleet_solved_by_hand():
    """`a` carries 3 tokens/s, `b` 2, `c` 4; those of `b` enter `c` at layer 2, in the middle of its layers 1-3."""
    capacity = Capacity(a_model(4), NO_KV)
    donors = [a_donor("a", rate=12.0), a_donor("b", rate=4.0), a_donor("c", rate=12.0)]
    held = {"a": LayerRange(0, 4), "b": LayerRange(0, 2), "c": LayerRange(1, 4)}
    flow = max_flow(capacity, donors, held)
    assert flow.tokens_per_second == pytest.approx(5)
    told = {(entry.donor_id, entry.cut, entry.end): entry.rate for entry in flow.entries}
    assert told == pytest.approx({("a", 0, 4): 3, ("b", 0, 2): 2, ("c", 2, 4): 2})


def test_regions_serve_themselves_before_tokens_cross_a_border():
    capacity = Capacity(a_model(2), NO_KV)
    west = [a_donor("w0", rate=4.0), a_donor("w1", rate=3.0)]
    south = [a_donor("s0", rate=1.0, region="oceania"), a_donor("s1", rate=5.0, region="oceania")]
    first, second = LayerRange(0, 1), LayerRange(1, 2)
    held = {"w0": first, "w1": second, "s0": first, "s1": second}
    flow = max_flow(capacity, [*west, *south], held)
    assert flow.tokens_per_second == pytest.approx(5)
    assert flow.inside == pytest.approx(3 + 1)
    assert [(c.cut, c.source, c.target) for c in flow.crossings] == [(1, "europe-west", "oceania")]
    assert flow.crossings[0].rate == pytest.approx(1)
    closed = max_flow(capacity, [*west, *south], held, Links(bytes_s={("europe-west", "oceania"): 0.25}))
    assert closed.tokens_per_second == pytest.approx(4.25)


def test_nothing_flows_past_a_layer_that_nobody_holds():
    capacity, donors = Capacity(a_model(4), NO_KV), [a_donor("a"), a_donor("b")]
    assert max_flow(capacity, donors, {"a": LayerRange(0, 2), "b": LayerRange(3, 4)}) == Flow()
    assert max_flow(capacity, donors, {"b": LayerRange(1, 4)}) == Flow()
    assert max_flow(capacity, [], {}) == Flow()


SCRIPT = """
import sys
from idlegrid.grid.layers import placing, replanning, routing, latency, flow
from idlegrid.grid.layers.capacity import Capacity, LayerDonor
from idlegrid.grid.layers.shape import LayerRange, ModelShape
assert not [name for name in sys.modules if name.split(".")[0] == "scipy"]
sys.modules["scipy"] = None
donor = LayerDonor(id="d", region="oceania", memory_bytes=10**9, layer_rate=1.0)
capacity = Capacity(ModelShape(layers=1, layer_bytes=1, kv_bytes=1, activation_bytes=1))
try:
    flow.max_flow(capacity, [donor], {"d": LayerRange(0, 1)})
except flow.ScipyMissingError as error:
    print(error)
"""


def test_without_scipy_the_rules_import_and_the_flow_says_what_to_install():
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "pip install 'idlegrid[api]'" in told
