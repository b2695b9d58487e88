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


class StageLost(Exception):
    """The stage is not there any more, or never came; the message says why."""


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
                async with asyncio.timeout(self._patience.start):
                    self._actor = await self._future
                self.phase = Phase.LOADING
                loading = self._actor.begin()
        except TimeoutError:
            why = await self._link.why(self._key)
            raise StageLost(f"{self}: it didn't begin within {self._patience.start:g} s ({why})") from None
        except (OSError, TaskCancelled, RuntimeError) as error:
            raise StageLost(f"{self}: {error or type(error).__name__}") from error
        self._member = await self._within(loading, self._patience.load)
        self.phase = Phase.READY

    async def look(self) -> None:
        """Ask how its donor is. Raises StageLost when it isn't there or says nothing."""
        self.standing = await self.call("standing", within=self._patience.silence)

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
        try:
            return await asyncio.wait_for(asked, seconds)
        except TimeoutError:
            raise StageLost(f"{self}: no answer within {seconds:g} s") from None
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise StageLost(f"{self}: {error or type(error).__name__}") from error

    async def release(self) -> None:
        """End it and give its place back, as far as its worker still answers. Idempotent."""
        self.phase = Phase.ENDED
        actor, self._actor = self._actor, None
        if actor is not None:
            with contextlib.suppress(Exception):  # a dead worker says so in many ways
                await asyncio.wait_for(actor.stop(), GOODBYE)
        del actor
        future, self._future = self._future, None
        if future is not None:
            with contextlib.suppress(Exception):
                client = await self._link.client()
                await client.cancel([future], force=True, reason="stage-released", msg="the stage was released")
            future.release()
