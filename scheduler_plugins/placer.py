"""The rule applied to Dask: which worker a task goes to, who may have it at all, and why nobody does. Fails closed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, TypeAlias

from ..grid.acceptance import admits, decide, finishes, room
from ..grid.donors import Load
from ..grid.jobs import Ask
from ..grid.placement import appraise, order, rank
from ..grid.verdicts import Reason, Verdict
from .lanes import Key, Lane
from .roster import Fit, Roster, Seat, WorkerState

logger = logging.getLogger(__name__)

Clock: TypeAlias = Callable[[], datetime]
"""Returns the time as an aware UTC datetime."""
Usual: TypeAlias = Callable[[tuple[str, str | None]], float | None]
"""Job type and model → how long such work usually takes, in s; None: not known."""

_FITS = 256
"""Lanes of which a donor's fit is remembered."""

OFFER_EVERY = 2.0
"""Seconds after which a donor that takes only a share of the work is offered again what it refused."""


def utc_now() -> datetime:
    """The time as an aware UTC datetime."""
    return datetime.now(UTC)


def lot(key: Key, donor_id: str, now: datetime, every: float = OFFER_EVERY) -> float:
    """A task's lot at a donor, in [0, 1): the same for `every` seconds, then drawn anew."""
    drawn = blake2b(f"{key}\0{donor_id}\0{now.timestamp() // every}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") / 2**64


class Placer:
    """Asks the pure rule on behalf of the scheduler. Whatever goes wrong in here means: nobody gets the task."""

    def __init__(
        self, roster: Roster, clock: Clock, offer_every: float = OFFER_EVERY, usual: Usual = lambda _: None
    ) -> None:
        """`usual`: type and model → how long such work usually takes, in s."""
        self.roster = roster
        self._usual = usual
        self.clock = clock
        self.offer_every = offer_every
        self.problem = ""
        """What the rule last failed with; empty while it works."""
        self._told: set[str] = set()

    def choose(
        self, key: Key, lane: Lane, base: Collection[WorkerState] | None, running: set[WorkerState]
    ) -> WorkerState | None:
        """The best worker that may take the task now, None if there is none. `base`: Dask's own restriction, None
        for all.
        """
        try:
            choices = self._rank(key, lane, base, limit=1)
            seat = self.roster.get(choices[0].donor_id) if choices else None
        except Exception as problem:  # noqa: BLE001 - the rule fails closed, whatever it fails with
            self.failed(problem)
            return None
        return seat.ws if seat is not None and seat.ws in running else None

    def confirm(self, seat: Seat, running: set[WorkerState]) -> WorkerState | None:
        """The worker of a donor that has been settled on, unless it went or filled up in between."""
        here = self.roster.of(seat.ws) is seat and seat.ws in running
        return seat.ws if here and seat.running < seat.donor.limits.max_concurrent_jobs else None

    def eligible(
        self, key: Key, lane: Lane, base: Collection[WorkerState] | None, running: set[WorkerState]
    ) -> set[WorkerState]:
        """All workers that may take the task now; empty (which is not: anywhere) if there is none."""
        try:
            seats = [self.roster.get(choice.donor_id) for choice in self._rank(key, lane, base)]
        except Exception as problem:  # noqa: BLE001
            self.failed(problem)
            return set()
        return {seat.ws for seat in seats if seat is not None and seat.ws in running}

    def _rank(self, key: Key, lane: Lane, base: Collection[WorkerState] | None, limit: int | None = None) -> list[Any]:
        if lane.error:
            return []
        now = self.clock()
        among = None if base is None else self._ids(base)
        return rank(
            self.timed(lane),
            self.roster.donors,
            now,
            lambda donor_id: lot(key, donor_id, now, self.offer_every),
            limit=limit,
            among=among,
        )

    def _ids(self, workers: Collection[WorkerState]) -> list[str]:
        return [seat.donor.id for ws in workers if (seat := self.roster.of(ws)) is not None]

    def fit(self, lane: Lane, seat: Seat) -> Fit:
        """What a donor is to the tasks of a lane: asked once for all of them, until the donor's facts or its report
        change. Raises what the rule raises.
        """
        known = seat.fits.get(lane)
        if known is None:
            if len(seat.fits) >= _FITS:
                seat.fits.clear()
            ask, donor, load = lane.ask, seat.donor, replace(seat.load, running=0)
            known = seat.fits[lane] = Fit(
                not lane.error and admits(ask, donor, load),
                order(ask, donor, load),
                order(ask, donor, replace(load, running=1)),
            )
        return known

    def room(self, seat: Seat, now: datetime) -> int:
        """How many more jobs a donor may start now. Raises what the rule raises."""
        if seat.held >= seat.donor.limits.max_concurrent_jobs:
            return 0
        return room(seat.donor, seat.load, now)

    def timed(self, lane: Lane) -> Ask:
        """What a lane asks for, and how long that usually takes: for donors who close it must end before."""
        ask = lane.ask
        if ask.seconds or not self.roster.timed:
            return ask
        seconds = self._usual((ask.type, ask.model)) or 0.0
        if lane.timed.seconds != seconds:
            lane.timed = replace(ask, seconds=seconds)
        return lane.timed

    def finishes(self, lane: Lane, seat: Seat, now: datetime) -> bool:
        """Whether the lane's tasks would end before the donor's window does. Raises what the rule raises."""
        return finishes(self.timed(lane), seat.donor, now)

    def verdict(self, key: Key | None, lane: Lane, seat: Seat, now: datetime) -> Verdict:
        """May this donor take the task now? Without a key: may it take any task of the lane, lots aside?"""
        if lane.error:
            return Verdict(Reason.POLICY_ERROR, lane.error)
        try:
            drawn = 0.0 if key is None else lot(key, seat.donor.id, now, self.offer_every)
            return decide(self.timed(lane), seat.donor, seat.load, now, drawn)
        except Exception as problem:  # noqa: BLE001
            self.failed(problem)
            return Verdict(Reason.POLICY_ERROR, self.problem)

    def score(self, lane: Lane, ws: WorkerState) -> float:
        """The worker's score for the task, 0 for a worker without facts or when the rule fails."""
        seat = self.roster.of(ws)
        try:
            return appraise(lane.ask, seat.donor, seat.load).score if seat is not None else 0.0
        except Exception as problem:  # noqa: BLE001
            self.failed(problem)
            return 0.0

    def worth(self, lane: Lane, ws: WorkerState) -> float:
        """The worker's score for the task as if it were free: what is left of the score when two queues are
        compared.
        """
        seat = self.roster.of(ws)
        if seat is None:
            return 0.0
        try:
            return appraise(lane.ask, seat.donor, Load(loaded=seat.load.loaded)).score
        except Exception as problem:  # noqa: BLE001
            self.failed(problem)
            return 0.0

    def failed(self, problem: Exception) -> None:
        """Say once for each kind of failure, and loudly, that the rule failed."""
        self.problem = f"{type(problem).__name__}: {problem}"
        if self.problem not in self._told:
            self._told.add(self.problem)
            logger.critical("the placement rule failed, so nobody gets the work: %s", self.problem, exc_info=problem)
