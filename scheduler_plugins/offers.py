"""Sends waiting tasks on, in order of priority, as soon as somebody may take them: no task is ever polled."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any, TypeAlias

from distributed.protocol.pickle import dumps

from .lanes import Lane, Lanes, Place
from .placer import Placer
from .roster import Seat

Scheduler: TypeAlias = Any
"""distributed's own, which has no types."""

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
        self._scheduler = scheduler
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

    def wake(self) -> None:
        """Make offers as soon as the current event is dealt with."""
        if self._soon is None and self.lanes:
            self._soon = asyncio.get_running_loop().call_soon(self.run)

    def stop(self) -> None:
        """Make no more offers."""
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._soon = self._timer = self._due = None

    def run(self) -> None:
        """Offer what waits to everybody who has become able to take more."""
        self._soon = None
        self.runs += 1
        now = self.placer.clock()
        try:
            self._fail_unreadable()
            self._offer(self._eased(now), now)
        except Exception as problem:  # noqa: BLE001 - unplaced is the safe side
            self.placer.failed(problem)
        self._set_timer(self.placer.clock())

    def _eased(self, now: datetime) -> list[Seat]:
        """Donors that may take more than at the last run."""
        changed, self.roster.changed = self.roster.changed, set()
        if self.roster.timed:
            changed |= self.roster.donors.opened(now)
        bucket = now.timestamp() // self.placer.offer_every
        if bucket != self._bucket:
            self._bucket = bucket
            changed |= self.roster.thin
        return [seat for id_ in changed if (seat := self.roster.get(id_)) is not None and _free_slots(seat)]

    def _offer(self, seats: list[Seat], now: datetime) -> None:
        """Send tasks on until every lane that these donors could serve, and every untested one, is empty or refused."""
        untested, self.untested = self.untested, set()
        blocked: set[Lane] = set()
        while batch := self._next(seats, untested - blocked, blocked, now):
            # All others have refused the first of a tested lane, unless by a lot, which is each task's own.
            tested = not self.roster.thin and not any(lane in untested for _, lane in batch)
            self.placer.only = seats if tested else None
            try:
                # Dask works recommendations off from the end.
                keys = {place.key: "processing" for place, _ in reversed(batch)}
                self._scheduler.transitions(keys, f"idlegrid-offer-{time()}")
            finally:
                self.placer.only = None
            for place, lane in batch:
                if self.lanes.put_back(place):
                    blocked.add(lane)

    def _next(
        self, seats: list[Seat], untested: set[Lane], blocked: set[Lane], now: datetime
    ) -> list[tuple[Place, Lane]]:
        """The tasks to try next, best priority first, and no more than there may be slots for."""
        room = sum(map(_free_slots, seats)) + (_UNTESTED if untested else 0)
        if not room:
            return []
        one = len(seats) == 1
        types = seats[0].donor.supported_types if one else {t for seat in seats for t in seat.donor.supported_types}
        lanes = {*self.lanes.of_types(types), *untested} - blocked
        heads = [(first, lane) for lane in lanes if (first := self.lanes.first(lane)) is not None]
        heapq.heapify(heads)
        batch: list[tuple[Place, Lane]] = []
        hopeful: set[Lane] = set(untested)
        while heads and len(batch) < room:
            _, lane = heads[0]
            if lane not in hopeful and not self._hopeful(lane, seats, now):
                heapq.heappop(heads)
                continue
            hopeful.add(lane)
            batch.append((self.lanes.take(lane), lane))
            following = self.lanes.first(lane)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following, lane))
        return batch

    def _hopeful(self, lane: Lane, seats: list[Seat], now: datetime) -> bool:
        """Whether one of these donors might take a task of the lane (before lots are drawn)."""
        return bool(lane.restrictions) or any(self.placer.verdict(None, lane, seat, now) for seat in seats)

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
        except Exception as problem:  # noqa: BLE001
            self.placer.failed(problem)
            return now + timedelta(seconds=_LONGEST_SLEEP)
        if any(_free_slots(seat) for id_ in self.roster.thin if (seat := self.roster.get(id_)) is not None):
            every = self.placer.offer_every
            redrawn = datetime.fromtimestamp((now.timestamp() // every + 1) * every, UTC)
            moment = redrawn if moment is None else min(moment, redrawn)
        return moment

    def _ring(self) -> None:
        self._timer = self._due = None
        self.run()


def _free_slots(seat: Seat) -> int:
    load = seat.load
    return 0 if load.paused or load.draining else max(0, seat.donor.limits.max_concurrent_jobs - load.running)
