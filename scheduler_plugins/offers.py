"""Sends waiting tasks on, in order of priority, as soon as somebody may take them: no task is ever polled."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any, TypeAlias

from distributed.protocol.pickle import dumps

from .lanes import Key, Lane, Lanes, Place
from .placer import Placer
from .roster import Seat

Scheduler: TypeAlias = Any
"""distributed's own, which has no types."""

Sending: TypeAlias = tuple[Place, Lane, Seat | None]
"""A waiting task that is about to be sent on, and its donor if that is settled already."""

Rooms: TypeAlias = dict[Seat, int]
"""Donors that may take more, and how many jobs each."""

_FEW = 8
"""Up to so many donors are compared one by one; among more, the index finds the best."""
_UNTESTED = 32
"""Tasks tried at once for lanes of which it isn't known yet who could take them."""
_LONGEST_SLEEP = 60.0
"""Seconds. The timer runs on a clock that stands still while a machine sleeps, and windows open by the wall clock."""


class UnreadableAnnotationError(ValueError):
    """A task's grid annotation could not be read, so nobody may run it."""


class Offers:
    """Offers waiting tasks to the donors that have become able to take more, and sets the one timer for what time
    will change.

    Each lane with waiting tasks is at any time either *tested* (its first task was refused by every donor, and none
    has eased since) or in `untested`; a donor that has eased is in `roster.changed`. `run` empties both.
    """

    def __init__(self, scheduler: Scheduler, lanes: Lanes, placer: Placer) -> None:
        self.lanes = lanes
        self.placer = placer
        self.roster = placer.roster
        self.untested: set[Lane] = set()
        self.runs = 0
        """How often offers were made; for tests and the curious."""
        self.plan: dict[Key, Seat] = {}
        """The donors of the tasks that are being sent on, where that is settled."""
        self._scheduler = scheduler
        self._wanted = False
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due: datetime | None = None
        self._bucket = 0.0

    def must_queue(self, lane: Lane) -> bool:
        """Whether a task that becomes ready has to wait behind others: its lane's, or any while freed slots are to
        be offered.
        """
        if lane.waiting:
            return True
        if self.lanes and self.roster.changed:
            self.untested.add(lane)
            return True
        return False

    def want(self) -> None:
        """Make offers when the current event is dealt with: for events that end in `settle`."""
        self._wanted = True

    def wake(self) -> None:
        """Make offers when the current event is dealt with, whichever it is: as soon as the loop comes round."""
        if self.lanes:
            self._wanted = True
            if self._soon is None:
                self._soon = asyncio.get_running_loop().call_soon(self._come_round)

    def settle(self) -> None:
        """Make the offers that are due now. To be called between Dask's events, never within its transitions."""
        if self._wanted and self.lanes:
            self.run()

    def _come_round(self) -> None:
        self._soon = None
        self.settle()

    def stop(self) -> None:
        """Make no more offers."""
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._soon = self._timer = self._due = None
        self._wanted = False

    def run(self) -> None:
        """Offer what waits to everybody who has become able to take more."""
        self._wanted = False
        self.runs += 1
        now = self.placer.clock()
        try:
            self._fail_unreadable()
            self._offer(self._eased(now), now)
        except Exception as problem:  # noqa: BLE001 - unplaced is the safe side
            self.placer.failed(problem)
        self._set_timer(self.placer.clock())

    def _eased(self, now: datetime) -> Rooms:
        """Donors that may take more than at the last run."""
        changed, self.roster.changed = self.roster.changed, set()
        if self.roster.timed:
            changed |= self.roster.donors.opened(now)
        bucket = now.timestamp() // self.placer.offer_every
        if bucket != self._bucket:
            self._bucket = bucket
            changed |= self.roster.thin
        return self._rooms((seat for id_ in changed if (seat := self.roster.get(id_)) is not None), now)

    def _rooms(self, seats: Iterable[Seat], now: datetime) -> Rooms:
        return {seat: room for seat in seats if (room := self.placer.room(seat, now))}

    def _offer(self, rooms: Rooms, now: datetime) -> None:
        """Send tasks on until every lane that these donors could serve, and every untested one, is empty or refused."""
        seats = list(rooms)
        untested, self.untested = self.untested, set()
        blocked: set[Lane] = set()
        while True:
            untested = {lane for lane in untested - blocked if lane.waiting} if untested else untested
            # All others have refused the first of a tested lane, unless by a lot, which is each task's own.
            if untested or self.roster.thin or len(seats) > _FEW:
                batch = self._tries(seats, untested, blocked, now)
            else:
                batch = self._settled(rooms, blocked, now)
            if not batch:
                return
            for lane, settled in self._send(batch):
                (untested if settled else blocked).add(lane)
            if batch[0][2] is None:  # the rule has decided since the rooms were counted
                rooms = self._rooms(seats, now)

    def _send(self, batch: list[Sending]) -> list[tuple[Lane, bool]]:
        """Let Dask send these tasks on, in this order: the lanes of those that stayed, and if that was unforeseen."""
        self.plan = {place.key: seat for place, _, seat in batch if seat is not None}
        stayed: list[tuple[Lane, bool]] = []
        try:
            # Dask works recommendations off from the end.
            keys = {place.key: "processing" for place, _, _ in reversed(batch)}
            self._scheduler.transitions(keys, f"idlegrid-offer-{time()}")
        finally:
            self.plan = {}
            stayed += ((lane, seat is not None) for place, lane, seat in batch if self.lanes.put_back(place))
        return stayed

    def _settled(self, rooms: Rooms, blocked: set[Lane], now: datetime) -> list[Sending]:
        """The tasks that these donors get next, best priority first, when nobody else comes into question: for equal
        tasks the rule is asked once. One that Dask itself restricts comes alone, and the rule decides in its turn.
        Takes from `rooms` what they fill.
        """
        batch: list[Sending] = []
        heads = self._heads(rooms, blocked) if rooms else []
        busy = {seat for seat in rooms if seat.held}
        while heads and rooms:
            lane = heads[0][1]
            if lane.restrictions:
                return batch or [(self.lanes.take(lane), lane, None)]
            seat = self._best(lane, rooms, busy, now)
            if seat is None:
                heapq.heappop(heads)
                continue
            batch.append((self.lanes.take(lane), lane, seat))
            self._advance(heads, lane)
            busy.add(seat)
            rooms[seat] -= 1
            if not rooms[seat]:
                del rooms[seat]
        return batch

    def _best(self, lane: Lane, among: Iterable[Seat], busy: set[Seat], now: datetime) -> Seat | None:
        """The donor that goes first for the lane's tasks, None if all refuse them."""
        best, key = None, None
        for seat in among:
            fit = self.placer.fit(lane, seat)
            if fit.welcome and self.placer.finishes(lane, seat, now):
                its = fit.busy if seat in busy else fit.free
                if key is None or its < key:
                    best, key = seat, its
        return best

    def _tries(self, seats: list[Seat], untested: set[Lane], blocked: set[Lane], now: datetime) -> list[Sending]:
        """The tasks to try next, best priority first, and no more than there may be slots for."""
        room = sum(self.placer.room(seat, now) for seat in seats) + (_UNTESTED if untested else 0)
        if not room:
            return []
        heads = self._heads(seats, blocked, untested)
        batch: list[Sending] = []
        hopeful: set[Lane] = set(untested)
        while heads and len(batch) < room:
            lane = heads[0][1]
            if lane not in hopeful and not self._hopeful(lane, seats, now):
                heapq.heappop(heads)
                continue
            hopeful.add(lane)
            batch.append((self.lanes.take(lane), lane, None))
            self._advance(heads, lane)
        return batch

    def _heads(
        self, seats: Collection[Seat], blocked: set[Lane], untested: Iterable[Lane] = ()
    ) -> list[tuple[Place, Lane]]:
        """A heap of who is first in each lane that these donors could serve, and in the untested ones."""
        types = {type_ for seat in seats for type_ in seat.donor.supported_types}
        lanes = {*self.lanes.of_types(types), *untested} - blocked
        heads = [(first, lane) for lane in lanes if (first := self.lanes.first(lane)) is not None]
        heapq.heapify(heads)
        return heads

    def _advance(self, heads: list[tuple[Place, Lane]], lane: Lane) -> None:
        """The first of the foremost lane is taken: its next comes into the heap."""
        following = self.lanes.first(lane)
        if following is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (following, lane))

    def _hopeful(self, lane: Lane, seats: list[Seat], now: datetime) -> bool:
        """Whether one of these donors might take a task of the lane (before lots are drawn)."""
        return bool(lane.restrictions) or any(
            self.placer.fit(lane, seat).welcome and self.placer.finishes(lane, seat, now) for seat in seats
        )

    def _fail_unreadable(self) -> None:
        """A task that says nothing readable would wait for ever: it fails instead, and its message says why."""
        for lane in self.lanes.unreadable():
            while (first := self.lanes.first(lane)) is not None:
                stimulus_id = f"idlegrid-unreadable-{time()}"
                exception = dumps(UnreadableAnnotationError(lane.error))
                recommendations = self._scheduler.transition(
                    first.key, "erred", exception=exception, cause=first.key, stimulus_id=stimulus_id
                )
                self._scheduler.transitions(recommendations, stimulus_id)
                self.lanes.remove(first.key)

    def _set_timer(self, now: datetime) -> None:
        """Wake at the next moment at which time alone lets somebody take more. Nothing waits: no timer."""
        due = self._next_moment(now) if self.lanes else None
        if due == self._due and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, due
        if due is not None:
            delay = min(max((due - now).total_seconds(), 0.0), _LONGEST_SLEEP)
            self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _next_moment(self, now: datetime) -> datetime | None:
        try:
            moment = self.roster.donors.next_change(now) if self.roster.timed else None
            thin = [seat for id_ in self.roster.thin if (seat := self.roster.get(id_)) and self.placer.room(seat, now)]
        except Exception as problem:  # noqa: BLE001
            self.placer.failed(problem)
            return now + timedelta(seconds=_LONGEST_SLEEP)
        if thin:
            every = self.placer.offer_every
            redrawn = datetime.fromtimestamp((now.timestamp() // every + 1) * every, UTC)
            moment = redrawn if moment is None else min(moment, redrawn)
        return moment

    def _ring(self) -> None:
        self._timer = self._due = None
        self.run()
