"""The queue and who works on it, looked at together: statistics, waits, regions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ...grid.donors import DonorState
from ...grid.regions import REGIONS, distance
from ...grid.store import QueueStats, WorkerRecord
from ...grid.waiting import Backlog, Capacity, estimate
from .jobs_bodies import QueueDocument, RegionDocument, RegionsDocument, TypeQueue
from .jobs_door import JobDoor
from .oracle import Silent

SHARE = 0.05
"""Share of the time that may go into looking at the queue: the larger it is, the longer counting takes."""
FRESH = (0.05, 2.0)
"""Seconds for which one look is good, at least and at most."""
ALIVE = timedelta(seconds=90)
"""A worker that asks for jobs, and did so within this time, is here."""


@dataclass(frozen=True, slots=True)
class Hand:
    """A worker that is here."""

    id: str
    region: str | None
    types: frozenset[str]
    slots: int
    """Jobs that it runs at the same time."""
    free: bool
    """It could take one more now."""


@dataclass(frozen=True, slots=True)
class Overview:
    """One look at the queue and the workers."""

    stats: QueueStats
    hands: tuple[Hand, ...]

    def wait(self, job_type: str, ahead: int | None = None) -> float | None:
        """Seconds until a job of this type starts that has `ahead` of its type before it. None: all that wait.

        The other types stand before it in the same measure.
        """
        queued = {name: stats.queued for name, stats in self.stats.by_type.items()}
        own = queued.get(job_type, 0)
        share = 1.0 if ahead is None or own == 0 else min(1.0, ahead / own)
        backlog = Backlog(
            ahead={name: count * share for name, count in queued.items()}
            | ({} if ahead is None else {job_type: ahead}),
            running={name: stats.running for name, stats in self.stats.by_type.items()},
            service_seconds={
                name: stats.service_seconds
                for name, stats in self.stats.by_type.items()
                if stats.service_seconds is not None
            },
        )
        return estimate(job_type, backlog, self._places())

    def _places(self) -> list[Capacity]:
        """Where jobs run: with the workers that are seen; a type that none of them takes, where it runs now."""
        places = [Capacity(hand.types, hand.slots) for hand in self.hands]
        seen = frozenset[str]().union(*(hand.types for hand in self.hands))
        unseen = {name: stats.running for name, stats in self.stats.by_type.items() if name not in seen}
        return places + [Capacity(frozenset({name}), running) for name, running in unseen.items() if running]

    def document(self) -> QueueDocument:
        types = sorted({*self.stats.by_type, *(name for hand in self.hands for name in hand.types)})
        by_type = {name: self._type(name) for name in types}
        waits = [row.estimated_wait_seconds for row in by_type.values() if row.queued]
        known = [wait for wait in waits if wait is not None]
        return QueueDocument(
            total_queued=self.stats.total_queued,
            available_workers=sum(hand.free for hand in self.hands),
            estimated_wait_seconds=max(known) if known else None if waits else 0.0,
            oldest_queued_seconds=self.stats.oldest_queued_seconds,
            by_type=by_type,
        )

    def _type(self, name: str) -> TypeQueue:
        stats = self.stats.by_type.get(name)
        return TypeQueue(
            queued=stats.queued if stats else 0,
            running=stats.running if stats else 0,
            available_workers=sum(hand.free and name in hand.types for hand in self.hands),
            service_seconds=stats.service_seconds if stats else None,
            estimated_wait_seconds=self.wait(name),
        )


class Lookout:
    """Looks at the queue as often as that is cheap, however many ask."""

    def __init__(self, door: JobDoor, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._door, self._clock = door, clock
        self._seen: dict[str | None, tuple[float, Overview]] = {}
        self._looking = asyncio.Lock()

    async def look(self, region: str | None = None) -> Overview:
        """The queue and the workers as they were a moment ago."""
        async with self._looking:
            good_until, overview = self._seen.get(region, (float("-inf"), None))
            begun = self._clock()
            if overview is None or begun > good_until:
                stats = await self._door.call(self._door.store.jobs.stats, region)
                hands = [hand for hand in await self.hands() if region is None or hand.region == region]
                overview, now = Overview(stats, tuple(hands)), self._clock()
                good_for = min(max((now - begun) / SHARE, FRESH[0]), FRESH[1])
                self._seen[region] = (now + good_for, overview)
        return overview

    async def hands(self) -> list[Hand]:
        """The workers that are here, behind the scheduler or asking by themselves."""
        try:
            rows: list[Mapping[str, Any]] = (await self._door.oracle.state())["workers"]
        except Silent:
            rows = []
        pushed = [hand for row in rows if (hand := _pushed(row)) is not None]
        known = {hand.id for hand in pushed}
        pulling = await self._door.call(self._door.store.workers.list)
        now = datetime.now(UTC)
        return pushed + [_pulling(worker) for worker in alive(pulling, now) if worker.facts.id not in known]

    async def regions(self, client_region: str | None) -> RegionsDocument:
        """The regions, with who is there."""
        places = [hand.region for hand in await self.hands()]
        return RegionsDocument(
            regions=[RegionDocument(code=code, name=it.name, workers_online=places.count(code)) for code, it in _ALL],
            client_region=client_region,
            distances={a: {b: round(distance(a, b), 3) for b in REGIONS} for a in REGIONS},
        )


_ALL = tuple(REGIONS.items())


def _pushed(row: Mapping[str, Any]) -> Hand | None:
    """A row of the scheduler's state; None when it takes no work now."""
    if row["state"] not in (DonorState.ONLINE, DonorState.BUSY):
        return None
    slots = int(row["max_concurrent_jobs"])
    free = row["state"] == DonorState.ONLINE and row["running"] < slots
    return Hand(row["id"], row["region"], frozenset(row["supported_types"]), slots, free)


def alive(workers: list[WorkerRecord], now: datetime) -> Iterator[WorkerRecord]:
    """Those that were heard of lately and take work."""
    for worker in workers:
        heard = worker.last_heartbeat
        if worker.facts.status in ("online", "busy") and heard is not None and now - heard < ALIVE:
            yield worker


def _pulling(worker: WorkerRecord) -> Hand:
    facts = worker.facts
    return Hand(facts.id, facts.region, facts.supported_types, 1, facts.status == "online")
