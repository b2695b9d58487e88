"""The slot that a chain has of one donor: a Dask actor, in which its stages are loaded."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from concurrent.futures import CancelledError as TaskCancelled
from typing import Any

import dask
from distributed import Future

from ...actors.serving.shard_actor import ShardActor
from ...grid.jobs import Ask
from .chain_plan import Offer
from .link import GridLink
from .reconcile import Patience

GOODBYE = 5.0
"""Seconds that a worker has to stop a stage when it is asked to; what it has not done then, Dask's release does."""

FAIR = 0.5
"""Seconds between two questions whether the donor has taken the actor, or somebody else was first."""

GONE = 0.2
"""Seconds between two looks whether Dask has given the actor up."""


class StageLost(Exception):
    """The stage is not there any more, or never came; the message says why."""


class StageRefused(StageLost):
    """The donor doesn't take the stage now, though it would have a moment ago: somebody else was first."""


class DonorSlot:
    """Taken by the first stage that begins in it, given back with the last. Belongs to one event loop."""

    def __init__(self, offer: Offer, ask: Ask, link: GridLink, patience: Patience) -> None:
        """`ask`: what placement must know; `offer`: the donor that was chosen by it."""
        self.offer = offer
        self._ask, self._link, self._patience = ask, link, patience
        self._key = f"llm-stages-{uuid.uuid4().hex}"
        self._users: set[object] = set()
        self._future: Future | None = None
        self._actor: Any = None

    @property
    def donor_id(self) -> str:
        """Where it is, or is to be."""
        return self.offer.donor.id

    @property
    def gone(self) -> bool:
        """Whether Dask has given its actor up: its worker's process is not there any more."""
        return self._future is not None and self._future.status not in ("finished", "pending")

    def enter(self, user: object) -> None:
        """A stage is, or is to be, in it."""
        self._users.add(user)

    async def take(self, who: str) -> None:
        """Have the actor made there, unless it is. Raises StageLost and StageRefused. `who`: for their messages."""
        if self._actor is not None:
            return
        try:
            client = await self._link.client()
            with dask.annotate(grid=self._ask.to_annotation()):
                self._future = client.submit(
                    ShardActor,
                    self._key,
                    actor=True,
                    key=self._key,
                    pure=False,
                    workers=[self.offer.address],
                    allow_other_workers=False,
                )
            with client.as_current():  # an actor's handle takes whatever client is current, and fails where none is
                self._actor = await self._taken(self._future, who)
        except (OSError, TaskCancelled, RuntimeError) as error:
            raise StageLost(f"{who}: {error or type(error).__name__}") from error

    async def _taken(self, future: Future, who: str) -> Any:
        """The actor, when the donor has it. Nobody waits for a slot: there may be others elsewhere."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience.start
        task = asyncio.ensure_future(future)
        try:
            while not (await asyncio.wait([task], timeout=FAIR))[0]:
                with contextlib.suppress(OSError, TimeoutError):
                    told = await self._link.ask("grid_why", key=self._key)
                    if told["state"] == "no-worker":
                        raise StageRefused(f"{who}: {told['summary']}")
                if loop.time() > until:
                    raise StageLost(f"{who}: it didn't begin within {self._patience.start:g} s")
            return task.result()
        finally:
            task.cancel()

    async def call(self, who: str, method: str, *args: Any, within: float) -> Any:
        """Ask the actor. Raises StageLost."""
        if self._actor is None:
            raise StageLost(f"{who} was not placed")
        try:
            client = await self._link.client()
            with client.as_current():
                asked = getattr(self._actor, method)(*args)
        except (OSError, RuntimeError) as error:
            raise StageLost(f"{who}: {error}") from error
        return await self._within(asked, within, who)

    async def _within(self, asked: Any, seconds: float, who: str) -> Any:
        """The answer. A call to a worker that is gone would hang for half a minute: Dask knows sooner, by the actor."""
        task = asyncio.ensure_future(asked)
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        try:
            while not (await asyncio.wait([task], timeout=min(GONE, max(0.0, until - loop.time()))))[0]:
                if self.gone:
                    raise StageLost(f"{who}: its worker is gone")
                if loop.time() >= until:
                    raise StageLost(f"{who}: no answer within {seconds:g} s")
            return task.result()
        except (StageLost, asyncio.CancelledError):
            raise
        except Exception as error:
            raise StageLost(f"{who}: {error or type(error).__name__}") from error
        finally:
            task.cancel()

    async def leave(self, user: object) -> bool:
        """A stage is in it no more. True when it was the last, and the slot is given back, as far as its worker still
        answers. Idempotent."""
        self._users.discard(user)
        if self._users:
            return False
        actor, self._actor = self._actor, None
        if actor is not None:
            with contextlib.suppress(Exception):  # a dead worker says so in many ways
                await self._within(actor.stop(), GOODBYE, self.donor_id)
        del actor
        future, self._future = self._future, None
        if future is not None:
            with contextlib.suppress(Exception):
                client = await self._link.client()
                await client.cancel([future], force=True, reason="stage-released", msg="the stage was released")
            future.release()
        return True
