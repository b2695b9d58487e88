"""What a chain of stages costs and what it gives, on processes of this machine, with a delay between them.

One JSON object on the last line. A Llama of 32 M parameters with random weights in float32, greedy answers, every stage
a process of one torch thread; sequencer and head are in this one. Addresses on loopback are the machines
(`shard_machines.py`): what passes between two of them takes the delay, each way.

- `push_vs_star`, by delay in ms: tokens a second of one stream over four stages, hidden states pushed from stage to
  stage, against a client in the middle that gets and sends on each of them (Petals' way): the same stages, links and
  frames. The head is on the last stage's machine, the star's client on one of its own. `apart`: so is the head.
- `pipelined_vs_serial`: tokens a second of 24 requests at once against one after the other, at 50 ms.
- `chain_efficiency`: see `shard_efficiency.py`.
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
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import shard_efficiency
import shard_hop
import torch
from shard_grid import APART, SHAPE, VOCAB, Grid, cut
from shard_machines import Machine, Network, Star, context, join_network
from shard_requests import Told, asked, engine, run
from stage import make, say

from idlegrid.actors.shards.failover import Failover
from idlegrid.actors.shards.frame import Codec

KILLS, HANGS = 3, 4
"""Rounds of three."""


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
        parts, depth = chain.parts(24), chain.depth
    result = {
        "ratio": round(pipelined / serial, 1),
        "serial_tokens_per_s": round(serial, 2),
        "pipelined_tokens_per_s": round(pipelined, 1),
        "steps_that_share": parts,
        "steps_at_most": depth,
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
            result["chain_efficiency"] = shard_efficiency.measured(folder, cores)
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
