"""One stage of a chain in the flesh: its Dask actor, from placement to the end."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from concurrent.futures import CancelledError as TaskCancelled
from typing import Any

import dask
from distributed import Future

from ...actors.serving.shard_actor import ShardActor
from ...actors.serving.shard_words import Member, ShardSpec, Standing
from ...grid.jobs import Ask
from .chain_plan import Offer
from .deployment import Phase
from .link import GridLink
from .reconcile import Patience

GOODBYE = 5.0
"""Seconds that a worker has to stop a stage when it is asked to; what it has not done then, Dask's release does."""


FAIR = 0.5
"""Seconds between two questions whether the donor has taken the stage, or somebody else was first."""

GONE = 0.2
"""Seconds between two looks whether Dask has given the actor up."""


class StageLost(Exception):
    """The stage is not there any more, or never came; the message says why."""


class StageRefused(StageLost):
    """The donor doesn't take the stage now, though it would have a moment ago: somebody else was first."""


class LiveStage:
    """Asked to `begin` and to `release`; whoever made it decides when. Belongs to one event loop."""

    def __init__(self, spec: ShardSpec, offer: Offer, ask: Ask, link: GridLink, patience: Patience) -> None:
        """`ask`: what placement must know; `offer`: the donor that was chosen by it."""
        self.layers, self.offer = spec.layers, offer
        self.phase = Phase.PLACING
        self.standing = Standing()
        """As it said last."""
        self._spec, self._ask, self._link, self._patience = spec, ask, link, patience
        self._key = f"llm-stage-{uuid.uuid4().hex}"
        self._future: Future | None = None
        self._actor: Any = None
        self._member: Member | None = None

    @property
    def donor_id(self) -> str:
        """Where it is, or is to be."""
        return self.offer.donor.id

    @property
    def member(self) -> Member:
        """As chains see it. Raises StageLost before it has loaded."""
        if self._member is None:
            raise StageLost(f"{self} has not loaded")
        return self._member

    def __str__(self) -> str:
        return f"layers {self.layers.start} to {self.layers.stop - 1} on {self.donor_id}"

    async def begin(self) -> None:
        """Take the place and load. Raises StageLost."""
        try:
            client = await self._link.client()
            with dask.annotate(grid=self._ask.to_annotation()):
                self._future = client.submit(
                    ShardActor,
                    self._key,
                    self._spec,
                    actor=True,
                    key=self._key,
                    pure=False,
                    workers=[self.offer.address],
                    allow_other_workers=False,
                )
            with client.as_current():  # an actor's handle takes whatever client is current, and fails where none is
                self._actor = await self._taken(self._future)
                self.phase = Phase.LOADING
                loading = self._actor.begin()
        except (OSError, TaskCancelled, RuntimeError) as error:
            raise StageLost(f"{self}: {error or type(error).__name__}") from error
        self._member = await self._within(loading, self._patience.load)
        self.phase = Phase.READY

    async def _taken(self, future: Future) -> Any:
        """The actor, when the donor has it. Nobody waits for a slot: there may be others elsewhere."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience.start
        task = asyncio.ensure_future(future)
        try:
            while not (await asyncio.wait([task], timeout=FAIR))[0]:
                with contextlib.suppress(OSError, TimeoutError):
                    told = await self._link.ask("grid_why", key=self._key)
                    if told["state"] == "no-worker":
                        raise StageRefused(f"{self}: {told['summary']}")
                if loop.time() > until:
                    raise StageLost(f"{self}: it didn't begin within {self._patience.start:g} s")
            return task.result()
        finally:
            task.cancel()

    def leaves(self, notice: float) -> bool:
        """Whether its donor wants to, or its window closes within `notice` seconds, as it said last."""
        closes = self.standing.closes_in
        return bool(self.standing.leaving) or (closes is not None and closes < notice)

    async def look(self, within: float) -> None:
        """Ask how its donor is. Raises StageLost when it isn't there or says nothing."""
        self.standing = await self.call("standing", within=within)

    async def call(self, method: str, *args: Any, within: float) -> Any:
        """Ask the actor. Raises StageLost."""
        if self._actor is None:
            raise StageLost(f"{self} was not placed")
        try:
            asked = getattr(self._actor, method)(*args)
        except (OSError, RuntimeError) as error:
            raise StageLost(f"{self}: {error}") from error
        return await self._within(asked, within)

    async def _within(self, asked: Any, seconds: float) -> Any:
        """The answer. A call to a worker that is gone would hang for half a minute: Dask knows sooner, by the actor."""
        task = asyncio.ensure_future(asked)
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        try:
            while not (await asyncio.wait([task], timeout=min(GONE, max(0.0, until - loop.time()))))[0]:
                if self._future is not None and self._future.status not in ("finished", "pending"):
                    raise StageLost(f"{self}: its worker is gone")
                if loop.time() >= until:
                    raise StageLost(f"{self}: no answer within {seconds:g} s")
            return task.result()
        except (StageLost, asyncio.CancelledError):
            raise
        except Exception as error:
            raise StageLost(f"{self}: {error or type(error).__name__}") from error
        finally:
            task.cancel()

    async def release(self) -> None:
        """End it and give its place back, as far as its worker still answers. Idempotent."""
        self.phase = Phase.ENDED
        actor, self._actor = self._actor, None
        if actor is not None:
            with contextlib.suppress(Exception):  # a dead worker says so in many ways
                await self._within(actor.stop(), GOODBYE)
        del actor
        future, self._future = self._future, None
        if future is not None:
            with contextlib.suppress(Exception):
                client = await self._link.client()
                await client.cancel([future], force=True, reason="stage-released", msg="the stage was released")
            future.release()
