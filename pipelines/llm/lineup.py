"""The stages of one chain in the order of their layers, and the one that leads: who is told what when they change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence

from ...actors.serving.errors import ChannelLost
from ...actors.serving.shard_words import LeadSpec, Wanted
from .chain_lead import ChainLead
from .link import GridLink
from .live_stage import LiveStage, StageLost
from .reconcile import Patience
from .replica import ReplicaEnded
from .staging import holes

logger = logging.getLogger(__name__)

TRIES = 3
"""So often in a row the chain may fail to open, until it is given up."""


class Lineup:
    """Whoever has it decides which stages it has. Belongs to one event loop."""

    def __init__(self, epoch: int, link: GridLink, patience: Patience, told: Callable[[], None]) -> None:
        """`told` is called whenever the lead's channel has news."""
        self.stages: list[LiveStage] = []
        """In the order of their layers."""
        self.lead: ChainLead | None = None
        """Who leads, while somebody does."""
        self._epoch, self._link, self._patience, self._told = epoch, link, patience, told
        self._version, self._asked, self._failures = 0, 0, 0
        self._arranged: Sequence[LiveStage] = ()
        """As the chain was told last."""
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def donors(self) -> frozenset[str]:
        """Who holds a stage."""
        return frozenset(one.donor_id for one in self.stages)

    def missing(self, layers: int) -> list[range]:
        """Which of so many layers nobody holds."""
        return holes(range(layers), self.stages)

    def put(self, new: Iterable[LiveStage], gone: Iterable[LiveStage] = ()) -> None:
        """These come, those go; nobody is told yet, and nothing is released."""
        left = set(gone)
        self.stages = sorted([*(one for one in self.stages if one not in left), *new], key=lambda one: one.layers.start)

    async def drop(self, lost: Iterable[LiveStage]) -> None:
        """These are lost, and with the one that leads, so is the lead."""
        lost = list(lost)
        self.put((), lost)
        self.release(lost)
        if self.lead is not None and self.lead.stage in lost:
            await self.detach()

    def release(self, gone: Iterable[LiveStage]) -> None:
        """Give their places back; nobody waits for it."""
        for one in gone:
            task = asyncio.create_task(one.release())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def free(self) -> None:
        """Give all places back. Who leads first: readers are told to go on elsewhere before their stages are gone."""
        stages, self.stages = self.stages, []
        await asyncio.gather(*(one.release() for one in stages if self.lead and one is self.lead.stage))
        await self.detach()
        await asyncio.gather(*(one.release() for one in stages), *self._leaving)

    # ---- the lead

    async def connect(self, spec: LeadSpec) -> bool:
        """The chain is to be of these stages: tell the one that leads, or let the last one lead. False when it could
        not be opened: the next look finds who is lost. Raises ReplicaEnded when that happened too often."""
        self._version += 1
        self._arranged = tuple(self.stages)
        members, last = [one.member for one in self.stages], self.stages[-1]
        if self.lead is None or self.lead.stage.slot is not last.slot:
            return await self._install(last, spec)
        self.lead.stage = last
        with contextlib.suppress(StageLost):  # the next look finds it
            await last.call("arrange", self._version, members, within=self._patience.start)
        return True

    async def _install(self, stage: LiveStage, spec: LeadSpec) -> bool:
        self._asked = self._version = 0
        lead = ChainLead(stage, self._link, self._patience, self._told)
        try:
            await lead.install(spec, self._epoch, [one.member for one in self.stages])
        except (StageLost, ChannelLost) as error:
            self._failures += 1
            with contextlib.suppress(StageLost):
                await stage.call("resign", within=self._patience.start)
            if self._failures >= TRIES:
                raise ReplicaEnded(f"the chain could not be opened {TRIES} times; the last: {error}") from error
            logger.warning("chain %d could not be opened: %s", self._epoch, error)
            return False
        self._failures, self.lead = 0, lead
        return True

    async def step_down(self, leads: LiveStage | None) -> None:
        """Whoever leads does so no more, unless it is on the donor of this one: its readers go on at the next lead."""
        if self.lead is None or (leads is not None and self.lead.stage.slot is leads.slot):
            return
        with contextlib.suppress(StageLost):
            await self.lead.stage.call("resign", within=self._patience.start)
        await self.detach()

    async def detach(self) -> None:
        """Nobody leads any more."""
        lead, self.lead = self.lead, None
        if lead is not None:
            await lead.channel.close()

    # ---- what the chain asks for

    def question(self) -> tuple[Wanted, list[LiveStage]] | None:
        """What it lacks, it says, and which stages that are; each question is given once."""
        wanted = self.lead.wanted if self.lead is not None else None
        if wanted is None or wanted.number <= self._asked:
            return None
        self._asked = wanted.number
        named = [self._arranged[index] for index in wanted.lost] if wanted.version == self._version else []
        return wanted, [one for one in named if one in self.stages]

    async def give_up(self, why: str) -> None:
        """There is no answer to its question now."""
        if self.lead is not None and (wanted := self.lead.wanted) is not None:
            with contextlib.suppress(StageLost):
                await self.lead.stage.call("give_up", wanted.number, why, within=self._patience.start)
