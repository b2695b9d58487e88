"""The engine of a model in stages, on the worker of its last stage: head, sequencer and text, and a chain that mends.

Who finds replacements is not here: that a stage is lost is told with the host's status, and whoever placed the stages
answers with the chain as it is to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future

from ..llm.chain import NotMended
from ..llm.families import architecture
from ..llm.sequencer_config import SequencerConfig
from ..llm.torch_engine import TorchOptions, sequencer_config
from ..models import resolve, revision
from ..shards.chain import StagePlace
from ..shards.engine import ShardedEngine
from ..shards.failover import Failover, Loss, Patience
from ..shards.head import Head
from ..shards.loop_thread import LoopThread
from ..shards.stage_host import Seat
from .shard_words import LeadSpec, Member, Wanted

Sit = Callable[[Member, Seat], Awaitable[None]]
"""Asks a stage to take a seat."""


class Leader:
    """The chain of one engine: opened on a loop of its own, changed when whoever placed the stages says so."""

    def __init__(self, spec: LeadSpec, members: Sequence[Member], sit: Sit, told: Callable[[], None]) -> None:
        """`told` is called, from any thread, when `wanted` has changed."""
        self.wanted: Wanted | None = None
        """What is asked for now."""
        self._spec, self._members, self._sit, self._told = spec, tuple(members), sit, told
        self._version = self._asked = 0
        self._latest: tuple[StagePlace, ...] = ()
        """As whoever placed the stages last said; empty while that is how the chain was opened."""
        self._answer: asyncio.Future[Sequence[StagePlace]] | None = None
        self._chain: Failover | None = None
        self._thread = LoopThread("idlegrid-chain")

    def make(self, address: str, listen_tls: ssl.SSLContext | None, connect_tls: ssl.SSLContext | None) -> LedEngine:
        """Open the chain; the engine on it, not yet started. Takes as long as stages take to take their seats.

        `address`: where the head listens. Raises what `Failover.open` does, and ValueError for options that can't be.
        """
        spec, first = self._spec, self._members[0]
        config = _config(spec)
        head = Head(
            uuid.uuid4().bytes,
            first.model,
            first.num_layers,
            address=address,
            listen_tls=listen_tls,
            connect_tls=connect_tls,
            pace=spec.pace,
        )
        try:
            self._chain = self._thread.run(self._open(head)).result()
        except BaseException:
            head.close()
            self.close()
            raise
        options = TorchOptions(**spec.engine.options)
        return LedEngine(
            spec.engine.model,
            self._chain,
            config,
            dtype=spec.engine.dtype,
            queue_limit=options.queue_limit,
            closed=self.close,
        )

    def arrange(self, version: int, members: Sequence[Member]) -> Future[None]:
        """The chain as it is to be from now on: what was asked for, or a planned change. An older version is nothing.

        Raises RuntimeError when the leader is closed.
        """
        return self._thread.run(self._arrange(version, members))

    def give_up(self, number: int, why: str) -> Future[None]:
        """There is no answer to this question."""
        return self._thread.run(self._give_up(number, why))

    @property
    def first_round_trip(self) -> tuple[str, float] | None:
        """Who holds the first layers, and how long a round trip there takes, in s. None while nobody knows."""
        chain = self._chain
        if chain is None or (seconds := chain.head.round_trip_s) is None:
            return None
        return chain.places[0].donor_id, seconds

    def close(self) -> None:
        """End the loop; the chain is closed with its engine. Idempotent."""
        self._thread.stop()

    # ---- on the loop

    async def _open(self, head: Head) -> Failover:
        patience = Patience(  # when nobody can be placed, readers wait with the service, which sees who comes
            mend=self._spec.mend, join=max(Patience().join, self._spec.pace.patience), lack=0.0
        )
        return await Failover(head, self._places(self._members), self._replace, patience=patience).open()

    async def _arrange(self, version: int, members: Sequence[Member]) -> None:
        if version <= self._version:
            return
        self._version, self._latest = version, tuple(self._places(members))
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._latest)
        elif self._chain is not None and self._chain.places != self._latest:
            await self._chain.move(self._latest)

    async def _give_up(self, number: int, why: str) -> None:
        if self.wanted is not None and self.wanted.number == number and self._answer is not None:
            with contextlib.suppress(asyncio.InvalidStateError):
                self._answer.set_exception(NotMended(why))

    async def _replace(self, loss: Loss) -> Sequence[StagePlace]:
        """See failover.Replacer. What was said since the chain broke is the answer already."""
        if self._latest and self._latest != loss.places:
            return self._latest
        self._asked += 1
        self._answer = asyncio.get_running_loop().create_future()
        self.wanted = Wanted(self._asked, self._version, tuple(sorted(loss.lost)), loss.why)
        self._told()
        try:
            return await self._answer
        finally:
            self.wanted = self._answer = None
            self._told()

    def _places(self, members: Sequence[Member]) -> list[StagePlace]:
        return [self._place(one) for one in members]

    def _place(self, member: Member) -> StagePlace:
        async def join(seat: Seat) -> None:
            await self._sit(member, seat)

        return StagePlace(layers=member.layers, door=member.door, join=join, donor_id=member.donor_id)


class LedEngine(ShardedEngine):
    """Closes what its chain ran on, too."""

    def __init__(
        self,
        model: str,
        chain: Failover,
        config: SequencerConfig,
        *,
        dtype: str,
        queue_limit: int,
        closed: Callable[[], None],
    ) -> None:
        """`closed` is called when it has closed."""
        super().__init__(model, chain, config, dtype=dtype, queue_limit=queue_limit)
        self._closed = closed

    async def close(self) -> None:
        await super().close()
        self._closed()


def _config(spec: LeadSpec) -> SequencerConfig:
    folder = resolve(spec.engine.model)
    options = TorchOptions(**spec.engine.options)
    return sequencer_config(options, spec.num_blocks, architecture(folder), revision(folder))
