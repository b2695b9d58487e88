"""What a chain of stages costs and what it gives, on processes of this machine, with a delay between them.

One JSON object on the last line. A Llama of 32 M parameters with random weights in float32, greedy answers, every stage
a process of one torch thread; sequencer and head are in this one. Addresses on loopback are the machines
(`shard_machines.py`): what passes between two of them takes the delay, each way.

- `push_vs_star`, by delay in ms: tokens a second of one stream over four stages, hidden states pushed from stage to
  stage, against a client in the middle that gets and sends on each of them (Petals' way): the same stages, links and
  frames. The head is on the last stage's machine, the star's client on one of its own. `apart`: so is the head.
- `pipelined_vs_serial`: tokens a second of 24 requests at once against one after the other, at 50 ms.
- `chain_efficiency`: tokens a second of 8 requests at once, without delay. `three_cores`: three stages of one thread
  against the whole model in this process on the same cores, with three threads or one, whichever is faster. `one_core`:
  all on one, and one step under way, so that only what cutting costs is seen.
- `recovery`: a stage is killed in the middle of an answer to 512 tokens: time to the next token over (detection + 1.3 ×
  the time to the first token of such a prompt), for each place in a chain of three with a spare beside it.
- `hang`: the pause of a stream when a stage is stopped (SIGSTOP) instead; `false_alarms`: how often else a chain broke.
- `bytes_per_token_per_hop`, raw and int8.
- `hop_overhead_us`: see `shard_hop.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import signal
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import shard_hop
import torch
from shard_machines import BLOCK, BLOCKS, MODEL, Machine, Network, Star, context, join_network, machine, pin
from shard_requests import LATE, Told, asked, engine, run
from stage import SHAPES, make, say

from idlegrid.actors.llm.chain import LocalChain
from idlegrid.actors.llm.stage import Stage
from idlegrid.actors.shards.failover import Failover, Loss
from idlegrid.actors.shards.frame import Codec
from idlegrid.actors.shards.head import Head
from idlegrid.actors.shards.loop_thread import LoopThread

SHAPE = "llama-32m"
LAYERS = SHAPES[SHAPE]["num_hidden_layers"]
VOCAB = SHAPES[SHAPE]["vocab_size"]
APART = machine(9)
"""Where nobody else is."""
EFFICIENCY_TURNS = 3
KILLS, HANGS = 3, 4
"""Rounds of three."""


def cut(stages: int) -> list[range]:
    """Layers in even parts."""
    edges = [LAYERS * index // stages for index in range(stages + 1)]
    return [range(*pair) for pair in itertools.pairwise(edges)]


# ---- a chain


class Grid:
    """Stages in a row, and spares."""

    def __init__(self, folder: Path, stages: int, cores: Sequence[int]) -> None:
        self.folder, self.cores = folder, cores
        self.stages = [Machine(folder, layers, number, cores) for number, layers in enumerate(cut(stages), 1)]
        self.spares: list[Machine] = []
        self.gone: list[Machine] = []
        self.loop = LoopThread("grid")

    @property
    def all(self) -> list[Machine]:
        return [*self.stages, *self.spares]

    def delay(self, milliseconds: float) -> None:
        """From now on."""
        Network.delay = milliseconds / 1e3
        for each in self.all:
            each.ask("delay", Network.delay)

    @contextmanager
    def chain(self, beside: int | None = -1, codec: Codec = Codec.RAW, **head: Any) -> Iterator[Failover]:
        """`beside`: which stage's machine the head is on; None: on its own."""
        Network.here = APART if beside is None else self.stages[beside].host

        async def opened() -> Failover:
            made = Head(uuid.uuid4().bytes, MODEL, LAYERS, address=f"tcp://{Network.here}:0", **head)
            places = [each.place() for each in self.stages]
            return await Failover(made, places, self.replace, codec=codec).open()

        chain = self.loop.run(opened()).result(LATE)
        try:
            yield chain
        finally:
            self.loop.run(chain.close()).result(LATE)

    async def replace(self, loss: Loss) -> list[Any]:
        """Each that is lost by the spare of its layers."""
        for index in loss.lost:
            old, spare = self.stages[index], next(one for one in self.spares if one.layers == loss.places[index].layers)
            self.spares.remove(spare)
            self.gone.append(old)
            self.stages[index] = spare
        return [each.place() for each in self.stages]

    def close(self) -> None:
        self.loop.stop()
        self.loop.join()
        for each in (*self.all, *self.gone):
            each.end()


# ---- what is measured


def push_vs_star(grid: Grid) -> dict[str, Any]:
    """Tokens a second of one stream, by delay."""
    table: dict[str, Any] = {}
    for delay in (0, 25, 50):
        grid.delay(delay)
        (request,) = asked(VOCAB, 1, 32, 64 if delay == 0 else 12, seed=delay)
        rates: dict[str, float] = {}
        for name, beside in (("push", -1), ("push_apart", None)):
            with grid.chain(beside) as chain:
                rates[name] = run(engine(chain), [request]).decode_rate()
        Network.here = APART
        star = Star(grid.stages)
        rates["star"] = run(engine(star), [request]).decode_rate()
        star.close()
        table[str(delay)] = {
            "ratio": round(rates["push"] / rates["star"], 2),
            "apart": round(rates["push_apart"] / rates["star"], 2),
            **{f"{name}_tokens_per_s": round(rate, 2) for name, rate in rates.items()},
        }
        say(f"push against star at {delay} ms: {table[str(delay)]}")
    return table


def pipelined_vs_serial(grid: Grid) -> dict[str, Any]:
    """24 requests at once against one after the other."""
    grid.delay(50)
    with grid.chain() as chain:
        core = engine(chain)
        run(core, asked(VOCAB, 8, 32, 8, seed=1))  # as many under way as the round trip asks for, from then on
        serial = statistics.mean(run(core, asked(VOCAB, 1, 32, 12, seed=2 + turn)).rate for turn in range(2))
        pipelined = run(core, asked(VOCAB, 24, 32, 24, seed=4)).rate
        depth = chain.depth
    result = {
        "ratio": round(pipelined / serial, 1),
        "serial_tokens_per_s": round(serial, 2),
        "pipelined_tokens_per_s": round(pipelined, 1),
        "steps_under_way": depth,
    }
    say(f"24 at once at 50 ms: {result}")
    return result


def bytes_per_hop(grid: Grid) -> dict[str, int]:
    """Of one token, note and header included, from the first stage to the second."""
    grid.delay(0)
    table = {}
    for name, codec in (("raw", Codec.RAW), ("int8", Codec.INT8)):
        with grid.chain(codec=codec) as chain:
            before = grid.stages[0].ask("sent")
            tokens = run(engine(chain), asked(VOCAB, 1, 32, 64, seed=5)).tokens
            table[name] = round((grid.stages[0].ask("sent") - before) / (tokens + 31))
    return table


def chain_efficiency(folder: Path, cores: Sequence[int]) -> dict[str, Any]:
    """8 requests at once: three stages in processes against the whole model here, with the same cores."""
    table: dict[str, Any] = {}
    mine = os.sched_getaffinity(0)
    grid = Grid(folder, 3, cores)
    whole = Stage(folder, range(LAYERS), dtype=torch.float32, num_blocks=BLOCKS, block_size=BLOCK)
    try:
        for name, used, depth in (("three_cores", cores[:3], None), ("one_core", cores[:1], 1)):
            pin(used)
            for each in grid.stages:
                each.ask("cores", used)
            table[name] = _efficiency(grid, whole, len(used), depth)
            say(f"chain of three against one stage, {name}: {table[name]}")
    finally:
        pin(sorted(mine))
        torch.set_num_threads(1)
        grid.close()
    return table


def _efficiency(grid: Grid, whole: Stage, threads: int, depth: int | None) -> dict[str, Any]:
    """All sides take turns; the whole model with one thread, too, where more make it slower."""
    sides = {"chain": 1, "whole": threads} | ({"whole_one_thread": 1} if threads > 1 else {})
    rates: dict[str, list[float]] = {name: [] for name in sides}
    whole.step = -1
    with grid.chain(depth=depth) as chain:
        here, there = engine(LocalChain([whole])), engine(chain)
        for turn in range(EFFICIENCY_TURNS + 1):
            for side, number in sides.items():
                torch.set_num_threads(number)
                rate = run(there if side == "chain" else here, asked(VOCAB, 8, 64, 32, seed=turn)).rate
                if turn:  # the first one warms up
                    rates[side].append(rate)
        under_way = chain.depth
    medians = {side: statistics.median(each) for side, each in rates.items()}
    best = max(rate for side, rate in medians.items() if side != "chain")
    return {
        "ratio": round(medians["chain"] / best, 2),
        **{f"{side}_tokens_per_s": [round(rate) for rate in each] for side, each in rates.items()},
        "steps_under_way": under_way,
    }


class Losing:
    """A chain of three with spares; one after the other its stages are killed, or stopped."""

    def __init__(self, grid: Grid, chain: Failover) -> None:
        self.grid, self.chain = grid, Told(chain)
        self.core, self._seeds = engine(self.chain), itertools.count(100)
        self._run(4)

    def once(self, place: int, number: int) -> dict[str, float]:
        """Before the sixth token of an answer to 512. Times in seconds."""
        victim, happened = self.grid.stages[place], list[float]()

        def happens() -> None:
            victim.signal(number)
            happened.append(time.perf_counter())

        _, prefill = self._run(2)
        self.chain.answers, self.chain.at, self.chain.happens = 0, 6, happens
        times, _ = self._run(16)
        self.chain.at, (at,) = -1, happened
        recovery = min(each for each in times if each > at) - at
        detection = self.chain.broken - at
        return {
            "detection_s": detection,
            "prefill_s": prefill,
            "recovery_s": recovery,
            "ratio": recovery / (detection + 1.3 * prefill),
            "stall_s": max(later - sooner for sooner, later in itertools.pairwise(times)),
        }

    def _run(self, answer: int) -> tuple[list[float], float]:
        """When its tokens came, and the seconds to the first."""
        result = run(self.core, asked(VOCAB, 1, 512, answer, next(self._seeds)))
        (times,) = result.told.values()
        return times, times[0] - result.began


def recovery(folder: Path, cores: Sequence[int]) -> dict[str, Any]:
    """Each place in turn."""
    grid, killed, stopped = Grid(folder, 3, cores), list[dict[str, float]](), list[dict[str, float]]()
    numbers = itertools.count(4)
    grid.spares = [Machine(folder, layers, next(numbers), cores) for layers in cut(3)]
    try:
        grid.delay(0)
        with grid.chain() as chain:
            losing = Losing(grid, chain)
            for place in [0, 1, 2] * KILLS:
                victim = grid.stages[place]
                killed.append(losing.once(place, signal.SIGKILL))
                grid.spares.append(Machine(folder, victim.layers, next(numbers), cores))
                assert grid.spares[-1].door
            for place in [0, 1, 2] * HANGS:
                victim = grid.stages[place]
                stopped.append(losing.once(place, signal.SIGSTOP))
                victim.signal(signal.SIGCONT)
                grid.gone.remove(victim)
                grid.spares.append(victim)
            mended = chain.mended
    finally:
        grid.close()
    say(f"killed: {killed}; stopped: {stopped}")
    names = ("ratio", "detection_s", "prefill_s", "recovery_s")
    return {
        "recovery": {name: round(statistics.median(each[name] for each in killed), 3) for name in names}
        | {"worst_ratio": round(max(each["ratio"] for each in killed), 2), "kills": len(killed)},
        "hang": {
            "stall_p50_s": round(statistics.median(each["stall_s"] for each in stopped), 2),
            "stall_worst_s": round(max(each["stall_s"] for each in stopped), 2),
            "hangs": len(stopped),
            "false_alarms": mended - len(killed) - len(stopped),
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=["hop", "push", "pipelined", "bytes", "efficiency", "recovery"])
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    context.set_forkserver_preload(["shard_machines", "transformers.models.llama.configuration_llama"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    join_network(APART)
    result: dict[str, Any] = {}
    since = time.perf_counter()
    if "hop" in arguments.parts:
        result |= shard_hop.measured()
    with tempfile.TemporaryDirectory(prefix="idlegrid-bench-") as name:
        folder = Path(name)
        make(SHAPE, torch.float32, folder)
        grid = Grid(folder, 4, cores)
        try:
            if "push" in arguments.parts:
                result["push_vs_star"] = push_vs_star(grid)
            if "pipelined" in arguments.parts:
                result["pipelined_vs_serial"] = pipelined_vs_serial(grid)
            if "bytes" in arguments.parts:
                result["bytes_per_token_per_hop"] = bytes_per_hop(grid)
        finally:
            grid.close()
        if "efficiency" in arguments.parts:
            result["chain_efficiency"] = chain_efficiency(folder, cores)
        if "recovery" in arguments.parts:
            result |= recovery(folder, cores)
    result["conditions"] = {
        "cores": len(cores),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": version("torch"),
        "distributed": version("distributed"),
    }
    result["seconds"] = round(time.perf_counter() - since)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
