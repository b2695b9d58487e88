"""One stage of a chain in the flesh: layers that are loaded in the slot of a donor, from placement to the end."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from ...actors.serving.shard_words import Member, ShardSpec, Standing
from ...grid.layers.speed import Source
from .chain_plan import Offer
from .deployment import Phase
from .donor_slot import GOODBYE, DonorSlot, StageLost, StageRefused
from .reconcile import Patience

__all__ = ["LiveStage", "StageLost", "StageRefused"]


TIMES = 10.0
"""The slowest of a stage's last answers, until it hangs: a machine that is busy with others does not."""
KEPT = 60
"""Answers that count, of one a second."""


class LiveStage:
    """Asked to `begin` and to `release`; whoever made it decides when. Belongs to one event loop."""

    def __init__(self, spec: ShardSpec, offer: Offer, slot: DonorSlot, patience: Patience) -> None:
        """`slot`: where it is to be, perhaps beside another stage; `offer`: its donor, as it was when it was chosen."""
        self.layers, self.offer, self.slot = spec.layers, offer, slot
        self.phase = Phase.PLACING
        self.standing = Standing()
        """As it said last."""
        self._spec, self._patience = spec, patience
        self._member: Member | None = None
        self._took: deque[float] = deque(maxlen=KEPT)
        slot.enter(self)

    @property
    def donor_id(self) -> str:
        """Where it is, or is to be."""
        return self.slot.donor_id

    @property
    def member(self) -> Member:
        """As chains see it. Raises StageLost before it has loaded."""
        if self._member is None:
            raise StageLost(f"{self} has not loaded")
        return self._member

    @property
    def layer_seconds(self) -> tuple[float, Source]:
        """One token of a single session through one layer: by its own steps as soon as they tell, else as it was taken
        to be when its donor was chosen."""
        if self.standing.speed is None:
            return self.offer.donor.seconds_a_layer, self.offer.source
        return self.standing.speed.step_seconds(self._spec.layer_bytes), self.standing.speed.source

    def __str__(self) -> str:
        return f"layers {self.layers.start} to {self.layers.stop - 1} on {self.donor_id}"

    async def begin(self) -> None:
        """Take the place and load. Raises StageLost."""
        await self.slot.take(str(self))
        self.phase = Phase.LOADING
        self._member = await self.call("load", self._spec, within=self._patience.load)
        await self.look(self._patience.start)  # whoever hangs later is known to have answered sooner
        self.phase = Phase.READY

    def leaves(self, notice: float) -> bool:
        """Whether its donor wants to, or its window closes within `notice` seconds, as it said last."""
        closes = self.standing.closes_in
        return bool(self.standing.leaving) or (closes is not None and closes < notice)

    async def look(self, within: float) -> None:
        """Ask how its donor is. Raises StageLost when it isn't there or says nothing."""
        since = time.monotonic()
        self.standing = await self.call("standing", within=within)
        self._took.append(time.monotonic() - since)

    def allowed(self, least: float, most: float) -> float:
        """Seconds that it may take to answer: ten times the slowest of its last answers. `most` before it loaded."""
        return min(most, max(least, TIMES * max(self._took))) if self._took else most

    async def call(self, method: str, *args: Any, within: float) -> Any:
        """Ask the actor. Raises StageLost."""
        return await self.slot.call(str(self), method, *args, within=within)

    async def release(self) -> None:
        """End it, and give the slot back if no other stage is in it, as far as its worker still answers. Idempotent."""
        self.phase = Phase.ENDED
        member, self._member = self._member, None
        if not await self.slot.leave(self) and member is not None:
            with contextlib.suppress(StageLost):
                await self.call("unload", member.stage, within=GOODBYE)


def token_seconds(stages: Sequence[LiveStage]) -> float | None:
    """One token of a single session through these stages and back, as far as it is known. None: there are none."""
    if not stages:
        return None
    computing = sum(len(one.layers) * one.layer_seconds[0] for one in stages)
    return computing + sum(seconds for one in stages for seconds in one.standing.links.values()) / 2
