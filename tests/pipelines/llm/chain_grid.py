"""A scheduler here and workers in processes of their own, forked from one that has read torch: for models in stages."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import time
from dataclasses import replace
from functools import partialmethod
from typing import Any, Self

from serving_helpers import until

from idlegrid.actors.shards.loop_thread import LoopThread
from idlegrid.grid.donors import Donor, Limits
from idlegrid.pipelines.llm.deployment import Deployment
from idlegrid.pipelines.llm.reconcile import Patience
from idlegrid.scheduler_plugins.donor_plugin import DonorPlugin
from idlegrid.scheduler_plugins.scheduler import GridScheduler

MODEL = "idlegrid-tiny"
LAYERS = 6
CALM = Patience(start=60, load=60, silence=30, stall=120, drain=30, cool=0.5, cool_most=2, mend=60, hop=15, freeze=30)
"""A busy machine is no reason to think anybody dead; who is killed says so at once."""
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "distributed",
        "idlegrid.actors.serving.leading",
        "idlegrid.actors.serving.shard_actor",
        "transformers.models.qwen3.configuration_qwen3",
    ]
)


def equally_fast() -> None:
    """A trial in this process comes to what it comes to in all: on a machine that is busy, to anything."""
    from idlegrid.actors import speed_trial
    from idlegrid.grid.layers.speed import Source, Speed

    def measure(device: str, dtype: str) -> Speed:
        return Speed(device=device, dtype=dtype, source=Source.PROBED, read_bytes_s=4e9, compute_bytes_s=4e11)

    speed_trial.measure = measure


def slow_down(seconds: float) -> None:
    """Every layer, and every product of a trial, takes so much longer in this process; and a few steps are believed."""
    from idlegrid.actors.llm import linear
    from idlegrid.actors.llm.stage import Stage
    from idlegrid.actors.shards.actor import StageActor
    from idlegrid.grid.layers.speed import Steady

    forward, speed, quick_linear = Stage.forward, StageActor.speed, linear.linear

    def slowly(stage: Stage, *args: Any) -> Any:
        time.sleep(seconds * len(stage.layers))
        return forward(stage, *args)

    def slow_linear(*args: Any) -> Any:
        multiply = quick_linear(*args)

        def slow(x: Any) -> Any:
            time.sleep(seconds)
            return multiply(x)

        return slow

    Stage.forward = slowly  # type: ignore[method-assign]
    linear.linear = slow_linear
    StageActor.speed = partialmethod(speed, Steady(steps=8, span=0.0))  # type: ignore[assignment]


def live(scheduler: str, donor: Donor, memory: str, threads: int, slower: float) -> None:
    """A worker, until it is killed."""
    from distributed import Worker

    async def serve() -> None:
        plugins = [DonorPlugin(donor)]
        options = {
            "nthreads": threads,
            "dashboard": False,
            "name": donor.id,
            "host": "127.0.0.1",
            "memory_limit": memory,
        }
        worker = await Worker(scheduler, plugins=plugins, **options)
        await worker.finished()

    import torch

    torch.set_num_threads(1)
    if slower:
        slow_down(slower)
    else:
        equally_fast()
    asyncio.run(serve())
    os._exit(0)


class ChainGrid:
    """Donors a, b, c and d of one slot each, unless told otherwise."""

    def __init__(self) -> None:
        self.thread = LoopThread("grid")
        self.scheduler = self.thread.run(self._start()).result(60)
        self.processes: dict[str, Any] = {}

    async def _start(self) -> GridScheduler:
        return await GridScheduler(
            protocol="tcp", host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0"
        )

    def join(self, *names: str, memory: str = "4GB", threads: int = 1, slower: float = 0.0) -> None:
        """`slower`: seconds that each layer takes in addition."""
        for name in names:
            donor = Donor(id=name, name=name, supported_types=frozenset({"llm"}))
            self.processes[name] = context.Process(
                target=live, args=(self.scheduler.address, donor, memory, threads, slower), daemon=True
            )
            self.processes[name].start()

    async def whole(self, *names: str) -> None:
        """Wait until these donors are here, and no others."""
        await until(lambda: set(self.running()) == set(names))

    def running(self) -> dict[str, int]:
        """Slots in use, by donor."""
        return {seat.donor.id: seat.running for seat in self.scheduler.grid.roster}

    async def idle(self) -> None:
        """Wait until no slot is in use."""
        await until(lambda: not any(self.running().values()))

    def kill(self, name: str) -> None:
        """As the owner's machine does that loses its power."""
        process = self.processes.pop(name)
        process.kill()
        process.join(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.join(30)
        with contextlib.suppress(Exception):
            self.thread.run(self.scheduler.close()).result(30)
        self.thread.stop()
        self.thread.join()


def split(stages: int | None = None, **fields: Any) -> Deployment:
    """The small model in stages."""
    options = {"num_blocks": 64, "max_context": 512, **fields.pop("options", {})}
    return Deployment(model=MODEL, stages=stages, dtype="float32", options=options, **fields)


def set_hours(start: int | None, end: int | None, dask_worker: Any) -> None:
    """Runs on a worker: its owner changes the hours."""
    plugin = DonorPlugin.of(dask_worker)
    assert plugin is not None
    plugin.set_donor(replace(plugin.donor, limits=Limits(working_hours_start=start, working_hours_end=end)))
