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
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import CancelledError as TaskCancelled
from dataclasses import replace
from typing import Any, TypeVar

from ...actors.models import ModelNotFound
from ...actors.serving.channel import Channel
from ...actors.serving.shard_words import LeadSpec
from ...actors.serving.status import HostState
from .chain_plan import Part
from .chain_watch import Watch
from .deployment import Deployment, Held, Phase, Replica
from .lack import Lacking
from .lineup import Lineup
from .link import GridLink
from .live_stage import LiveStage, token_seconds
from .model_shape import NoShape
from .reconcile import Patience
from .recut import Recut
from .replica import ReplicaEnded, end
from .staging import Staging, Uncovered

logger = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at the donors of the stages."""
IMPROVE = 30.0
"""Seconds between two looks for a better cut."""
GLANCE = 0.2
"""Seconds between two looks at the chain while something loads beside it."""
T = TypeVar("T")
_Load = Callable[[Sequence[Part], Sequence[LiveStage]], Awaitable[list[LiveStage]]]


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
        self._line = Lineup(epoch, link, patience, self._heard)
        self._lacking: Lacking | None = None
        self._improved = time.monotonic()
        self._wake = asyncio.Event()
        self._watch = Watch(patience, self._wake.set)
        self._phase, self._since, self._why = Phase.PLACING, time.monotonic(), ""
        self._ready_at: float | None = None
        self._task = asyncio.create_task(self._live(), name=f"idlegrid-chain-{epoch}")

    # ---- as others see it

    @property
    def donor_id(self) -> str:
        """Where it is served from: the donor of the last layers. Empty before."""
        return "" if self._line.lead is None else self._line.lead.stage.donor_id

    @property
    def channel(self) -> Channel | None:
        """The way to the stage that leads, while there is one."""
        return None if self._line.lead is None else self._line.lead.channel

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
        return token_seconds(self._line.stages)

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
            others=frozenset(one.donor_id for one in self._line.stages),
        )

    def held(self, num_layers: int | None) -> list[Held]:
        """Who holds which layers, in their order; those that are coming, too. `num_layers` is for other kinds."""
        stages = sorted((*self._line.stages, *self._staging.coming), key=lambda one: one.layers.start)
        return [Held(one.donor_id, one.layers, one.phase, self.epoch, *one.layer_seconds) for one in stages]

    async def ask_why(self) -> None:
        """It knows what it waits for."""

    async def retire(self) -> None:
        """End it and give all places back, as far as the workers still answer. Idempotent."""
        await end(self._task)
        await self._free()
        self._enter(Phase.ENDED)

    async def _free(self) -> None:
        await self._watch.close()
        await self._line.free()
        self._changed()

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
                self._line.put(await self._staging.cover(None, frozenset()))
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
        if self._line.lead is None and not self._watch:
            await self._connect()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK):
                await self._wake.wait()
        self._wake.clear()
        try:
            if lost := await self._lost():
                await self._repair(lost)
            elif leaving := [one for one in self._line.stages if one.leaves(self._patience.notice)]:
                await self._relieve(leaving)
            elif time.monotonic() - self._improved > IMPROVE:
                self._improved = time.monotonic()
                await self._improve()
        except _LostMeanwhile as error:
            await self._repair(error.lost)

    # ---- what is lost

    async def _lost(self) -> Mapping[LiveStage, str]:
        """Stages that are lost, and why."""
        return {**await self._lead_lost(), **await self._asked_for(), **self._silent()}

    async def _lead_lost(self) -> Mapping[LiveStage, str]:
        lead = self._line.lead
        if lead is None:
            return {}
        why = await self._watch.lead(lead)
        if not why and lead.status is HostState.FAILED:
            raise ReplicaEnded(lead.channel.status.why)
        return {lead.stage: why} if why else {}

    async def _asked_for(self) -> Mapping[LiveStage, str]:
        """What the chain itself says it has lost. A stage that was only silent, and answers us, gets another chance."""
        if (asked := self._line.question()) is None:
            return {}
        wanted, named = asked
        lost = await self._watch.named(named)
        if not lost:
            await self._connect()
        return dict.fromkeys(lost, wanted.why)

    def _silent(self) -> Mapping[LiveStage, str]:
        return self._watch.silent(self._line.stages, LOOK)

    async def _drop(self, lost: Mapping[LiveStage, str]) -> set[str]:
        """Their donors, which are avoided for a while."""
        for stage, why in lost.items():
            self._staging.shun(stage.donor_id, why)
        await self._line.drop(lost)
        self._changed()
        return {stage.donor_id for stage in lost}

    async def _repair(self, lost: Mapping[LiveStage, str]) -> None:
        """Others take the layers of those that are lost; if nobody can, what lives waits, or is cut anew."""
        since = time.monotonic()
        await self._fill(since, await self._drop(lost))
        await self._connect()

    async def _fill(self, since: float, lost: set[str]) -> None:
        """Until every layer is held again. `since`: when some were lost, with these donors."""
        while missing := self._missing():
            try:
                for gap in missing:
                    self._line.put(await self._staging.cover(gap, self._line.donors))
            except Uncovered as error:
                since = time.monotonic() if error.tried else since
                lost |= await self._endure(str(error), since, lost)
        self._lacking = None

    async def _endure(self, why: str, since: float, lost: AbstractSet[str]) -> set[str]:
        """Nobody can take what misses now. It is cut anew where that would do; else what is loaded waits, and requests
        hear why. Donors that were lost meanwhile."""
        stages = self._line.stages
        with contextlib.suppress(Uncovered):
            if stages and (found := await self._staging.another(stages)):
                self._line.release(await self._change(found, why, self._staging.load))
                return set()
        awaited = frozenset(lost - self._staging.here) if stages else frozenset[str]()
        self._lacking = Lacking(since, awaited)
        told = f"; {', '.join(sorted(awaited))}, that held them, may come back" if awaited else ""
        self._say(why + told)
        self._enter(Phase.PLACING)
        await self._line.give_up(why)
        await asyncio.sleep(LOOK)
        return await self._drop(self._silent())

    def _missing(self) -> list[range]:
        return self._line.missing(self.num_layers or 0)

    # ---- what leaves, and what could be better

    async def _relieve(self, leaving: Sequence[LiveStage]) -> None:
        """Others take the layers of those that leave, first; where nobody is free, those that stay, in another cut."""
        new: list[LiveStage] = []
        try:
            for one in leaving:
                taken = self._line.donors | {each.donor_id for each in new}
                new += await self._meanwhile(self._staging.cover(one.layers, taken))
        except _LostMeanwhile:
            await asyncio.gather(*(one.release() for one in new))
            raise
        except Uncovered as error:
            await asyncio.gather(*(one.release() for one in new))
            why = f"{leaving[0]} should be moved ({leaving[0].standing.leaving or 'its window closes'}): {error}"
            with contextlib.suppress(Uncovered):
                staying = [one for one in self._line.stages if one not in leaving]
                if found := await self._staging.another(staying, leaving):
                    await self._adopt(found, why)
                    return
            self._say(why)
            await asyncio.sleep(LOOK)
            return
        await self._put(leaving, new)
        await self._connect()
        self._line.release(leaving)

    async def _improve(self) -> None:
        """Another cut, if it is worth it."""
        try:
            if found := await self._staging.better(self._line.stages):
                await self._adopt(found, found.why)
        except Uncovered as error:
            logger.info("chain %d of %s stays as it is: %s", self.epoch, self._deployment.model, error)

    async def _adopt(self, found: Recut, why: str) -> None:
        """Go on in another cut. Raises Uncovered when it could not be loaded and the chain is as it was."""
        since, gone = time.monotonic(), list[LiveStage]()
        try:
            gone = await self._change(found, why, self._loaded_meanwhile)
        except Uncovered as error:
            if not self._missing():
                raise
            self._say(str(error))
        await self._fill(since, set())
        await self._connect()
        self._line.release(gone)

    async def _change(self, found: Recut, why: str, load: _Load) -> list[LiveStage]:
        """The stages of another cut: loaded beside these, which serve until then. Where a donor's memory doesn't allow
        that, the chain stops, and its requests wait. Those that are not needed any more. Raises Uncovered."""
        logger.info("chain %d of %s is cut anew: %s", self.epoch, self._deployment.model, why)
        parts = {(part.offer.donor.id, part.layers) for part in found.gone}
        gone = [one for one in self._line.stages if (one.donor_id, one.layers) in parts]
        if not found.short:
            self._say(f"it is cut anew beside what serves: {why}")
            await self._put(gone, await load(found.loads, gone))
            return gone
        self._say(f"it is cut anew, and stops meanwhile: {why}; {found.short}")
        self._line.put((), gone)
        self._enter(Phase.LOADING)
        await self._line.step_down(None)
        await self._put((), await self._staging.load(found.loads, gone, instead=gone))
        return gone

    async def _put(self, gone: Sequence[LiveStage], new: Sequence[LiveStage]) -> None:
        """`new`, which is loaded, holds what `gone` held; requests go on with the tokens that they have."""
        self._line.put(new, gone)
        self.moves += 1
        await self._line.step_down(self._line.stages[-1])
        self._changed()

    async def _loaded_meanwhile(self, parts: Sequence[Part], beside: Sequence[LiveStage]) -> list[LiveStage]:
        return await self._meanwhile(self._staging.load(parts, beside))

    async def _meanwhile(self, loading: Coroutine[Any, Any, T]) -> T:
        """What is loaded while the chain serves. When it loses a stage, that comes first: raises _LostMeanwhile, and
        nothing of what was loaded is left."""
        task = asyncio.create_task(loading)
        try:
            while not (await asyncio.wait([task], timeout=GLANCE))[0]:
                if lost := await self._lost():
                    raise _LostMeanwhile(lost)
            return task.result()
        finally:
            await end(task)

    # ---- small things

    async def _connect(self) -> None:
        """The chain is to be of these stages."""
        sizes = await self._staging.measure()
        spec = LeadSpec(
            engine=replace(self._deployment.spec(), dtype=sizes.dtype),
            num_blocks=sizes.num_blocks,
            mend=self._patience.mend,
            pace=self._staging.pace,
        )
        if not await self._line.connect(spec):
            self._watch.soon()
            return
        self._say("")
        self._ready_at = self._ready_at or time.monotonic()
        self._enter(Phase.READY)

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


class _LostMeanwhile(Exception):
    """Stages were lost while others loaded."""

    def __init__(self, lost: Mapping[LiveStage, str]) -> None:
        super().__init__()
        self.lost = lost
