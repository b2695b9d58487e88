"""The stage of a chain that leads, and the way to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...actors.serving.actor import Placed
from ...actors.serving.channel import Channel
from ...actors.serving.errors import ChannelLost
from ...actors.serving.shard_words import LeadSpec, Member, Wanted
from ...actors.serving.status import HostState
from .link import GridLink
from .live_stage import LiveStage, StageLost
from .notice import Notice
from .reconcile import Patience
from .replica import AGAIN


class ChainLead:
    """One stage that leads, from `install` to `close`. Belongs to one event loop."""

    def __init__(self, stage: LiveStage, link: GridLink, patience: Patience, told: Callable[[], None]) -> None:
        """`told` is called whenever the channel has news."""
        self.stage = stage
        self.channel: Channel
        """Once it is installed."""
        self._link, self._patience, self._told = link, patience, told
        self._moved = Notice()
        self._placed: Placed

    async def install(self, spec: LeadSpec, epoch: int, members: Sequence[Member]) -> None:
        """Open the chain, and wait until it serves. Raises StageLost and ChannelLost."""
        self._placed = await self.stage.call("lead", spec, epoch, members, within=self._patience.start)
        self.channel = await self._open(self._patience.silence)
        try:
            while self.channel.lost is None and self.status is HostState.LOADING:
                await self._moved.wait()
            if self.channel.lost is not None or self.status is not HostState.READY:
                raise StageLost(f"{self.stage}: {self.channel.lost or self.channel.status.why}")
        except BaseException:
            await self.channel.close()
            raise

    @property
    def status(self) -> HostState:
        """As its host said last."""
        return self.channel.status.state

    @property
    def wanted(self) -> Wanted | None:
        """What its chain asks for."""
        wire = self.channel.status.wants if self.channel.lost is None else None
        return None if wire is None else Wanted.from_wire(wire)

    async def lost(self) -> str:
        """Why the way to it is gone for good; empty while there is one. A connection that broke is made again once."""
        if self.channel.lost is None:
            return "its host closes" if self.status is HostState.CLOSING else ""
        why = self.channel.lost
        try:
            self.channel = await self._open(AGAIN)
        except ChannelLost as error:
            return f"{why}; {error}"
        return ""

    async def _open(self, within: float) -> Channel:
        silence = self._patience.silence
        return await Channel.open(
            self._placed.address,
            tls=self._link.tls(self._placed.worker),
            heartbeat=min(0.5, silence / 4),
            deadline=silence,
            patience=within,
            told=self._heard,
        )

    def _heard(self) -> None:
        self._moved.tell()
        self._told()
