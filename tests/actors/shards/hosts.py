"""Stages on event loops of their own, as their actors keep them, in this process; and a head for them."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from typing import Any, Self

import torch
from cut_scenario import BLOCK, BLOCKS, LAYERS

from idlegrid.actors.llm.stage import Stage
from idlegrid.actors.shards.chain import StagePlace, connect_chain
from idlegrid.actors.shards.frame import Codec
from idlegrid.actors.shards.head import Head
from idlegrid.actors.shards.leg import Pace
from idlegrid.actors.shards.loop_thread import LoopThread
from idlegrid.actors.shards.stage_host import Seat, StageHost

MODEL = b"weights."
PACE = Pace(beat=0.1, silence=60.0, connect=20.0, patience=20.0, retry=0.01)


class HostedStage:
    """A stage that is ready for a seat."""

    def __init__(self, folder: Any, layers: range, dtype: torch.dtype = torch.float32, pace: Pace = PACE) -> None:
        self.stage = Stage(folder, layers, dtype=dtype, num_blocks=BLOCKS, block_size=BLOCK)
        self.host = StageHost(self.stage, MODEL, pace=pace)
        self.thread = LoopThread("stage")
        self.door = self.thread.run(self.host.start()).result()

    def place(self) -> StagePlace:
        async def join(seat: Seat) -> None:
            await asyncio.wrap_future(self.thread.run(self.host.join(seat)))

        return StagePlace(layers=self.stage.layers, door=self.door, join=join)

    def close(self) -> None:
        """As if its process had ended: nothing answers any more."""
        with contextlib.suppress(RuntimeError):
            self.thread.run(self.host.close()).result()
        self.thread.stop()
        self.thread.join()


class Fleet:
    """A head and stages, closed together."""

    def __init__(self, model: Any, cut: Sequence[range], dtype: torch.dtype = torch.float32, **head: Any) -> None:
        self.model, self.dtype = model, dtype
        self.head = Head(uuid.uuid4().bytes, MODEL, LAYERS, pace=PACE, **({"deadline": 60.0} | head))
        self.stages = [self.stage(layers) for layers in cut]
        self.gone: list[HostedStage] = []

    def stage(self, layers: range) -> HostedStage:
        return HostedStage(self.model.folder, layers, self.dtype)

    def replace(self, index: int) -> HostedStage:
        """Another one for its layers, not yet connected. Returns the old one."""
        old = self.stages[index]
        self.gone.append(old)
        self.stages[index] = self.stage(old.stage.layers)
        return old

    def connect(self, codec: Codec = Codec.RAW) -> Fleet:
        asyncio.run(connect_chain(self.head, [stage.place() for stage in self.stages], self.head.epoch + 1, codec))
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.head.close()
        for stage in (*self.stages, *self.gone):
            stage.close()
