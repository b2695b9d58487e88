"""The head's end of a chain of stages elsewhere: steps go to the first, tokens come back from the last."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from ..llm.chain import ChainBroken
from ..llm.plan import Plan
from ..llm.sampling import Sampled, SamplingRow
from .allowance import Allowance
from .errors import FrameRefused, LinkLost, LinkRefused
from .inlet import Inlet
from .leg import Door, Leg, Pace
from .link import Link
from .loop_thread import LoopThread
from .pipelining import Pipelining
from .step_wire import Spent, StepFailed, sampled_from_note, step_to_note, to_rows


class StepLost(RuntimeError):
    """A stage could not compute the step; the chain goes on, and the step may be tried again."""


class Head:
    """The end of a chain of which the stages are elsewhere. Its methods are called from threads.

    Links live on an event loop of its own. Made, then `connect`ed once for each epoch; `Failover` mends it.
    """

    def __init__(
        self,
        chain: bytes,
        model: bytes,
        layers: int,
        *,
        address: str = "tcp://127.0.0.1:0",
        listen_tls: ssl.SSLContext | None = None,
        connect_tls: ssl.SSLContext | None = None,
        pace: Pace | None = None,
        deadline: float = 30.0,
        depth: int | None = None,
    ) -> None:
        """Listens at once. `layers`: of the whole model. `deadline`: seconds that a step may take at most; less once it
        is known what steps take (`Allowance`). `depth`: steps that should be under way, always sharing the work; None:
        as many as the round trip asks for, and as pays (`Pipelining`). Raises OSError."""
        self.chain, self.model, self.layers, self.deadline = chain, model, layers, deadline
        self.epoch = 0
        self._depth, self._pipelining = depth, Pipelining()
        self._sent: dict[int, tuple[float, int]] = {}
        """When, and of how many tokens: the steps under way, the oldest first."""
        self._allowance = Allowance(deadline)
        self._overdue: asyncio.TimerHandle | None = None
        self.connect_tls, self.pace = connect_tls, pace or Pace()
        self._link: Link | None = None
        self._why = "the chain is not connected"
        self._next = 0
        self._pending: dict[int, asyncio.Future[Sampled]] = {}
        self._sending = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = LoopThread("idlegrid-head")
        try:
            self._inlet = self._thread.run(self._open(address, listen_tls)).result()
        except BaseException:
            self._thread.stop()
            raise

    @property
    def door(self) -> Door:
        """Where the last stage sends tokens."""
        return self._inlet.door

    @property
    def round_trip_s(self) -> float | None:
        """To the first stage. None while nobody knows."""
        link = self._link
        return None if link is None else link.round_trips.seconds

    @property
    def depth(self) -> int:
        """See Chain: the round trip in times of the busiest stage."""
        return self._depth or self._pipelining.depth

    def parts(self, tokens: int) -> int:
        """See Chain."""
        return self._depth or self._pipelining.parts(tokens, self._thread.loop.time())

    def admit(self, epoch: int) -> None:
        """Begin an epoch: what is under way in an earlier one is lost. The last stage may connect from now on.

        Raises ValueError for an epoch that is over.
        """
        self._thread.run(self._admit(epoch)).result()

    def connect(self, first: Door) -> None:
        """Connect to the first stage of this epoch, when all stages have taken their seats.

        Raises LinkLost and LinkRefused.
        """
        self._thread.run(self._connect(first)).result()

    def compute(self, plan: Plan, rows: Sequence[SamplingRow]) -> Sampled:
        """As `submit`, but waits. Raises StepLost and ChainBroken: it needs a new epoch then."""
        return self.submit(plan, rows).result()

    def submit(
        self, plan: Plan, rows: Sequence[SamplingRow], unless: Callable[[], bool] | None = None
    ) -> Future[Sampled]:
        """Send a step on its way, see `llm.chain.Chain`. It is not given up: it may be in any of the stages."""
        try:
            return self._thread.run(self._step(plan, step_to_note(plan, to_rows(rows), ids=True)))
        except RuntimeError:
            raise ChainBroken(self._why) from None

    def part(self, why: str) -> None:
        """Leave the stages: what is under way is lost, and what comes next, until an epoch begins."""
        self._thread.run(self._break(why)).result()

    def close(self) -> None:
        """Close; what is under way is lost. Idempotent."""
        with contextlib.suppress(RuntimeError):  # it is closed already
            self._thread.run(self._close()).result()
        self._thread.stop()
        self._thread.join()

    # ---- on the loop

    async def _open(self, address: str, tls: ssl.SSLContext | None) -> Inlet:
        inlet = await Inlet.open(address, tls=tls, pace=self.pace)
        self._tasks.append(asyncio.create_task(self._receive(inlet), name="idlegrid-head"))
        return inlet

    async def _admit(self, epoch: int) -> None:
        if epoch <= self.epoch:
            raise ValueError(f"the chain is in epoch {self.epoch}; {epoch} is none after it")
        await self._break(f"epoch {epoch} began")
        self.epoch = epoch
        self._inlet.admit(self.chain, epoch=epoch, entry=self.layers, model=self.model)

    async def _connect(self, first: Door) -> None:
        leg = Leg(chain=self.chain, epoch=self.epoch, model=self.model)
        self._link = link = await Link.open(first, leg, tls=self.connect_tls, pace=self.pace)
        self._next = 0
        self._sent.clear()
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.create_task(self._watch(link), name="idlegrid-head-watch"))

    async def _watch(self, link: Link) -> None:
        why = await link.over()
        if self._link is link:
            await self._break(str(why))

    async def _break(self, why: str) -> None:
        """Everything under way is lost, and nothing more can be sent before the next epoch."""
        link, self._link, self._why = self._link, None, why
        self._hurry()
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(ChainBroken(why))
        if link is not None:
            await link.close()

    def _hurry(self) -> None:
        """The oldest step under way is the next to be answered, in time from now on."""
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        position = next(iter(self._sent), None)
        if position is not None and self._link is not None:
            seconds = self._allowance.of(self._sent[position][1])
            self._overdue = asyncio.get_running_loop().call_later(seconds, self._late, position, seconds)

    def _late(self, position: int, seconds: float) -> None:
        answer = self._pending.get(position)
        if answer is None or answer.done():
            self._hurry()
        else:
            answer.set_exception(TimeoutError(f"no answer came within {seconds:.1f} s, much later than others"))

    async def _step(self, plan: Plan, note: bytes) -> Sampled:
        link = self._link
        if link is None:
            raise ChainBroken(self._why)
        position, self._next = self._next, self._next + 1
        answer: asyncio.Future[Sampled] = asyncio.get_running_loop().create_future()
        self._pending[position] = answer
        try:
            async with asyncio.timeout(self.deadline):
                async with self._sending:  # in the order of positions: locks are fair
                    await link.send(position, note=note, within=self.deadline)
                    self._sent[position] = asyncio.get_running_loop().time(), plan.tokens
                    if len(self._sent) == 1:
                        self._hurry()
                return await answer
        except (LinkLost, LinkRefused, TimeoutError) as error:
            why = str(error) or f"no answer to step {plan.step} came within {self.deadline:g} s"
            if self._link is link:
                await self._break(why)
            raise ChainBroken(why) from None
        finally:
            if self._pending.get(position) is answer:
                del self._pending[position]
                self._sent.pop(position, None)
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # nobody else will look at it

    async def _receive(self, inlet: Inlet) -> None:
        while True:
            frame = await inlet.receive()
            answer = self._pending.get(frame.step)
            if answer is None or answer.done() or frame.epoch != self.epoch:
                continue
            try:
                said, spent = sampled_from_note(frame.note)
                self._measure(frame.step, spent)
                self._hurry()
            except FrameRefused as error:
                said = StepFailed(str(error))
            if isinstance(said, StepFailed):
                answer.set_exception(StepLost(said.why))
            else:
                answer.set_result(said)

    def _measure(self, position: int, spent: Spent) -> None:
        """While one step passes the other stages and the wires, the busiest can compute so many others."""
        if position not in self._sent:
            return
        sent, tokens = self._sent.pop(position)
        now = asyncio.get_running_loop().time()
        trip = now - sent - spent.waited
        self._allowance.took(tokens, trip)
        self._pipelining.took(tokens, trip, spent.busiest, now)

    async def _close(self) -> None:
        await self._break("the chain was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._inlet.close()
