"""Stages in processes of their own, which can be killed, stopped and woken. Forked from one that has read torch."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Self

from cut_scenario import BLOCK, BLOCKS, LAYERS

from idlegrid.actors.llm.chain import NotMended
from idlegrid.actors.shards.chain import StagePlace
from idlegrid.actors.shards.failover import Failover, Loss, Patience
from idlegrid.actors.shards.head import Head
from idlegrid.actors.shards.leg import Pace
from idlegrid.actors.shards.loop_thread import LoopThread
from idlegrid.actors.shards.stage_host import Seat, StageHost

MODEL = b"weights."
PACE = Pace(beat=0.1, silence=30.0, connect=20.0, patience=20.0, retry=0.01)
SLEEPY = Pace(beat=0.1, silence=0.8, connect=1.0, patience=1.0, retry=0.01)
"""For those who shall be found stopped."""
PATIENCE = Patience(mend=60.0, probe=20.0, join=20.0)
context = multiprocessing.get_context("forkserver")
# the server knows no paths of tests; what a stage imports when it loads takes seconds in each process. There is one
# server for all tests of a process, and who starts it first decides: what workers of tests/pipelines/llm need, too
context.set_forkserver_preload(
    [
        "distributed",
        "idlegrid.actors.serving.leading",
        "idlegrid.actors.serving.shard_actor",
        "idlegrid.actors.shards.failover",
        "transformers.models.llama.configuration_llama",
        "transformers.models.qwen3.configuration_qwen3",
    ]
)


def live(pipe: Any, folder: Any, layers: range, pace: Pace) -> None:
    """A stage, until its pipe breaks."""
    import torch

    from idlegrid.actors.llm.stage import Stage

    torch.set_num_threads(1)
    thread = LoopThread("stage")
    host = StageHost(Stage(folder, layers, dtype=torch.float32, num_blocks=BLOCKS, block_size=BLOCK), MODEL, pace=pace)
    pipe.send(thread.run(host.start()).result())
    with contextlib.suppress(EOFError):
        while True:
            seat = pipe.recv()
            try:
                thread.run(host.join(seat)).result()
                pipe.send(None)
            except Exception as error:  # noqa: BLE001 - whatever it is, the asker is told
                pipe.send(ConnectionError(str(error)))
    os._exit(0)


class StageProcess:
    """A process with a stage."""

    def __init__(self, folder: Any, layers: range, pace: Pace = PACE) -> None:
        self.layers, self.stopped = layers, False
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=live, args=(theirs, folder, layers, pace), daemon=True)
        self.process.start()
        theirs.close()

    def place(self) -> StagePlace:
        """Waits until it has loaded."""
        if not hasattr(self, "door"):
            assert self._pipe.poll(100)
            self.door = self._pipe.recv()
        return StagePlace(layers=self.layers, door=self.door, join=self._join)

    async def _join(self, seat: Seat) -> None:
        error = await asyncio.to_thread(self._ask, seat)
        if error is not None:
            raise error

    def _ask(self, seat: Seat) -> ConnectionError | None:
        try:
            self._pipe.send(seat)
            return self._pipe.recv() if self._pipe.poll(30) else ConnectionError("it said nothing")
        except (EOFError, OSError):
            return ConnectionError("its process is gone")

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """As the owner's machine does that loses its power."""
        self.signal(signal.SIGKILL)
        self.process.join(30)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.join(30)
        self._pipe.close()


class Grid:
    """Stages in processes, spares, and a chain over them that takes the spares when it breaks."""

    def __init__(self, folder: Any, cut: Sequence[range], spares: Sequence[range] = (), pace: Pace = PACE) -> None:
        self.folder, self.pace = folder, pace
        self.stages = [StageProcess(folder, layers, pace) for layers in cut]
        self.spares = [StageProcess(folder, layers, pace) for layers in spares]
        self.gone: list[StageProcess] = []
        self.losses: list[Loss] = []
        self.loop = LoopThread("grid")
        self.chain: Failover

    def open(self, patience: Patience = PATIENCE, **head_options: Any) -> Self:
        options = {"pace": self.pace, "deadline": 60.0} | head_options

        async def opened() -> Failover:
            head = await asyncio.to_thread(lambda: Head(uuid.uuid4().bytes, MODEL, LAYERS, **options))
            places = [stage.place() for stage in self.stages]
            return await Failover(head, places, self.replace, patience=patience).open()

        self.chain = self.loop.run(opened()).result(100)
        return self

    async def replace(self, loss: Loss) -> list[StagePlace]:
        """Each lost one by those spares that hold its layers together."""
        self.losses.append(loss)
        kept: list[StageProcess] = []
        for index, stage in enumerate(self.stages):
            if index not in loss.lost:
                kept.append(stage)
                continue
            self.gone.append(stage)
            kept += self._spares(stage.layers)
        self.stages = kept
        return [stage.place() for stage in kept]

    def _spares(self, layers: range) -> list[StageProcess]:
        at, taken = layers.start, list[StageProcess]()
        while at < layers.stop:
            spare = next((one for one in self.spares if one.layers.start == at), None)
            if spare is None:
                raise NotMended(f"nobody has layers {at}-{layers.stop - 1}")
            self.spares.remove(spare)
            taken.append(spare)
            at = spare.layers.stop
        return taken

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "chain"):
            self.loop.run(self.chain.close()).result(60)
        for stage in (*self.stages, *self.spares, *self.gone):
            stage.end()
        self.loop.stop()
        self.loop.join()


class Disturbed:
    """A chain to which something happens before its step `at` is sent."""

    def __init__(self, chain: Failover, at: int, happens: Callable[[], None]) -> None:
        self.chain, self.left, self.happens = chain, at, happens

    @property
    def depth(self) -> int:
        return self.chain.depth

    def parts(self, tokens: int) -> int:
        return self.chain.parts(tokens)

    def submit(self, plan: Any, rows: Any, unless: Any = None) -> Any:
        if self.left == 0:
            self.happens()
        self.left -= 1
        return self.chain.submit(plan, rows, unless)

    def mend(self, why: str) -> Any:
        return self.chain.mend(why)
