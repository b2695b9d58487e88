"""A stage and its two links: steps come in, are computed in a thread of their own, and go on to the next stage."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from ...grid.layers.speed import StepTimes
from ..llm.plan import Plan
from ..llm.sampling import sample
from ..llm.stage import Stage
from .codecs import Packed, pack, unpack
from .errors import FrameRefused, LinkFenced, LinkRefused
from .frame import Codec, Dtype, Frame
from .inlet import Inlet
from .leg import Door, Leg, Pace
from .link import Link
from .step_wire import StepFailed, failed_to_note, rows_from, sampled_to_note, step_from_note, step_to_note
from .stopwatch import Stopwatch

logger = logging.getLogger(__name__)

NOTHING = Packed(Dtype.NONE, Codec.RAW, (), b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A stage's place in a chain."""

    chain: bytes
    """16 bytes, those of a UUID."""
    epoch: int
    next: Door
    """Where its answers go: the next stage, or the head."""
    codec: Codec = Codec.RAW
    """How hidden states travel from here. The last stage sends tokens."""
    next_donor: str = ""
    """Who is next. Empty: the head."""


class StageHost:
    """Serves one chain at a time: the pages are those of its sequencer. Belongs to the event loop that starts it."""

    def __init__(
        self,
        stage: Stage,
        model: bytes,
        *,
        listen_tls: ssl.SSLContext | None = None,
        connect_tls: ssl.SSLContext | None = None,
        pace: Pace | None = None,
        head_layers: float = 0.0,
    ) -> None:
        """`model`: 8 bytes that name the weights. `head_layers`: what the output head costs, if it is here."""
        self.stage, self.model = stage, model
        self.computed = 0
        """Steps."""
        self.times = StepTimes(layers=len(stage.layers), head_layers=head_layers)
        """What they took; another value after each."""
        self._stopwatch = Stopwatch(stage.device)
        self._listen_tls, self._connect_tls, self._pace = listen_tls, connect_tls, pace or Pace()
        self._inlet: Inlet | None = None
        self._link: Link | None = None
        self._seat: Seat | None = None
        self._counted: bytes | None = None
        """Whose steps `stage.step` is of: another sequencer counts its own."""
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="idlegrid-stage")

    async def start(self, address: str = "tcp://127.0.0.1:0") -> Door:
        """Listen. Raises OSError."""
        self._inlet = await Inlet.open(address, tls=self._listen_tls, pace=self._pace)
        self._task = asyncio.create_task(self._serve(self._inlet), name="idlegrid-stage")
        return self._inlet.door

    async def join(self, seat: Seat) -> None:
        """Take a seat: connect to the next stage and let the chain in, from step 0 of its epoch on.

        A chain that was served before, or an earlier epoch, is over. Waits until the last of its steps is computed, so
        that a stage that hangs takes none. Raises LinkLost, LinkRefused, and ValueError for an epoch that is over.
        """
        if self._inlet is None:
            raise RuntimeError("the stage was not started")
        if self._seat is not None and seat.chain == self._seat.chain and seat.epoch <= self._seat.epoch:
            raise ValueError(f"the chain is in epoch {self._seat.epoch} here, not in {seat.epoch}")
        await asyncio.get_running_loop().run_in_executor(self._thread, int)
        layers = self.stage.layers
        leg = Leg(chain=seat.chain, epoch=seat.epoch, model=self.model, layers=layers)
        link = await Link.open(seat.next, leg, tls=self._connect_tls, pace=self._pace)
        if self._counted != seat.chain:
            self._counted, self.stage.step = seat.chain, -1
        await self.leave(keep=seat.chain)
        self._seat, self._link = seat, link
        self._watch = asyncio.create_task(self._watch_next(seat, link), name="idlegrid-stage-watch")
        self._inlet.admit(seat.chain, epoch=seat.epoch, entry=layers.start, model=self.model)

    async def leave(self, keep: bytes | None = None) -> None:
        """Serve no chain any more; but do not forget the epoch of `keep`. Idempotent."""
        seat, link = self._seat, self._link
        self._seat = self._link = None
        if seat is not None and seat.chain != keep and self._inlet is not None:
            self._inlet.forget(seat.chain)
        if link is not None:
            await link.close()

    @property
    def next_round_trip(self) -> tuple[str, float] | None:
        """Who is next, and how long a round trip there takes, in s. From any thread. None while nobody knows."""
        seat, link = self._seat, self._link
        seconds = None if link is None else link.round_trips.seconds
        return None if seat is None or seconds is None or not seat.next_donor else (seat.next_donor, seconds)

    async def close(self) -> None:
        """End everything."""
        await self.leave()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._inlet is not None:
            await self._inlet.close()
        self._thread.shutdown(wait=False)

    async def _serve(self, inlet: Inlet) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frame = await inlet.receive()
            seat, link = self._seat, self._link
            if seat is None or link is None or (frame.chain, frame.epoch) != (seat.chain, seat.epoch):
                continue
            note, packed = await loop.run_in_executor(self._thread, self._compute, frame, seat.codec, inlet.waited)
            try:
                await link.send(
                    frame.step,
                    note=note,
                    dtype=packed.dtype,
                    codec=packed.codec,
                    shape=packed.shape,
                    body=packed.body,
                    within=self._pace.patience,
                )
            except (OSError, TimeoutError, ValueError) as error:
                await self._give_up(seat, link, error)

    async def _watch_next(self, seat: Seat, link: Link) -> None:
        await self._give_up(seat, link, await link.over())

    async def _give_up(self, seat: Seat, link: Link, error: Exception) -> None:
        """A chain with a gap can't go on. The stage before hears why, and tells the one before it, up to the head."""
        if self._link is not link or self._inlet is None:
            return
        layers = self.stage.layers
        why = f"layers {layers.start} to {layers.stop - 1} lost what comes next: {error}"
        level = logging.INFO if isinstance(error, LinkRefused) else logging.WARNING  # who refuses has said it itself
        logger.log(level, "chain %s, epoch %d: %s", seat.chain.hex(), seat.epoch, why)
        if not isinstance(error, LinkFenced):  # else another sits here, and the head knows
            self._inlet.end(seat.chain, why)
        await self.leave(keep=seat.chain)

    def _compute(self, frame: Frame, codec: Codec, waited: float) -> tuple[bytes, Packed]:
        """What is to be sent on: whatever goes wrong, the head hears of it."""
        try:
            return self._forward(frame, codec, waited)
        except Exception as error:  # the step is lost, the chain goes on
            layers = self.stage.layers
            logger.exception("layers %d to %d failed", layers.start, layers.stop - 1)
            why = f"layers {layers.start} to {layers.stop - 1}: {type(error).__name__}: {error}"
            return failed_to_note(why), NOTHING

    def _forward(self, frame: Frame, codec: Codec, waited: float) -> tuple[bytes, Packed]:
        stage, since = self.stage, time.perf_counter()
        x: torch.Tensor | None = None
        if not stage.first and frame.dtype is not Dtype.NONE:
            x = unpack(frame)
        said = step_from_note(frame.note, None if stage.first else len(x) if x is not None and x.dim() else 0)
        if isinstance(said, StepFailed):
            return failed_to_note(said.why), NOTHING
        if stage.last and len(rows := rows_from(said.rows)) != said.plan.logits:
            raise FrameRefused(f"{len(rows)} rows came for {said.plan.logits} rows of logits")
        self._stopwatch.start()
        y = stage.forward(said.plan, x)
        self._stopwatch.stop()
        self.computed += 1
        if stage.last:
            sampled = sample(y, rows)
            self._count(said.plan)
            return sampled_to_note(sampled, said.spent.and_here(time.perf_counter() - since, waited)), NOTHING
        packed, spent = pack(y, codec), said.spent.and_here(time.perf_counter() - since, waited)
        self._count(said.plan)
        return step_to_note(said.plan, said.rows, ids=False, spent=spent), packed

    def _count(self, plan: Plan) -> None:
        """What the step took, now that its answer has been copied to the host."""
        logits = plan.logits if self.stage.last else 0
        self.times = self.times.after(plan.tokens, logits, self._stopwatch.seconds, time.monotonic())
