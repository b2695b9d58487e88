"""Brings a request to a replica and its events back; when the replica is lost, the stream goes on from another."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from ...actors.llm.engine_face import EngineClosed, QueueFull
from ...actors.llm.request import Event, Finished, FinishReason, Request, RequestRefused
from ...actors.serving.channel import Channel
from ...actors.serving.errors import ChannelLost, StreamLost, StreamMoved
from .journal import Journal
from .lack import Lack, Lacking, Limits
from .notice import Notice
from .routing import Candidate, choose, prefix_key

logger = logging.getLogger(__name__)

GRACE = 2.0
"""Seconds that an engine may be late with its own word on a request whose time is over."""
ASK_AGAIN = 0.25
"""Seconds after which a replica that had no room is asked again."""


class Serves(Protocol):
    """A replica, as a router sees it: a `LiveReplica` or a `ChainReplica`."""

    epoch: int

    @property
    def donor_id(self) -> str:
        """Where it is."""

    @property
    def serving(self) -> Channel | None:
        """Its channel, if it takes requests now."""

    @property
    def token_seconds(self) -> float | None:
        """See `Candidate.token_seconds`."""


class Fleet(Protocol):
    """The replicas of one deployment, as a router sees them: a `Supervisor`."""

    changed: Notice
    closed: bool

    @property
    def lacking(self) -> Lacking | None:
        """No replica serves, and none is on its way: there are no donors that could hold one now. Else None."""

    def replicas(self) -> Sequence[Serves]:
        """Those that are there."""

    def why(self) -> str:
        """Why fewer serve than are wanted."""


class NoReplica(EngineClosed):
    """No replica took the request in time; the message says why. It was not accepted."""


@dataclass(slots=True)
class _Trip:
    """One request under way."""

    request: Request
    journal: Journal
    ends_at: float | None
    """When its time is over, by the loop's clock."""
    key: bytes
    losses: list[str] = field(default_factory=list)
    """Why each replica that had accepted it lost it."""
    lost_on: set[int] = field(default_factory=set)
    """Epochs of these replicas: they are asked again only if there is no other."""
    refused: set[int] = field(default_factory=set)
    """Epochs of replicas that have no room for it, or no engine, just now."""
    full: QueueFull | None = None
    accepted: bool = False
    """A replica gave an event."""


class Router:
    """Routes among the replicas of one deployment. Belongs to one event loop."""

    def __init__(
        self, fleet: Fleet, *, patience: float = 60.0, limits: Limits | None = None, most_losses: int = 3
    ) -> None:
        """`patience`: seconds that a request waits for a replica that could take it; `limits`: while nobody could hold
        one. `most_losses`: so many replicas may be lost under one request: it might be what kills them.
        """
        self.losses = 0
        """How often a request lost its replica under way and had to go on elsewhere."""
        self.active = 0
        """Requests that are under way or wait."""
        self._fleet = fleet
        self._patience, self._limits, self._most_losses = patience, limits or Limits(), most_losses
        self._service = uuid.uuid4().hex[:8]

    async def generate(
        self, request: Request, *, taken_by: Callable[[str], None] | None = None
    ) -> AsyncGenerator[Event, None]:
        """The events of a request: Tokens, then exactly one Finished, whatever happens to the replicas.

        Raises RequestRefused, QueueFull or NoReplica before the first event, when nobody accepted it. Closing it early
        aborts the request. `taken_by` hears the donor's id of each replica that is asked.
        """
        now = asyncio.get_running_loop().time()
        ends_at = None if request.timeout is None else now + request.timeout
        trip = _Trip(request, Journal(request, self._service), ends_at, prefix_key(request))
        self.active += 1
        try:
            async with aclosing(self._events(trip, taken_by)) as events:
                async for event in events:
                    yield event
        finally:
            self.active -= 1

    async def _events(self, trip: _Trip, taken_by: Callable[[str], None] | None) -> AsyncGenerator[Event, None]:
        while not trip.journal.ended:
            try:
                replica, channel = await self._find(trip)
            except (NoReplica, QueueFull) as error:
                if not trip.accepted:
                    raise
                yield trip.journal.fail(self._reason(trip), str(error))
                return
            if taken_by is not None:
                taken_by(replica.donor_id)
            async with aclosing(self._attempt(trip, replica, channel)) as events:
                async for event in events:
                    trip.accepted = True
                    yield event

    async def _attempt(self, trip: _Trip, replica: Serves, channel: Channel) -> AsyncGenerator[Event, None]:
        """The events that one replica adds; notes in `trip` how it went if it did not come to the end."""
        left = None if trip.ends_at is None else trip.ends_at - asyncio.get_running_loop().time()
        asked = trip.journal.begin(left)
        attempt = trip.journal.attempt
        try:
            async with aclosing(channel.stream(asked, within=None if left is None else left + GRACE)) as events:
                async for at, event in events:
                    if (taken := trip.journal.take(attempt, at, event)) is not None:
                        yield taken
        except QueueFull as error:
            trip.full = error
            trip.refused.add(replica.epoch)
        except EngineClosed:
            trip.refused.add(replica.epoch)
        except RequestRefused as error:
            if not trip.accepted:
                raise
            yield trip.journal.fail(FinishReason.ERROR, f"the answer can't be gone on with elsewhere: {error}")
        except TimeoutError:
            yield trip.journal.fail(FinishReason.TIMEOUT)
        except (ChannelLost, StreamLost) as error:
            if (end := self._note_loss(trip, replica, error)) is not None:
                yield end

    def _note_loss(self, trip: _Trip, replica: Serves, error: Exception) -> Finished | None:
        """The end of a request under which too many replicas were lost."""
        self.losses += 1
        trip.lost_on.add(replica.epoch)
        known = len(trip.journal.known)
        logger.warning("request %s lost its replica after %d tokens: %s", trip.request.id, known, error)
        if isinstance(error, StreamMoved):
            return None
        trip.losses.append(str(error))
        if len(trip.losses) < self._most_losses:
            return None
        return trip.journal.fail(
            FinishReason.ERROR, f"{len(trip.losses)} replicas were lost while they served it; the last: {error}"
        )

    async def _find(self, trip: _Trip) -> tuple[Serves, Channel]:
        """A replica that may take the request; waits for one. Raises NoReplica or QueueFull."""
        loop = asyncio.get_running_loop()
        since, lack = loop.time(), Lack(self._fleet, self._limits, fresh=not trip.accepted)
        give_up_at = min(since + self._patience, trip.ends_at or float("inf"))
        while (left := give_up_at - loop.time()) > 0 and not self._fleet.closed and not lack.lasts(loop.time()):
            serving = {
                one.epoch: (one, channel) for one in self._fleet.replicas() if (channel := one.serving) is not None
            }
            asked = [_candidate(*pair) for epoch, pair in serving.items() if epoch not in trip.refused]
            if (chosen := choose(asked, trip.key, avoid=trip.lost_on)) is not None:
                return serving[chosen.epoch]
            if serving and trip.full is not None and not trip.accepted:
                raise trip.full
            await self._fleet.changed.wait(min(left, ASK_AGAIN))
            trip.refused.clear()
        raise NoReplica(self._told(trip, loop.time() - since))

    def _reason(self, trip: _Trip) -> FinishReason:
        over = trip.ends_at is not None and asyncio.get_running_loop().time() >= trip.ends_at
        return FinishReason.TIMEOUT if over else FinishReason.ERROR

    def _told(self, trip: _Trip, waited: float) -> str:
        lost = f"its replica was lost ({trip.losses[-1]}), and " if trip.losses else ""
        why = self._fleet.why() or "all are busy"
        within = "" if self._fleet.closed else f" within {max(1, round(waited))} s"
        return f"{lost}no replica could take it{within}: {why}"


def _candidate(replica: Serves, channel: Channel) -> Candidate:
    reported = channel.status.running + channel.status.waiting
    return Candidate(
        epoch=replica.epoch,
        load=max(reported, channel.in_flight),
        leaving=bool(channel.status.leaving),
        token_seconds=replica.token_seconds,
    )
