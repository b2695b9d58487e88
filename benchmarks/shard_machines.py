"""Machines for `shard_chain.py`: each an address on loopback of its own, with a delay on whatever passes between two.

A frame waits on its way out, whoever sends it, for the delay that holds then, unless both ends have one address. So the
delay belongs to the network: no engine, chain or link knows of it, and all topologies that are compared have the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from idlegrid.actors.llm.plan import Plan
from idlegrid.actors.llm.sampling import Sampled, SamplingRow
from idlegrid.actors.llm.stage import Stage
from idlegrid.actors.memory import keep_freed_memory
from idlegrid.actors.pauses import keep_pauses_short
from idlegrid.actors.shards import link as link_module
from idlegrid.actors.shards import wire as wire_module
from idlegrid.actors.shards.chain import StagePlace
from idlegrid.actors.shards.frame import Encoded
from idlegrid.actors.shards.inlet import Inlet
from idlegrid.actors.shards.leg import Door, Leg, Pace
from idlegrid.actors.shards.link import Link
from idlegrid.actors.shards.loop_thread import LoopThread
from idlegrid.actors.shards.stage_host import Seat, StageHost
from idlegrid.actors.shards.step_wire import StepFailed, sampled_from_note, step_to_note, to_rows
from idlegrid.actors.shards.wire import StreamWire, Wire

MODEL = b"weights."
BLOCKS, BLOCK = 512, 16
WITHIN = 60.0
context = multiprocessing.get_context("forkserver")


def machine(number: int) -> str:
    """Its address."""
    return f"127.0.1.{number}"


class Network:
    """What this process knows of it."""

    delay = 0.0
    """Seconds, one way."""
    here = machine(1)
    """Who connects, does so from this address."""
    sent = 0
    """Bytes of frames that carry something, to other machines and to this one."""


class DelayedWire(StreamWire):
    """Holds frames back; they leave in their order."""

    def __init__(self, made: Any = None) -> None:
        super().__init__(made)
        self._held: deque[Encoded] = deque()

    def send(self, encoded: Encoded) -> None:
        if encoded[1]:
            Network.sent += sum(map(len, encoded))
        transport = self._transport
        ends = [] if transport is None else [transport.get_extra_info(name)[0] for name in ("sockname", "peername")]
        if not Network.delay or len(set(ends)) < 2:
            super().send(encoded)
            return
        self._held.append(encoded)
        asyncio.get_running_loop().call_later(Network.delay, lambda: StreamWire.send(self, self._held.popleft()))


async def connect(address: str, tls: Any = None) -> Wire:
    """As `wire.connect`, from this machine's own address."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(DelayedWire, host, int(port), local_addr=(Network.here, 0))
    return wire


def join_network(here: str) -> None:
    """Every link of this process passes it from now on."""
    Network.here = here
    wire_module.StreamWire, link_module.connect = DelayedWire, connect  # type: ignore[misc]


def pin(cores: Sequence[int]) -> None:
    """All threads that this process has, and will have."""
    for each in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(each.name), cores)


# ---- stages


def live(pipe: Any, folder: Path, layers: range, here: str, cores: Sequence[int], pace: Pace) -> None:
    """A stage, until its pipe breaks."""
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)
    keep_freed_memory()
    keep_pauses_short()
    join_network(here)
    thread = LoopThread("stage")
    stage = Stage(folder, layers, dtype=torch.float32, num_blocks=BLOCKS, block_size=BLOCK)
    host = StageHost(stage, MODEL, pace=pace)
    pipe.send(thread.run(host.start(f"tcp://{here}:0")).result())
    with contextlib.suppress(EOFError):
        while True:
            asked, value = pipe.recv()
            try:
                if asked == "join":
                    thread.run(host.join(value)).result()
                elif asked == "delay":
                    Network.delay = value
                elif asked == "cores":
                    pin(value)
                pipe.send(Network.sent)
            except Exception as error:  # noqa: BLE001 - whatever it is, the asker is told
                pipe.send(ConnectionError(str(error)))
    os._exit(0)


class Machine:
    """A stage in a process of its own."""

    def __init__(
        self, folder: Path, layers: range, number: int, cores: Sequence[int], pace: Pace | None = None
    ) -> None:
        self.layers, self.host = layers, machine(number)
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, folder, layers, self.host, cores, pace or Pace())
        self.process = context.Process(target=live, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self._door: Door | None = None

    @property
    def door(self) -> Door:
        """Waits until the layers are loaded."""
        if self._door is None:
            self._door = self._pipe.recv()
        return self._door

    def place(self) -> StagePlace:
        async def join(seat: Seat) -> None:
            await asyncio.to_thread(self.ask, "join", seat)

        return StagePlace(layers=self.layers, door=self.door, join=join)

    def ask(self, what: str, value: Any = None) -> int:
        """Bytes that it has sent."""
        assert self.door
        self._pipe.send((what, value))
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    def signal(self, number: int) -> None:
        if self.process.pid is not None:
            os.kill(self.process.pid, number)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.process.join(30)


# ---- the topology of the comparison


class Star:
    """A client in the middle, as in Petals: it sends to a stage, gets the answer, and sends it to the next one.

    The same stages, links, frames and tokens as the chain's; only who hands on is another. See `llm.chain.Chain`.
    """

    depth = 1

    def __init__(self, stages: Sequence[Machine]) -> None:
        self._stages = stages
        self._thread = LoopThread("star")
        self._chains = [uuid.uuid4().bytes for _ in stages]
        self._links: list[Link] = []
        self._next = 0
        self._thread.run(self._open()).result(WITHIN)

    async def _open(self) -> None:
        self._inlet = await Inlet.open(f"tcp://{Network.here}:0")
        for chain, stage in zip(self._chains, self._stages, strict=True):
            layers = stage.layers
            self._inlet.admit(chain, epoch=1, entry=layers.stop, model=MODEL)
            await stage.place().join(Seat(chain=chain, epoch=1, next=self._inlet.door))
            leg = Leg(chain=chain, epoch=1, model=MODEL, layers=range(layers.start))
            self._links.append(await Link.open(stage.door, leg))

    def parts(self, tokens: int) -> int:
        return 1

    def submit(
        self, plan: Plan, rows: Sequence[SamplingRow], unless: Callable[[], bool] | None = None
    ) -> Future[Sampled]:
        return self._thread.run(self._step(step_to_note(plan, to_rows(rows), ids=True)))

    async def _step(self, note: Any) -> Sampled:
        step, self._next = self._next, self._next + 1
        sending: dict[str, Any] = {"note": note}
        for link in self._links:
            await link.send(step, **sending, within=WITHIN)
            frame = await self._inlet.receive(WITHIN)
            sending = {
                "note": frame.note,
                "dtype": frame.dtype,
                "codec": frame.codec,
                "shape": frame.shape,
                "body": frame.body,
            }
        said, _ = sampled_from_note(frame.note)
        if isinstance(said, StepFailed):
            raise RuntimeError(said.why)
        return said

    def mend(self, why: str) -> Future[None]:
        raise ConnectionError(why)

    def close(self) -> None:
        async def closed() -> None:
            for link in self._links:
                await link.close()
            await self._inlet.close()

        self._thread.run(closed()).result(WITHIN)
        self._thread.stop()
        self._thread.join()
