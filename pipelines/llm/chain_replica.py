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
from collections.abc import Set as AbstractSet
from concurrent.futures import CancelledError as TaskCancelled
from dataclasses import replace

from ...actors.models import ModelNotFound
from ...actors.serving.channel import Channel
from ...actors.serving.errors import ChannelLost
from ...actors.serving.shard_words import LeadSpec
from ...actors.serving.status import HostState
from .chain_lead import ChainLead
from .chain_watch import Watch
from .deployment import Deployment, Held, Phase, Replica
from .lack import Lacking
from .link import GridLink
from .live_stage import LiveStage, StageLost, token_seconds
from .model_shape import NoShape
from .reconcile import Patience
from .recut import Recut
from .replica import ReplicaEnded, end
from .staging import Staging, Uncovered, holes

logger = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at the donors of the stages."""
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
        self._lacking: Lacking | None = None
        self._arranged: Sequence[LiveStage] = ()
        """As the chain was told last."""
        self._improved = time.monotonic()
        self._wake = asyncio.Event()
        self._watch = Watch(patience, self._wake.set)
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
    def token_seconds(self) -> float | None:
        """Of a single session."""
        return token_seconds(self._stages)

    @property
    def lacking(self) -> Lacking | None:
        """There are no donors for some of its layers, and none that load them. Else None."""
        taken = any(one.phase is not Phase.PLACING for one in self._staging.coming)
        return None if taken or self._phase is not Phase.PLACING else self._lacking

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
        return [Held(one.donor_id, one.layers, one.phase, self.epoch, *one.layer_seconds) for one in stages]

    async def ask_why(self) -> None:
        """It knows what it waits for."""

    async def retire(self) -> None:
        """End it and give all places back, as far as the workers still answer. Idempotent."""
        await end(self._task)
        await self._free()
        self._enter(Phase.ENDED)

    async def _free(self) -> None:
        """Give all places back. Who leads first: readers are told to go on elsewhere before their stages are gone."""
        await self._watch.close()
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
                self._lacking = Lacking(time.monotonic()) if error.tried or self._lacking is None else self._lacking
                self._say(str(error))
                await asyncio.sleep(LOOK * random.uniform(0.5, 1.5))  # noqa: S311 - others may wait for the same donors
            else:
                self._lacking = None
                self._enter(Phase.LOADING)
                return

    async def _attend(self) -> None:
        """One look at the chain, and what is due."""
        if self._lead is None and not self._watch:
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
        why = await self._watch.lead(self._lead)
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
        lost = await self._watch.named([one for one in named if one in self._stages])
        if not lost:
            await self._connect()
        return dict.fromkeys(lost, wanted.why)

    def _silent(self) -> Mapping[LiveStage, str]:
        return self._watch.silent(self._stages, LOOK)

    async def _repair(self, lost: Mapping[LiveStage, str]) -> None:
        """Others take the layers of those that are lost; if nobody can, what lives waits, or is cut anew."""
        since, donors = time.monotonic(), set[str]()
        for stage, why in lost.items():
            self._staging.shun(stage.donor_id, why)
            donors.add(stage.donor_id)
            self._drop(stage)
        if self._lead is not None and self._lead.stage in lost:
            await self._detach()
        await self._fill(since, donors)
        await self._connect()

    async def _fill(self, since: float, lost: set[str]) -> None:
        """Until every layer is held again. `since`: when some were lost, with these donors."""
        while missing := self._missing():
            try:
                for gap in missing:
                    self._stages += await self._staging.cover(gap, self._taken())
                    self._sort()
            except Uncovered as error:
                since = time.monotonic() if error.tried else since
                lost |= await self._endure(str(error), since, lost)
        self._lacking = None

    async def _endure(self, why: str, since: float, lost: AbstractSet[str]) -> set[str]:
        """Nobody can take what misses now. It is cut anew where that would do; else what is loaded waits, and requests
        hear why. Donors that were lost meanwhile."""
        with contextlib.suppress(Uncovered):
            if self._stages and (found := await self._staging.another(self._stages)):
                for one in await self._change(found, why):
                    self._release(one)
                return set()
        awaited = frozenset(lost - self._staging.here) if self._stages else frozenset[str]()
        self._lacking = Lacking(since, awaited)
        told = f"; {', '.join(sorted(awaited))}, that held them, may come back" if awaited else ""
        self._say(why + told)
        self._enter(Phase.PLACING)
        if self._lead is not None and (wanted := self._lead.wanted) is not None:
            with contextlib.suppress(StageLost):
                await self._lead.stage.call("give_up", wanted.number, why, within=self._patience.start)
        await asyncio.sleep(LOOK)
        silent = self._silent()
        for stage, said in silent.items():
            self._staging.shun(stage.donor_id, said)
            self._drop(stage)
            if self._lead is not None and stage is self._lead.stage:
                await self._detach()
        return {stage.donor_id for stage in silent}

    def _missing(self) -> list[range]:
        return holes(range(self.num_layers or 0), self._stages)

    # ---- what leaves, and what could be better

    async def _relieve(self, leaving: Sequence[LiveStage]) -> None:
        """Others take the layers of those that leave, first; where nobody is free, those that stay, in another cut."""
        new: list[LiveStage] = []
        try:
            for one in leaving:
                new += await self._staging.cover(one.layers, self._taken() | {each.donor_id for each in new})
        except Uncovered as error:
            await asyncio.gather(*(one.release() for one in new))
            why = f"{leaving[0]} should be moved ({leaving[0].standing.leaving or 'its window closes'}): {error}"
            staying = [one for one in self._stages if one not in leaving]
            with contextlib.suppress(Uncovered):
                if found := await self._staging.another(staying, leaving):
                    await self._adopt(found, why)
                    return
            self._say(why)
            await asyncio.sleep(LOOK)
            return
        await self._swap(leaving, new)

    async def _improve(self) -> None:
        """Another cut, if it is worth it."""
        try:
            if found := await self._staging.better(self._stages):
                await self._adopt(found, found.why)
        except Uncovered as error:
            logger.info("chain %d of %s stays as it is: %s", self.epoch, self._deployment.model, error)

    async def _adopt(self, found: Recut, why: str) -> None:
        """Go on in another cut. Raises Uncovered when it could not be loaded and the chain is as it was."""
        since, gone = time.monotonic(), list[LiveStage]()
        try:
            gone = await self._change(found, why)
        except Uncovered as error:
            if not self._missing():
                raise
            self._say(str(error))
        await self._fill(since, set())
        await self._connect()
        for one in gone:
            self._release(one)

    async def _change(self, found: Recut, why: str) -> list[LiveStage]:
        """The stages of another cut: loaded beside these, which serve until then. Where a donor's memory doesn't allow
        that, the chain stops, and its requests wait. Those that are not needed any more. Raises Uncovered."""
        logger.info("chain %d of %s is cut anew: %s", self.epoch, self._deployment.model, why)
        parts = {(part.offer.donor.id, part.layers) for part in found.gone}
        gone = [one for one in self._stages if (one.donor_id, one.layers) in parts]
        if found.short:
            self._say(f"it is cut anew, and stops meanwhile: {why}; {found.short}")
            self._stages = [one for one in self._stages if one not in gone]
            self._enter(Phase.LOADING)
            await self._step_down(None)
        else:
            self._say(f"it is cut anew beside what serves: {why}")
        new = await self._staging.load(found.loads, gone, instead=gone if found.short else ())
        await self._put(gone, new)
        return gone

    async def _put(self, gone: Sequence[LiveStage], new: Sequence[LiveStage]) -> None:
        self._stages = [one for one in self._stages if one not in gone] + list(new)
        self._sort()
        self.moves += 1
        await self._step_down(self._stages[-1])

    async def _swap(self, gone: Sequence[LiveStage], new: Sequence[LiveStage]) -> None:
        """`new`, which is loaded, holds what `gone` held; requests go on with the tokens that they have."""
        await self._put(gone, new)
        await self._connect()
        for one in gone:
            self._release(one)

    async def _step_down(self, leads: LiveStage | None) -> None:
        """Whoever leads does so no more, unless it is on the donor of this one: its readers go on at the next lead."""
        if self._lead is None or (leads is not None and self._lead.stage.slot is leads.slot):
            return
        with contextlib.suppress(StageLost):
            await self._lead.stage.call("resign", within=self._patience.start)
        await self._detach()

    # ---- the chain

    async def _connect(self) -> None:
        """The chain is to be of these stages: tell the one that leads, or let the last one lead."""
        self._version += 1
        self._arranged = tuple(self._stages)
        members = [one.member for one in self._stages]
        last = self._stages[-1]
        if self._lead is not None and self._lead.stage.slot is last.slot:
            self._lead.stage = last
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
            with contextlib.suppress(StageLost):
                await stage.call("resign", within=self._patience.start)
            if self._failures >= TRIES:
                raise ReplicaEnded(f"the chain could not be opened {TRIES} times; the last: {error}") from error
            logger.warning("chain %d of %s could not be opened: %s", self.epoch, self._deployment.model, error)
            self._watch.soon()
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
