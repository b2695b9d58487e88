"""One replica of a model that is split: its stages on their donors, and the last of them, which serves requests.

A stage that is lost is replaced while requests live: its chain asks with the host's status. A stage whose donor wants
to leave, or will soon, is moved before it goes: the new one is loaded first, then the chain goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError as TaskCancelled
from dataclasses import replace

from ...actors.models import ModelNotFound
from ...actors.serving.channel import Channel
from ...actors.serving.errors import ChannelLost
from ...actors.serving.shard_words import LeadSpec
from ...actors.serving.status import HostState
from .chain_lead import ChainLead
from .chain_looks import Looks
from .deployment import Deployment, Held, Phase, Replica
from .link import GridLink
from .live_stage import LiveStage, StageLost
from .model_shape import NoShape
from .reconcile import Patience
from .replica import ReplicaEnded, end
from .staging import Staging, Uncovered, holes

logger = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at the donors of the stages."""
PROBE = 2.0
"""Seconds that a stage has to answer when its chain says that it is lost."""
IMPROVE = 30.0
"""Seconds between two looks for a better cut."""
TRIES = 3
"""So often in a row the chain may fail to open, until the replica is given up."""


class ChainReplica:
    """Goes its way by itself in a task of its own; see `LiveReplica`, of which it has the face."""

    def __init__(
        self,
        deployment: Deployment,
        epoch: int,
        excluded: frozenset[str],
        link: GridLink,
        patience: Patience,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called whenever `view` may have become another. Starts at once."""
        self.epoch = epoch
        self.moves = 0
        """How often stages were moved as planned, before they left."""
        self._deployment, self._excluded, self._link = deployment, excluded, link
        self._patience, self._changed = patience, changed
        self._staging = Staging(deployment, excluded, link, patience)
        self._stages: list[LiveStage] = []
        self._lead: ChainLead | None = None
        self._version, self._asked, self._failures = 0, 0, 0
        self._uncovered = False
        self._arranged: Sequence[LiveStage] = ()
        self._doubted: frozenset[LiveStage] = frozenset()
        """What the chain had lost, it said, the last time."""
        self._looked = self._improved = time.monotonic()
        self._wake = asyncio.Event()
        self._looks = Looks(self._wake.set)
        self._leaving: set[asyncio.Task[None]] = set()
        self._phase, self._since, self._why = Phase.PLACING, time.monotonic(), ""
        self._ready_at: float | None = None
        self._task = asyncio.create_task(self._live(), name=f"idlegrid-chain-{epoch}")

    # ---- as others see it

    @property
    def donor_id(self) -> str:
        """Where it is served from: the donor of the last layers. Empty before."""
        return "" if self._lead is None else self._lead.stage.donor_id

    @property
    def channel(self) -> Channel | None:
        """The way to the stage that leads, while there is one."""
        return None if self._lead is None else self._lead.channel

    @property
    def num_layers(self) -> int | None:
        """Of the model, once it is known."""
        sizes = self._staging.sizes
        return None if sizes is None else sizes.num_layers

    @property
    def serving(self) -> Channel | None:
        """Its channel, if it takes requests now."""
        channel = self.channel
        if self._phase is not Phase.READY or channel is None or channel.lost is not None:
            return None
        return channel if channel.status.state is HostState.READY else None

    @property
    def lacking(self) -> bool:
        """There are no donors for some of its layers, and none that load them."""
        taken = any(one.phase is not Phase.PLACING for one in self._staging.coming)
        return self._uncovered and not taken and self._phase is Phase.PLACING

    def view(self, now: float) -> Replica:
        """As the rules see it. That donors leave is the replica's own business."""
        status = self.channel.status if self.channel is not None else None
        busy = status is not None and self.serving is not None and status.wants is None
        return Replica(
            epoch=self.epoch,
            phase=self._phase,
            since=self._since,
            donor_id="" if self._phase is Phase.ENDED else self.donor_id,
            excluded=self._excluded,
            in_flight=self.channel.in_flight if self.channel is not None else 0,
            stalled=status.stalled if status is not None and busy else 0.0,
            ready_at=self._ready_at,
            why=self._why,
            others=frozenset(one.donor_id for one in self._stages),
        )

    def held(self, num_layers: int | None) -> list[Held]:
        """Who holds which layers, in their order; those that are coming, too. `num_layers` is for other kinds."""
        stages = sorted((*self._stages, *self._staging.coming), key=lambda one: one.layers.start)
        return [Held(one.donor_id, one.layers, one.phase, self.epoch) for one in stages]

    async def ask_why(self) -> None:
        """It knows what it waits for."""

    async def retire(self) -> None:
        """End it and give all places back, as far as the workers still answer. Idempotent."""
        await end(self._task)
        await self._free()
        self._enter(Phase.ENDED)

    async def _free(self) -> None:
        """Give all places back. Who leads first: readers are told to go on elsewhere before their stages are gone."""
        await self._looks.close()
        stages, self._stages = self._stages, []
        await asyncio.gather(*(one.release() for one in stages if self._lead and one is self._lead.stage))
        await self._detach()
        await asyncio.gather(*(one.release() for one in stages), *self._leaving)

    # ---- its life

    async def _live(self) -> None:
        try:
            await self._measure()
            await self._assemble()
            while True:
                await self._attend()
        except ReplicaEnded as error:
            why = str(error)
        except Exception as error:
            logger.exception("chain %d of %s failed", self.epoch, self._deployment.model)
            why = f"{type(error).__name__}: {error}"
        self._why = why
        await self._free()  # whoever comes next may want these donors
        self._enter(Phase.ENDED)

    async def _measure(self) -> None:
        try:
            await self._staging.measure()
        except (NoShape, ModelNotFound, OSError, TaskCancelled) as error:
            raise ReplicaEnded(f"the model can't be cut: {error or type(error).__name__}") from error

    async def _assemble(self) -> None:
        """Until all layers are loaded: waits for donors that can hold them."""
        while True:
            try:
                self._stages = await self._staging.cover(None, frozenset())
            except Uncovered as error:
                self._uncovered = True
                self._say(str(error))
                await asyncio.sleep(LOOK * random.uniform(0.5, 1.5))  # noqa: S311 - others may wait for the same donors
            else:
                self._uncovered = False
                self._enter(Phase.LOADING)
                return

    async def _attend(self) -> None:
        """One look at the chain, and what is due."""
        if self._lead is None and not self._looks:
            await self._connect()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK):
                await self._wake.wait()
        self._wake.clear()
        lost = {**await self._lead_lost(), **await self._asked_for(), **self._silent()}
        if lost:
            await self._repair(lost)
        elif leaving := [one for one in self._stages if one.leaves(self._patience.notice)]:
            await self._relieve(leaving)
        elif time.monotonic() - self._improved > IMPROVE:
            self._improved = time.monotonic()
            await self._improve()

    # ---- what is lost

    async def _lead_lost(self) -> Mapping[LiveStage, str]:
        if self._lead is None:
            return {}
        why = await self._lead.lost()
        if not why and self._lead.status is HostState.FAILED:
            raise ReplicaEnded(self._lead.channel.status.why)
        return {self._lead.stage: why} if why else {}

    async def _asked_for(self) -> Mapping[LiveStage, str]:
        """What the chain itself says it has lost. A stage that was only silent, and answers us, gets another chance."""
        wanted = self._lead.wanted if self._lead is not None else None
        if wanted is None or wanted.number <= self._asked:
            return {}
        self._asked = wanted.number
        named = [self._arranged[index] for index in wanted.lost] if wanted.version == self._version else []
        asked = [one for one in named if one in self._stages]
        ends = await asyncio.gather(*(one.look(PROBE) for one in asked), return_exceptions=True)
        lost = [one for one, end in zip(asked, ends, strict=True) if end is not None or one in self._doubted]
        self._doubted = frozenset(asked)
        if not lost:
            await self._connect()
        return dict.fromkeys(lost, wanted.why)

    def _silent(self) -> Mapping[LiveStage, str]:
        """Stages that don't answer any more. All are asked how they are, if it is time; nobody waits for them."""
        if time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            self._looks.ask(self._stages, self._patience.silence)
        return {one: why for one, why in self._looks.lost().items() if one in self._stages}

    async def _repair(self, lost: Mapping[LiveStage, str]) -> None:
        """Others take the layers of those that are lost; if nobody can, what lives waits, or ends to be cut anew."""
        for stage, why in lost.items():
            self._staging.shun(stage.donor_id, why)
            self._drop(stage)
        if self._lead is not None and self._lead.stage in lost:
            await self._detach()
        while missing := self._missing():
            try:
                for gap in missing:
                    self._stages += await self._staging.cover(gap, self._taken())
                    self._sort()
            except Uncovered as error:
                await self._endure(str(error))
        self._uncovered = False
        await self._connect()

    async def _endure(self, why: str) -> None:
        """Nobody can take what misses now. Raises ReplicaEnded when another cut would do."""
        self._say(why)
        with contextlib.suppress(Uncovered):
            if self._stages and await self._staging.possible(self._stages):
                raise ReplicaEnded(f"it is cut anew: {why}")
        self._uncovered = True
        self._enter(Phase.PLACING)
        if self._lead is not None and (wanted := self._lead.wanted) is not None:
            with contextlib.suppress(StageLost):
                await self._lead.stage.call("give_up", wanted.number, why, within=self._patience.start)
        await asyncio.sleep(LOOK)
        for stage, said in self._silent().items():
            self._staging.shun(stage.donor_id, said)
            self._drop(stage)
            if self._lead is not None and stage is self._lead.stage:
                await self._detach()

    def _missing(self) -> list[range]:
        return holes(range(self.num_layers or 0), self._stages)

    # ---- what leaves, and what could be better

    async def _relieve(self, leaving: Sequence[LiveStage]) -> None:
        """Others take the layers of those that leave, first."""
        new: list[LiveStage] = []
        try:
            for one in leaving:
                new += await self._staging.cover(one.layers, self._taken() | {each.donor_id for each in new})
        except Uncovered as error:
            await asyncio.gather(*(one.release() for one in new))
            self._say(f"{leaving[0]} should be moved ({leaving[0].standing.leaving or 'its window closes'}): {error}")
            await asyncio.sleep(LOOK)
            return
        await self._swap(leaving, new)

    async def _improve(self) -> None:
        """Another cut, if it is worth it: loaded beside this one where it can be, else after it."""
        try:
            found = await self._staging.better(self._stages)
            if not found:
                return
            logger.info("chain %d of %s is cut anew: %s", self.epoch, self._deployment.model, found.why)
            held = {(one.donor_id, one.layers): one for one in self._stages}
            kept = [held[key] for part in found.parts if (key := (part.offer.donor.id, part.layers)) in held]
            others = [part for part in found.parts if (part.offer.donor.id, part.layers) not in held]
            gone = [one for one in self._stages if one not in kept]
            if {part.offer.donor.id for part in others} & {one.donor_id for one in gone}:
                raise ReplicaEnded(f"it is cut anew: {found.why}")
            new = await self._staging.load(others)
        except Uncovered as error:
            logger.info("chain %d of %s stays as it is: %s", self.epoch, self._deployment.model, error)
            return
        await self._swap(gone, new)

    async def _swap(self, gone: Sequence[LiveStage], new: Sequence[LiveStage]) -> None:
        """`new`, which is loaded, holds what `gone` held; requests go on with the tokens that they have."""
        self._stages = [one for one in self._stages if one not in gone] + list(new)
        self._sort()
        self.moves += 1
        if self._lead is not None and self._lead.stage in gone:
            with contextlib.suppress(StageLost):  # its readers are told to go on elsewhere: here, with another lead
                await self._lead.stage.call("resign", within=self._patience.start)
            await self._detach()
        await self._connect()
        for one in gone:
            self._release(one)

    # ---- the chain

    async def _connect(self) -> None:
        """The chain is to be of these stages: tell the one that leads, or let the last one lead."""
        self._version += 1
        self._arranged = tuple(self._stages)
        members = [one.member for one in self._stages]
        last = self._stages[-1]
        if self._lead is not None and self._lead.stage is last:
            with contextlib.suppress(StageLost):  # the next look finds it
                await last.call("arrange", self._version, members, within=self._patience.start)
        else:
            await self._install(last)
        if self.channel is not None:
            self._say("")
            self._ready_at = self._ready_at or time.monotonic()
            self._enter(Phase.READY)

    async def _install(self, stage: LiveStage) -> None:
        """The last stage opens the chain and serves. When it fails, the next look finds who is lost."""
        sizes = await self._staging.measure()
        spec = LeadSpec(
            engine=replace(self._deployment.spec(), dtype=sizes.dtype),
            num_blocks=sizes.num_blocks,
            mend=self._patience.mend,
            pace=self._staging.pace,
        )
        self._asked = self._version = 0
        lead = ChainLead(stage, self._link, self._patience, self._heard)
        try:
            await lead.install(spec, self.epoch, [one.member for one in self._stages])
        except (StageLost, ChannelLost) as error:
            self._failures += 1
            if self._failures >= TRIES:
                raise ReplicaEnded(f"the chain could not be opened {TRIES} times; the last: {error}") from error
            logger.warning("chain %d of %s could not be opened: %s", self.epoch, self._deployment.model, error)
            self._looked = 0.0
            return
        self._failures, self._lead = 0, lead

    async def _detach(self) -> None:
        """Nobody leads any more."""
        lead, self._lead = self._lead, None
        if lead is not None:
            await lead.channel.close()
        self._changed()

    # ---- small things

    def _taken(self) -> frozenset[str]:
        return frozenset(one.donor_id for one in self._stages)

    def _sort(self) -> None:
        self._stages.sort(key=lambda one: one.layers.start)

    def _drop(self, stage: LiveStage) -> None:
        self._stages = [one for one in self._stages if one is not stage]
        self._release(stage)

    def _release(self, stage: LiveStage) -> None:
        task = asyncio.create_task(stage.release())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _heard(self) -> None:
        self._wake.set()
        self._changed()

    def _say(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._changed()

    def _enter(self, phase: Phase) -> None:
        if self._phase is phase:
            return
        self._phase, self._since = phase, time.monotonic()
        self._changed()
