"""Who works here: the donor of each Dask worker, with the load that the scheduler counts and the worker reports."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from distributed.core import Status

from ..grid.donors import Donor, DonorState, Load
from ..grid.hours import has_hours
from ..grid.placement import Donors
from .facts import Report, Statement
from .lanes import Lane

logger = logging.getLogger(__name__)

WorkerState: TypeAlias = Any
"""distributed's own, which has no types."""

_HOUR = 3600.0
_STARTS = 1000
"""Starts remembered, and told, at most for a donor without an hourly cap: one set later counts what was before."""
_LEAVING = (Status.closing, Status.closing_gracefully)


class Fit(NamedTuple):
    """What a donor is to all tasks of a lane."""

    welcome: bool
    """Whether it would take them if it took any work, lots aside."""
    free: tuple[float, float, float, str]
    """Its place in the order for them while it runs nothing; smaller is better."""
    busy: tuple[float, float, float, str]
    """The same while it runs something."""


class Seat:
    """One donor at work on one Dask worker."""

    __slots__ = ("_counted_at", "_load", "donor", "fits", "held", "inbound", "report", "starts", "wire", "ws")

    def __init__(self, donor: Donor, ws: WorkerState, starts: deque[float]) -> None:
        self.donor = donor
        self.ws = ws
        self.report = Report()
        self.wire: Mapping[str, Any] | None = None
        """The last statement as it came, so that an unchanged one costs a comparison."""
        self.inbound = 0
        """Tasks on their way from another worker (work stealing): they hold a slot before they are here."""
        self.starts = starts
        """Unix seconds of the last job starts, oldest first; outlives the worker."""
        self.held = 0
        """Slots in use when last counted."""
        self.fits: dict[Lane, Fit] = {}
        """What the donor is to each lane (see `Placer.fit`), until its facts or its report change."""
        self._load = Load(paused=True)
        self._counted_at: float | None = None
        """Unix seconds of a count that `_load` doesn't show yet."""

    @property
    def load(self) -> Load:
        """What the donor is doing. Made when somebody asks: jobs come and go more often than that."""
        at = self._counted_at
        if at is not None:
            old, self._counted_at = self._load, None
            started, frees_at = self._starts_that_count(at)
            self._load = Load(
                running=self.held,
                started_last_hour=started,
                hourly_slot_frees_at=frees_at,
                gpu_memory_used_gb=old.gpu_memory_used_gb,
                loaded=old.loaded,
                paused=old.paused,
                draining=old.draining,
            )
        return self._load

    @load.setter
    def load(self, load: Load) -> None:
        self._load, self._counted_at, self.held = load, None, load.running

    def count(self, at: float) -> int:
        """Count the jobs anew, at this Unix time: how many fewer (or, below 0, more) there are than before."""
        before, self.held = self.held, self.running
        self._counted_at = at
        return before - self.held

    def seen_at(self, at: float) -> Load:
        """The whole load, found anew: what the worker reports, Dask's state of it, and its jobs."""
        report, status = self.report, self.ws.status
        started, frees_at = self._starts_that_count(at)
        return Load(
            running=self.running,
            started_last_hour=started,
            hourly_slot_frees_at=frees_at,
            gpu_memory_used_gb=report.gpu_memory_used_gb,
            loaded=report.loaded,
            paused=report.paused or (status is not Status.running and status not in _LEAVING),
            draining=report.draining or status in _LEAVING,
        )

    def _starts_that_count(self, at: float) -> tuple[int, float | None]:
        """Starts within the hour, and when one more is allowed.

        Never more than the cap: if it was lowered below what had started, the slot frees when enough of them have
        left the hour.
        """
        starts, cap = self.starts, self.donor.limits.max_jobs_per_hour
        while starts and starts[0] <= at - _HOUR:
            starts.popleft()
        count = len(starts) + self.inbound
        if not cap:
            return count, None
        surplus = max(0, count - cap)
        return count - surplus, starts[surplus] + _HOUR if surplus < len(starts) else None

    @property
    def running(self) -> int:
        """Slots in use: what Dask assigned (a task that seceded gave its slot back), actors that live, tasks on
        their way here, and work that came another way.
        """
        ws = self.ws
        held = len(ws.processing) - len(ws.long_running) + self.inbound + self.report.elsewhere
        return held + sum(actor not in ws.processing for actor in ws.actors) if ws.actors else held

    @property
    def state(self) -> DonorState:
        """In one word, hours and caps aside."""
        if self.load.draining:
            return DonorState.DRAINING
        if self.load.paused:
            return DonorState.PAUSED
        return DonorState.BUSY if self.load.running >= self.donor.limits.max_concurrent_jobs else DonorState.ONLINE


class Roster:
    """The donors at work, and the index of them that `rank` searches. One worker is one donor.

    Load is never added up from events: every change counts anew what Dask's own tables hold, so it can't drift.
    """

    def __init__(self, standing: Callable[[str], Mapping[str, Any]]) -> None:
        """`standing`: donor id → the fields of `Donor` that the ledger knows better than the donor itself."""
        self._donors = Donors()
        self._uncounted: set[Seat] = set()
        """Seats of whose new load the index doesn't know."""
        self.changed: set[str] = set()
        """Ids of donors that may take more than when this was last cleared."""
        self.thin: set[str] = set()
        """Ids of donors that refuse a share of what they are offered."""
        self.timed: set[str] = set()
        """Ids of donors with working hours or an hourly cap: what they take changes by time alone."""
        self._standing = standing
        self._seats: dict[str, Seat] = {}
        self._by_worker: dict[WorkerState, Seat] = {}
        self._replaced: set[WorkerState] = set()
        self._starts: dict[str, deque[float]] = {}

    @property
    def donors(self) -> Donors:
        """The index of all donors here, brought up to their loads."""
        while self._uncounted:
            seat = self._uncounted.pop()
            self._donors.load(seat.donor.id, seat.load)
        return self._donors

    def __len__(self) -> int:
        return len(self._seats)

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats.values())

    def get(self, donor_id: str) -> Seat | None:
        """The seat of a donor, None if it isn't here."""
        return self._seats.get(donor_id)

    def of(self, ws: WorkerState) -> Seat | None:
        """The seat of a worker, None for a worker without facts."""
        return self._by_worker.get(ws)

    def hear(self, ws: WorkerState, wire: Mapping[str, Any], now: datetime) -> Seat | None:
        """Take in a worker's statement. None (and no work for it) when another worker has taken its donor's place.

        Raises KeyError, TypeError or ValueError when the statement can't be read.
        """
        seat = self._by_worker.get(ws)
        if seat is not None and seat.wire == wire:
            return seat
        said = Statement.from_wire(wire)
        if seat is not None and seat.donor.id != said.donor.id:
            self.leave(ws)
            seat = None
        if seat is None:
            seat = self._sit(said.donor, ws)
            if seat is None:
                return None
        if said.report.sequence >= seat.report.sequence:
            seat.report, seat.wire = said.report, wire
            seat.donor = replace(said.donor, **self._standing(said.donor.id))
            self._post(seat, now)
        return seat

    def _sit(self, donor: Donor, ws: WorkerState) -> Seat | None:
        """Give a donor that is new here its seat. The newest worker of a donor has it; an older one that still talks
        gets none.
        """
        holder = self._seats.get(donor.id)
        if holder is not None:
            if ws in self._replaced:
                return None
            logger.warning(
                "worker %s takes the place of %s: both are donor %s", ws.address, holder.ws.address, donor.id
            )
            self._replaced.add(holder.ws)
            self._by_worker.pop(holder.ws)
        starts = self._starts.setdefault(donor.id, deque())
        seat = self._seats[donor.id] = self._by_worker[ws] = Seat(donor, ws, starts)
        return seat

    def _post(self, seat: Seat, now: datetime) -> None:
        """Put a donor with new facts into the index."""
        id_ = seat.donor.id
        seat.load = seat.seen_at(now.timestamp())
        self._put(seat)
        limits = seat.donor.limits
        (self.thin.add if limits.acceptance_rate < 1 else self.thin.discard)(id_)
        timed = has_hours(limits) or limits.max_jobs_per_hour > 0
        (self.timed.add if timed else self.timed.discard)(id_)
        self.changed.add(id_)

    def _put(self, seat: Seat) -> None:
        seat.fits.clear()
        self._uncounted.discard(seat)
        self._donors.put(seat.donor, seat.load)

    def leave(self, ws: WorkerState) -> Seat | None:
        """A worker is gone; returns the seat it had."""
        self._replaced.discard(ws)
        seat = self._by_worker.pop(ws, None)
        if seat is not None:
            id_ = seat.donor.id
            del self._seats[id_]
            self._uncounted.discard(seat)
            self._donors.drop(id_)
            self.changed.discard(id_)
            self.thin.discard(id_)
            self.timed.discard(id_)
        return seat

    def started(self, seat: Seat, now: datetime) -> None:
        """A job was given to a donor."""
        seat.starts.append(now.timestamp())
        if len(seat.starts) > max(_STARTS, seat.donor.limits.max_jobs_per_hour):
            seat.starts.popleft()

    def unstarted(self, seat: Seat) -> None:
        """A job that was given to a donor went elsewhere before it ran."""
        if seat.starts:
            seat.starts.pop()

    def restate(self, seat: Seat, now: datetime) -> None:
        """Take over the ledger's opinion of a donor, if it has changed."""
        donor = replace(seat.donor, **self._standing(seat.donor.id))
        if donor != seat.donor:
            seat.donor = donor
            self._put(seat)

    def recount(self, seat: Seat, now: datetime) -> None:
        """Count a donor's jobs anew; to be called whenever one came or went. Its report is taken as it was."""
        if seat.count(now.timestamp()) > 0:
            self.changed.add(seat.donor.id)
        self._uncounted.add(seat)

    def refresh(self, seat: Seat, now: datetime) -> None:
        """Find a donor's whole load anew: what it reports, Dask's state of its worker, and its jobs."""
        old, new = seat.load, seat.seen_at(now.timestamp())
        if new == old:
            return
        seat.load = new
        self._uncounted.add(seat)
        if (new.loaded, new.gpu_memory_used_gb) != (old.loaded, old.gpu_memory_used_gb):
            seat.fits.clear()
        if _eased(old, new):
            self.changed.add(seat.donor.id)


def _eased(old: Load, new: Load) -> bool:
    """Whether a donor may take something now that it refused before."""
    return (
        new.running < old.running
        or new.paused < old.paused
        or new.draining < old.draining
        or new.gpu_memory_used_gb < old.gpu_memory_used_gb
        or not new.loaded <= old.loaded
    )
