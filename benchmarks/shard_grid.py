"""A chain on machines of this one, for `shard_chain.py`: stages in a row, spares, and a delay between them."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shard_machines import MODEL, Machine, Network, machine
from shard_requests import LATE
from stage import SHAPES

from idlegrid.actors.shards.failover import Failover, Loss
from idlegrid.actors.shards.frame import Codec
from idlegrid.actors.shards.head import Head
from idlegrid.actors.shards.loop_thread import LoopThread

SHAPE = "llama-32m"
LAYERS = SHAPES[SHAPE]["num_hidden_layers"]
VOCAB = SHAPES[SHAPE]["vocab_size"]
APART = machine(9)
"""Where nobody else is."""


def cut(stages: int, layers: int = LAYERS) -> list[range]:
    """Layers in even parts."""
    edges = [layers * index // stages for index in range(stages + 1)]
    return [range(*pair) for pair in itertools.pairwise(edges)]


class Grid:
    """Stages in a row, and spares."""

    def __init__(self, folder: Path, stages: int, cores: Sequence[int], layers: int = LAYERS) -> None:
        """`layers`: of the model in `folder`."""
        self.folder, self.cores, self.layers = folder, cores, layers
        parts = enumerate(cut(stages, layers), 1)
        self.stages = [Machine(folder, part, number, cores) for number, part in parts]
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
            made = Head(uuid.uuid4().bytes, MODEL, self.layers, address=f"tcp://{Network.here}:0", **head)
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
