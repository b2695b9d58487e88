"""What the grid's rules cost: many no-op tasks on a stock Dask scheduler and on ours, in turns; and one decision alone.

Both sides run the same tasks with the same annotation (which a stock scheduler carries along and ignores) on the same
number of worker processes and threads, scheduler and client in this process, each side first in every other turn.
The donors carry facts and stand in several regions. Their cap is what an operator would set for tasks of no length:
twice the threads, so that the next task is there when one ends (stock Dask keeps 1.1 times the threads busy).

One JSON object on the last line: `overhead_ratio`, the median over the repetitions of our wall time by stock's, and
`cpu_ratio`, the same of the CPU time of the scheduler's process, which busy neighbours disturb less; `stock_us` and
`grid_us` (`…_cpu_us`), medians per task in µs; `rank_us`, `rank_p99_us`, `load_us` from `rank.py`; and the
conditions.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed import Client, Nanny, Scheduler, SpecCluster

from idlegrid.grid.donors import Donor, Limits
from idlegrid.grid.jobs import Ask
from idlegrid.grid.regions import REGIONS
from idlegrid.scheduler_plugins.donor_plugin import DonorPlugin
from idlegrid.scheduler_plugins.scheduler import GridScheduler

sys.path.insert(0, str(Path(__file__).parent))
import rank  # the benchmark beside this one

LOOPBACK = "127.0.0.1"
QUIET = {"dashboard": False, "dashboard_address": f"{LOOPBACK}:0"}
"""Without an address a scheduler takes Dask's usual port, dashboard or not."""
ASK = Ask(type="embedding", region="europe-west")


def noop(_number: int) -> None:
    """Nothing, so that only the scheduling is left."""


def a_donor(number: int, threads: int) -> Donor:
    """A donor with a cap of twice its threads."""
    return Donor(
        id=f"donor-{number}",
        region=list(REGIONS)[number % len(REGIONS)],
        supported_types=frozenset({"embedding"}),
        limits=Limits(max_concurrent_jobs=2 * threads),
    )


async def cluster(cls: type, workers: int, threads: int) -> SpecCluster:
    """A scheduler of this class with worker processes, on loopback."""
    options = {"nthreads": threads, "host": LOOPBACK, "dashboard": False}
    return await SpecCluster(
        workers={
            f"worker-{number}": {
                "cls": Nanny,
                "options": {**options, "plugins": (DonorPlugin(a_donor(number, threads)),)},
            }
            for number in range(workers)
        },
        scheduler={"cls": cls, "options": {"host": LOOPBACK, "port": 0, **QUIET}},
        asynchronous=True,
    )


async def once(client: Client, tasks: int) -> tuple[float, float]:
    """Wall time and this process's CPU time from submitting the tasks to having all their results, in s."""
    gc.collect()  # neither side pays for what the other left behind
    begun, cpu_before = time.perf_counter(), time.process_time()
    with dask.annotate(grid=ASK.to_annotation()):
        futures = client.map(noop, range(tasks), pure=False)
    await client.gather(futures)
    spent = time.perf_counter() - begun, time.process_time() - cpu_before
    del futures
    await asyncio.sleep(0.3)  # let the release of this turn's tasks pass before the next is timed
    return spent


async def compare(tasks: int, turns: int, workers: int, threads: int) -> dict[str, Any]:
    """Both sides in turns, each first every other time."""
    sides: dict[str, type] = {"stock": Scheduler, "grid": GridScheduler}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    clusters = {name: await cluster(cls, workers, threads) for name, cls in sides.items()}
    clients = {name: await Client(clusters[name], asynchronous=True) for name in sides}
    for name in sides:
        await once(clients[name], tasks // 10)
    for turn in range(turns):
        for name in sorted(sides, reverse=bool(turn % 2)):
            times[name].append(await once(clients[name], tasks))
    for name in sides:
        await clients[name].close()
        await clusters[name].close()
    wall, cpu = ({name: [turn[which] for turn in times[name]] for name in sides} for which in (0, 1))
    ratios = [ours / theirs for ours, theirs in zip(wall["grid"], wall["stock"], strict=True)]
    cpu_ratios = [ours / theirs for ours, theirs in zip(cpu["grid"], cpu["stock"], strict=True)]
    return {
        "overhead_ratio": round(statistics.median(ratios), 3),
        "overhead_ratios": [round(ratio, 3) for ratio in ratios],
        "cpu_ratio": round(statistics.median(cpu_ratios), 3),
        "cpu_ratios": [round(ratio, 3) for ratio in cpu_ratios],
        **{f"{name}_us": round(statistics.median(spent) / tasks * 1e6, 1) for name, spent in wall.items()},
        **{f"{name}_cpu_us": round(statistics.median(spent) / tasks * 1e6, 1) for name, spent in cpu.items()},
    }


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    figures = asyncio.run(compare(options.tasks, options.turns, options.workers, options.threads))
    conditions = {
        **vars(options),
        "cap_per_worker": 2 * options.threads,
        "python": platform.python_version(),
        "distributed": distributed.__version__,
        "cores": os.cpu_count(),
    }
    print(json.dumps({**figures, **rank.measure(), "conditions": conditions}))


if __name__ == "__main__":
    main()
