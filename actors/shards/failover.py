"""A chain that is put together again when it breaks, with other stages where some were lost.

Nothing of a stage is kept anywhere but in the stage: the sequencer knows every token, and computes them again over the
whole chain, in chunks. Stages that were not lost compute theirs again too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Self

from ..llm.chain import NotMended
from ..llm.plan import Plan
from ..llm.sampling import Sampled, SamplingRow
from .chain import Knock, NotSeated, StagePlace, connect_chain, knock
from .frame import Codec
from .head import Head

logger = logging.getLogger(__name__)

PAUSE = 0.05
"""Seconds between two tries."""
AWHILE = 0.3
"""Seconds until who is silent is asked again, where nothing replaces it."""
SOON = 0.25
"""Seconds in which a stage answers, or five times as long as the others took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What is missing of a chain."""

    places: tuple[StagePlace, ...]
    """The chain as it was."""
    lost: frozenset[int]
    """Which of them don't answer, or hang."""
    why: str
    """What was heard first."""
    within: float
    """Seconds that are left to find others."""

    def __str__(self) -> str:
        layers = (self.places[index].layers for index in sorted(self.lost))
        return "layers " + ", ".join(f"{each.start}-{each.stop - 1}" for each in layers)


Replacer = Callable[[Loss], Awaitable[Sequence[StagePlace]]]
"""The chain as it is to be: every layer once, in order; those that are not lost may stay. In place of one stage there
may be several, and fewer. Raises NotMended when there is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds that mending may take, and how often it may be in vain."""

    mend: float = 8.0
    """From the break until the chain is whole, or given up."""
    probe: float = 1.5
    """A stage that answers nothing for so long counts as lost; sooner where others answer at once."""
    join: float = 5.0
    """For one stage to take its seat."""
    lack: float = 8.0
    """A stage that is only silent may come back for so long where nothing replaces it."""
    tries: int = 3
    """So often the chain may break without one answer between, until it is given up."""


class Failover:
    """See `llm.chain.Chain`. Made by `open`; replacing happens on the loop that opened it."""

    def __init__(
        self,
        head: Head,
        places: Sequence[StagePlace],
        replacer: Replacer,
        *,
        codec: Codec = Codec.RAW,
        patience: Patience | None = None,
    ) -> None:
        """The head is closed with it."""
        self.head, self.places = head, tuple(places)
        self.mended = 0
        """How often the chain was put together again."""
        self._replacer, self._codec, self._patience = replacer, codec, patience or Patience()
        self._barren = 0
        self._loop = asyncio.get_running_loop()
        self._changing = asyncio.Lock()
        """Held while `places` may become others."""

    async def open(self) -> Self:
        """Connect for the first time. Raises what `connect_chain` does."""
        await connect_chain(self.head, self.places, self.head.epoch + 1, self._codec, within=self._patience.join)
        return self

    @property
    def depth(self) -> int:
        """See Chain."""
        return self.head.depth

    def parts(self, tokens: int) -> int:
        """See Chain."""
        return self.head.parts(tokens)

    def submit(
        self, plan: Plan, rows: Sequence[SamplingRow], unless: Callable[[], bool] | None = None
    ) -> Future[Sampled]:
        """See Chain."""
        answer = self.head.submit(plan, rows, unless)
        if self._barren:
            answer.add_done_callback(self._heard)
        return answer

    def mend(self, why: str) -> Future[None]:
        """See Chain. Called from threads; never from the loop that opened it."""
        return asyncio.run_coroutine_threadsafe(self._mend(why), self._loop)

    async def move(self, places: Sequence[StagePlace]) -> None:
        """Go on with these places from the next step on, all loaded: the present ones are not needed any more.

        What is under way is computed again, as after a break. A chain that is being mended is moved when it is whole.
        On the loop that opened it.
        """
        async with self._changing:
            self.places = tuple(places)
            await asyncio.to_thread(self.head.part, "the chain moves to other places")

    async def close(self) -> None:
        """Close the head. The stages are whoever's made them."""
        await asyncio.to_thread(self.head.close)

    def _heard(self, answer: Future[Sampled]) -> None:
        if not answer.cancelled() and answer.exception() is None:
            self._barren = 0

    async def _mend(self, why: str) -> None:
        patience = self._patience
        if self._barren >= patience.tries:
            self._barren = 0  # whoever comes next may try again
            raise NotMended(f"it broke {patience.tries} times without an answer between, the last time: {why}")
        self._barren += 1
        loop = asyncio.get_running_loop()
        until = loop.time() + patience.mend
        said = [why]
        try:
            async with asyncio.timeout_at(until), self._changing:
                await self._until_whole(why, until, said)
        except TimeoutError:
            raise NotMended(f"it was not whole again within {patience.mend:g} s: {said[-1]}") from None
        self.mended += 1
        logger.warning("the chain goes on in epoch %d with %d stages", self.head.epoch, len(self.places))

    async def _until_whole(self, why: str, until: float, said: list[str]) -> None:
        """Ask who is there, replace who isn't, connect; again, until it holds."""
        loop, hangs = asyncio.get_running_loop(), frozenset[int]()
        lacking_since = float("inf")
        while True:
            heard = await self._knock()
            lost = frozenset(index for index, one in enumerate(heard) if one is not Knock.ANSWERS) | hangs
            if lost:
                loss = Loss(places=self.places, lost=lost, why=why, within=until - loop.time())
                said.append(f"nothing replaced {loss}")
                try:
                    self.places = tuple(await self._replacer(loss))
                except NotMended as error:
                    lacking_since = min(lacking_since, loop.time())
                    gone = all(heard[index] is Knock.NOBODY for index in lost)
                    if gone or loop.time() - lacking_since >= self._patience.lack:
                        raise
                    said.append(str(error))
                    hangs = frozenset()
                    await asyncio.sleep(AWHILE)
                    continue
            lacking_since = float("inf")
            try:
                epoch = self.head.epoch + 1
                await connect_chain(self.head, self.places, epoch, self._codec, within=self._patience.join)
                return
            except NotSeated as error:
                said.append(str(error))
                hangs = frozenset({error.place} if error.hangs else ())
            except ConnectionError as error:
                said.append(str(error))
                hangs = frozenset()
            await asyncio.sleep(PAUSE)

    async def _knock(self) -> list[Knock]:
        """At every stage's door. Who says nothing is not waited for much longer than others took."""
        loop, tls, probe = asyncio.get_running_loop(), self.head.connect_tls, self._patience.probe
        tasks = [asyncio.create_task(knock(place.door, tls=tls, within=probe)) for place in self.places]
        since, until, waiting = loop.time(), loop.time() + probe, set(tasks)
        try:
            while waiting:
                left = max(0.0, until - loop.time())
                done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                if any(task.result() is Knock.ANSWERS for task in done):
                    until = since + min(probe, max(SOON, 5 * (loop.time() - since)))
            return [task.result() if task.done() else Knock.SILENT for task in tasks]
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
