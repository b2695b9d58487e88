"""Where a model's layers go: ours against disjoint chains and against Petals' rule, on fleets of unequal donors.

Everything is fluid: a donor's tokens/s are its measured layer rate over the layers that it holds, and a fleet's are the
maximum flow. One JSON object on the last line: `flow_over_bound` (1 would be all compute, nothing wasted), `vs_chains`
and `vs_petals` (geometric means over the seeds, 24 to 42 donors), the same for larger fleets under `large`, and
`replan_s`, the time of a whole new plan for the largest fleet: layers, flow and routes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import scipy

from idlegrid.grid.layers.capacity import Capacity, LayerDonor
from idlegrid.grid.layers.cutting import chain_cuts, disjoint_chains
from idlegrid.grid.layers.flow import max_flow
from idlegrid.grid.layers.placing import place
from idlegrid.grid.layers.replanning import revise
from idlegrid.grid.layers.routing import Router
from idlegrid.grid.layers.shape import LayerRange, ModelShape, Traffic
from idlegrid.grid.layers.throughput import throughput
from idlegrid.grid.regions import REGIONS

MODEL = ModelShape(layers=80, layer_bytes=1_711_000_000, kv_bytes=4096, activation_bytes=8448)
"""Llama-70B in 16 bits, activations in 8."""
GPUS = (("T4", 16, 320), ("L4", 24, 300), ("V100", 16, 900), ("3090", 24, 936), ("A6000", 48, 768), ("A100", 80, 2039))
"""Name, GB of memory, GB/s of memory: a decoding step is bound by reading its weights."""
BATCH, SHARE_OF_PEAK, SHARE_OF_MEMORY = 32, 0.6, 0.9

_ROUNDS = 20
"""Rounds in which Petals' servers all move; they settle in fewer."""
TRAFFIC = Traffic(context_tokens=1.0)
"""Memory goes to weights, as in the papers' models of throughput: keys and values limit nobody."""

Assignment = dict[str, LayerRange]
Rule = Callable[[Capacity, Sequence[LayerDonor], random.Random], float]


def a_fleet(size: int, seed: int, regions: int = 1) -> list[LayerDonor]:
    """Donors of six kinds of GPU whose measured speeds scatter by 15 %."""
    choose = random.Random(seed)
    donors = []
    for number in range(size):
        _, memory, bandwidth = choose.choice(GPUS)
        rate = BATCH * SHARE_OF_PEAK * bandwidth * 1e9 / MODEL.layer_bytes * choose.lognormvariate(0.0, 0.15)
        region = tuple(REGIONS)[choose.randrange(regions)]
        room = int(SHARE_OF_MEMORY * memory * 1e9)
        donors.append(LayerDonor(id=f"{number:04}", region=region, memory_bytes=room, layer_rate=rate))
    return donors


def ours(capacity: Capacity, donors: Sequence[LayerDonor], choose: random.Random) -> float:
    """Tokens/s of our assignment, by maximum flow."""
    return max_flow(capacity, donors, place(capacity, donors, choose)).tokens_per_second


def chains(capacity: Capacity, donors: Sequence[LayerDonor], choose: random.Random) -> float:
    """Tokens/s of disjoint chains by Parallax's greedy rule (its `layer_allocation.py`): many chains of few stages.

    The donor with the most memory first, until the chain holds the model; its first donor is the smallest that would do
    alone, where others remain for another chain. What is left over serves nobody. Cuts are ours, so no worse than its.
    """
    waiting = sorted(donors, key=lambda one: -capacity.longest_inside(one))
    layers, total = capacity.model.layers, 0.0
    while sum(capacity.longest_inside(one) for one in waiting) >= layers:
        chain: list[LayerDonor] = []
        spare = sum(capacity.longest_inside(one) for one in waiting) - layers
        alone = [one for one in waiting if capacity.longest(one, 0) == layers]
        if alone and spare >= layers + 1:
            chain.append(alone[-1])
            waiting.remove(alone[-1])
        while sum(capacity.longest_inside(one) for one in chain) < layers and not alone:
            chain.append(waiting.pop(0))
        total += _chain_rate(capacity, chain)
    return total


def best_chains(capacity: Capacity, donors: Sequence[LayerDonor], choose: random.Random) -> float:
    """Tokens/s of the best disjoint chains that we know to make: any number, packed evenly by memory or by compute."""
    return max(throughput(capacity, donors, one) for one in disjoint_chains(capacity, donors))


def _chain_rate(capacity: Capacity, chain: Sequence[LayerDonor]) -> float:
    """Tokens/s of one chain's slowest stage; 0 when its donors can't hold the model."""
    if sum(capacity.longest_inside(one) for one in chain) < capacity.model.layers or len(chain) > capacity.model.layers:
        return 0.0
    cuts = chain_cuts(capacity, chain)
    return min(capacity.tokens_per_second(one, layers) for one, layers in zip(chain, cuts, strict=True))


def petals(capacity: Capacity, donors: Sequence[LayerDonor], choose: random.Random, *, quality: float = 0.75) -> float:
    """Tokens/s of Petals' rule: who joins takes the window with the weakest blocks; then servers move to balance.

    Its servers hold all that fits. They move when the weakest block before is less than `quality` (Petals' default) of
    the one after, all others' moves taken into account. Routes may enter in mid-span, as Petals' may.
    """
    swarm = _Swarm(capacity, donors, quality)
    order = list(range(len(donors)))
    choose.shuffle(order)
    for server in order:
        swarm.join(server)
    for _ in range(_ROUNDS if quality else 0):
        if not sum(swarm.move_if_it_pays(server, choose) for server in order):
            break
    return max_flow(capacity, donors, swarm.assignment()).tokens_per_second


def joined_petals(capacity: Capacity, donors: Sequence[LayerDonor], choose: random.Random) -> float:
    """Petals' rule before any server moves: its look ahead is quadratic, too long for a thousand servers here."""
    return petals(capacity, donors, choose, quality=0.0)


def eager_petals(capacity: Capacity, donors: Sequence[LayerDonor], choose: random.Random) -> float:
    """Petals' rule if its servers moved for any gain, which costs the users of each that moves their sessions."""
    return petals(capacity, donors, choose, quality=1.0)


class _Swarm:
    """Petals' servers (`petals/server/block_selection.py`, release 2.2, retold)."""

    def __init__(self, capacity: Capacity, donors: Sequence[LayerDonor], quality: float) -> None:
        self.donors, self.layers, self.quality = donors, capacity.model.layers, quality
        self.lengths = [capacity.longest_inside(one) for one in donors]
        self.rates = [one.rate / length for one, length in zip(donors, self.lengths, strict=True)]
        self.at: dict[int, int] = {}
        self.blocks = [0.0] * self.layers

    def assignment(self) -> Assignment:
        return {self.donors[s].id: LayerRange(start, start + self.lengths[s]) for s, start in self.at.items()}

    def join(self, server: int) -> None:
        length = self.lengths[server]
        windows = range(self.layers - length + 1)
        self._put(server, min(windows, key=lambda start: sorted(self.blocks[start : start + length])))

    def _put(self, server: int, start: int | None) -> None:
        """Move `server` to `start`, or out of the swarm."""
        if server in self.at:
            self._add(self.at.pop(server), server, -1.0)
        if start is not None:
            self.at[server] = start
            self._add(start, server, 1.0)

    def _add(self, start: int, server: int, sign: float) -> None:
        for block in range(start, start + self.lengths[server]):
            self.blocks[block] += sign * self.rates[server]

    def _rejoin(self, server: int) -> bool:
        """Take it out and let it join anew; whether it came elsewhere."""
        old = self.at[server]
        self._put(server, None)
        self.join(server)
        return self.at[server] != old

    def move_if_it_pays(self, server: int, choose: random.Random) -> bool:
        """Let one server ask its question: it moves when the whole swarm, moving after it, would be so much better."""
        before, places = min(self.blocks), dict(self.at)
        self._put(server, None)
        disjoint = min(self.blocks) <= before * 1e-9
        self.join(server)
        mine = self.at[server]
        if mine == places[server] or disjoint:
            self._put(server, places[server])
            return False
        for _ in range(_ROUNDS):
            if not sum(self._rejoin(other) for other in choose.sample(list(self.at), len(self.at))):
                break
        after = min(self.blocks)
        for other, start in places.items():
            self._put(other, start)
        if after <= before or before / after >= self.quality - 1e-3:
            return False
        self._put(server, mine)
        return True


RULES: dict[str, Rule] = {
    "ours": ours,
    "chains": chains,
    "best_chains": best_chains,
    "petals": petals,
    "petals_eager": eager_petals,
}


def compared(sizes: Sequence[int], regions: int, rules: dict[str, Rule]) -> list[dict[str, float]]:
    """For each seed, tokens/s of every rule over the compute bound."""
    rows = []
    for seed, size in enumerate(sizes):
        donors = a_fleet(size, seed, regions)
        capacity = Capacity(MODEL, TRAFFIC)
        bound = capacity.bound(donors)
        rows.append({name: rule(capacity, donors, random.Random(seed)) / bound for name, rule in rules.items()})
    return rows


def told(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Geometric means over the seeds; ranges where there is more than one."""

    def mean(values: Sequence[float]) -> float:
        return round(statistics.geometric_mean(values), 3)

    ratios = {name: [row["ours"] / row[name] for row in rows] for name in rows[0] if name != "ours"}
    spread = {f"vs_{name}_range": [round(min(one), 3), round(max(one), 3)] for name, one in ratios.items()}
    return {
        "flow_over_bound": mean([row["ours"] for row in rows]),
        **{f"vs_{name}": mean(one) for name, one in ratios.items()},
        **(spread if len(rows) > 1 else {}),
    }


def replanned(size: int, regions: int, turns: int = 5) -> dict[str, float]:
    """Seconds of a whole new plan, of its parts, and of the answer to one donor that leaves: the least of all turns."""
    times = [_replanned(size, regions) for _ in range(turns)]
    return {name: round(min(one[name] for one in times), 3) for name in times[0]}


def _replanned(size: int, regions: int) -> dict[str, float]:
    donors, capacity = a_fleet(size, 0, regions), Capacity(MODEL, TRAFFIC)
    clock, begun_cpu = [time.perf_counter()], time.process_time()
    assignment = place(capacity, donors, random.Random(0))
    clock.append(time.perf_counter())
    flow = max_flow(capacity, donors, assignment)
    clock.append(time.perf_counter())
    Router(flow, MODEL.layers).route()
    clock.append(time.perf_counter())
    cpu = time.process_time() - begun_cpu
    revision = revise(capacity, donors[1:], assignment, random.Random(0))
    Router(max_flow(capacity, donors[1:], revision.assignment), MODEL.layers).route()
    clock.append(time.perf_counter())
    parts = [after - before for before, after in itertools.pairwise(clock)]
    names = ("place_s", "flow_s", "router_s", "leave_s")
    return {"replan_s": sum(parts[:3]), "replan_cpu_s": cpu, **dict(zip(names, parts, strict=True))}


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--large", type=int, nargs="*", default=[100, 1000, 3000])
    parser.add_argument("--regions", type=int, default=6, help="of the large fleets")
    options = parser.parse_args(argv)
    sizes = [24 + round(18 * seed / max(1, options.seeds - 1)) for seed in range(options.seeds)]
    figures = told(compared(sizes, 1, RULES))
    large = {}
    for size in options.large:
        rules = {"ours": ours, "chains": chains, "petals_join": joined_petals}
        large[str(size)] = {**told(compared([size], options.regions, rules)), **replanned(size, options.regions)}
    conditions = {
        **vars(options),
        "sizes": sizes,
        "model": "80 layers of 1.711 GB",
        "python": platform.python_version(),
        "scipy": scipy.__version__,
        "cores": os.cpu_count(),
    }
    last = large[str(max(options.large))] if options.large else {}
    print(json.dumps({**figures, "replan_s": last.get("replan_s"), "large": large, "conditions": conditions}))


if __name__ == "__main__":
    main()
