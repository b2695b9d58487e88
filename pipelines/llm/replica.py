"""One replica in the flesh: its Dask actor, its channel, and its life from placement to the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError as TaskCancelled
from typing import Any

import dask
from distributed import Future

from ...actors.serving.actor import EngineActor, Placed
from ...actors.serving.channel import Channel
from ...actors.serving.errors import ChannelLost
from ...actors.serving.status import HostState
from .deployment import Deployment, Held, Phase, Replica
from .link import GridLink, NoScheduler
from .notice import Notice
from .reconcile import Patience

logger = logging.getLogger(__name__)

AGAIN = 2.0
"""Seconds that a lost host has to answer a second connection: the network may only have blinked."""
GOODBYE = 5.0
"""Seconds that a worker has to stop an engine when it is asked to; what it has not done then, Dask's release does."""


class ReplicaEnded(Exception):
    """The replica came to its end; the message says why."""


class LiveReplica:
    """Goes its way by itself in a task of its own; the supervisor looks at `view` and decides when it must end."""

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
        self.channel: Channel | None = None
        """The way to it, while there is one."""
        self._ready_at: float | None = None
        self._deployment, self._excluded, self._link = deployment, excluded, link
        self._patience, self._changed = patience, changed
        self._phase, self._since = Phase.PLACING, time.monotonic()
        self._donor_id = ""
        self._leaving_since: float | None = None
        self._why = ""
        self._key = f"llm-engine-{uuid.uuid4().hex}"
        self._future: Future | None = None
        self._actor: Any = None
        self._moved = Notice()
        self._task = asyncio.create_task(self._live(), name=f"idlegrid-replica-{epoch}")

    @property
    def donor_id(self) -> str:
        """Where it is: the donor's public id, or the worker's address where there is no plugin. Empty before."""
        return self._donor_id

    @property
    def serving(self) -> Channel | None:
        """Its channel, if it takes requests now."""
        channel = self.channel
        if self._phase is not Phase.READY or channel is None or channel.lost is not None:
            return None
        return channel if channel.status.state is HostState.READY else None

    @property
    def token_seconds(self) -> float | None:
        """Nobody measures it: the model is whole."""
        return None

    def view(self, now: float) -> Replica:
        """As the rules see it."""
        status = self.channel.status if self.channel is not None else None
        leaving = status.leaving if status is not None else ""
        if not leaving:
            self._leaving_since = None
        elif self._leaving_since is None:
            self._leaving_since = now
        return Replica(
            epoch=self.epoch,
            phase=self._phase,
            since=self._since,
            donor_id=self._donor_id,
            excluded=self._excluded,
            leaving=leaving,
            leaving_since=self._leaving_since,
            in_flight=self.channel.in_flight if self.channel is not None else 0,
            stalled=status.stalled if status is not None and self.serving is not None else 0.0,
            ready_at=self._ready_at,
            why=self._why,
        )

    def held(self, num_layers: int | None) -> list[Held]:
        """All layers, on one donor."""
        return [Held(self._donor_id, range(num_layers or 0), self._phase, self.epoch)]

    async def ask_why(self) -> None:
        """Ask the scheduler what its placement waits for."""
        if self._phase is Phase.PLACING and not self._donor_id:
            self._why = await self._link.why(self._key)

    async def retire(self) -> None:
        """End it and give its place back, as far as its worker still answers. Idempotent."""
        await end(self._task)
        self._enter(Phase.ENDED)
        actor, self._actor = self._actor, None
        if actor is not None:
            with contextlib.suppress(Exception):  # a dead worker says so in many ways
                async with asyncio.timeout(GOODBYE):
                    await actor.stop()
        if self.channel is not None:
            await self.channel.close()
        future, self._future = self._future, None
        del actor
        if future is not None:
            with contextlib.suppress(Exception):
                client = await self._link.client()
                await client.cancel([future], force=True, reason="replica-retired", msg="the replica was retired")
            future.release()

    async def _live(self) -> None:
        why = ""
        try:
            placed = await self._place()
            await self._load(placed)
            await self._serve(placed)
        except ReplicaEnded as error:
            why = str(error)
        except (NoScheduler, ChannelLost) as error:
            why = str(error)
        except (OSError, TimeoutError, TaskCancelled, RuntimeError) as error:  # Dask's ways to say: the worker is gone
            why = f"its worker was lost: {error or type(error).__name__}"
        except Exception as error:
            logger.exception("replica %d of %s failed", self.epoch, self._deployment.model)
            why = f"{type(error).__name__}: {error}"
        self._why = why
        self._enter(Phase.ENDED)

    async def _place(self) -> Placed:
        client = await self._link.client()
        with dask.annotate(grid=self._deployment.ask(self._excluded).to_annotation()):
            self._future = client.submit(
                EngineActor, self._deployment.spec(), self.epoch, actor=True, key=self._key, pure=False
            )
        with client.as_current():  # an actor's handle takes whatever client is current, and fails where none is
            self._actor = await self._future
            starting = self._actor.start()
        try:
            async with asyncio.timeout(self._patience.start):
                placed: Placed = await starting
        except TimeoutError:
            raise ReplicaEnded(f"the worker did not begin within {self._patience.start:g} s") from None
        self._donor_id, self._why = placed.donor_id or placed.worker, ""
        return placed

    async def _load(self, placed: Placed) -> None:
        self._enter(Phase.LOADING)
        self.channel = await self._open(placed, self._patience.silence)
        while self.channel.status.state is HostState.LOADING:
            await self._next_status(self.channel)
        self._check(self.channel)
        self._ready_at = time.monotonic()
        self._enter(Phase.READY)

    async def _serve(self, placed: Placed) -> None:
        """Until it is lost for good. A connection that broke is made again once."""
        while True:
            assert self.channel is not None
            self._check(self.channel)
            if self.channel.lost is None:
                await self._next_status(self.channel)
                continue
            why = self.channel.lost
            try:
                self.channel = await self._open(placed, AGAIN)
            except ChannelLost as error:
                raise ReplicaEnded(f"{why}; {error}") from None
            while self.channel.lost is None and self.channel.status.state is HostState.LOADING:
                await self._next_status(self.channel)  # the first word of the new connection

    def _check(self, channel: Channel) -> None:
        if channel.lost is not None and self._phase is not Phase.READY:
            raise ReplicaEnded(f"lost while it was loading: {channel.lost}")
        status = channel.status
        if status.state in (HostState.FAILED, HostState.CLOSING):
            raise ReplicaEnded(status.why or "its host is closing")

    async def _open(self, placed: Placed, deadline: float) -> Channel:
        silence = self._patience.silence
        return await Channel.open(
            placed.address,
            tls=self._link.tls(placed.worker),
            heartbeat=min(0.5, silence / 4),
            deadline=silence,
            patience=deadline,
            told=self._heard,
        )

    async def _next_status(self, channel: Channel) -> None:
        if channel.lost is None:
            await self._moved.wait()

    def _heard(self) -> None:
        self._moved.tell()
        self._changed()

    def _enter(self, phase: Phase) -> None:
        if self._phase is phase:
            return
        self._phase, self._since = phase, time.monotonic()
        self._changed()


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel it, and wait. Before Python 3.12, `asyncio.wait_for`, which Dask uses, may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=1.0)
