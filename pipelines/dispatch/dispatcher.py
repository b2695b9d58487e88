"""The dispatcher: brings waiting jobs to workers through Dask, and believes nothing that only Dask knows.

::

    connect, prove ──► look: who can start what? ──► claim so much ──► submit ──► watch
         ▲                        ▲                                                 │
         └──── link lost: give back what did not begin ◄────────────────────────────┘

It holds nothing that can't be lost. An attempt that began renews its own lease and tells its own end; one that did not
begin is given back here, or its lease ends. Several dispatchers may run; each is killed at any time without harm.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from distributed import Future, KilledWorker

from ...grid import capability
from ...grid.config.jobs import Jobs
from ...grid.job_types import UnknownJobTypeError, job_type, job_types
from ...grid.jobs import Ask
from ...grid.store import Claim, Stale, Store, StoreUnavailable
from ...grid.tenants import Salts
from .capacity import Group, groups, open_workers, welcome, without_dead_ends
from .historian import Historian
from .link import Link, LinkLost, linked
from .witness import Witness
from .work_order import WorkOrder

logger = logging.getLogger(__name__)
T = TypeVar("T")

IDLE_FIRST, IDLE_MOST = 0.01, 0.04
"""Seconds between two looks at a queue that is empty: one that was not a moment ago is looked at more often."""
MOMENT = 2.0
BUSY = 0.25
"""Seconds between two looks while nothing can be started, or nothing happens."""
BEGIN_WITHIN = 6.0
"""Seconds that a worker has to begin what it was sent; then somebody else may have it."""
SILENT_STARTS = 3
"""Claims in a row that nobody began, after which the link is not believed any more."""
GIVE_BACK = 1.0
"""Seconds for which a job rests that nobody began."""
REST_MOST = 60.0
"""Seconds for which a job rests at most that nobody who is here may take."""
RETRY_FIRST, RETRY_MOST = 0.2, 3.0
"""Seconds between two tries to reach scheduler or store."""
SUSPECT_FOR = 15.0
"""Seconds for which a worker that did not begin what it was given gets nothing from us: it may be frozen."""
SWEEP_EVERY = 1.0
EXPIRE_EVERY = 600.0
SPARE = timedelta(hours=1)
"""A capability outlives its attempt by so much: results may come late out of a worker's spool."""
_REMEMBERED = 100_000
"""Jobs whose rests, and addresses whose workers are remembered."""


@dataclass(slots=True)
class Flight:
    """A claim of ours that Dask has."""

    claim: Claim
    future: Future
    submitted: float
    renewed: float
    begun: bool = False
    """Known to have begun: its worker renews the lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a dispatcher needs to know, beside where the scheduler is."""

    secret: bytes
    """Signs capabilities."""
    api: tuple[str, ...]
    """Where workers tell how attempts go."""
    jobs: Jobs
    heartbeat: float = 30.0
    """Seconds between two heartbeats of a worker."""
    holder: str = ""
    """Name of this dispatcher in attempts. Empty: made up."""
    share_prefixes: bool = False
    """Whether clients share cached prefixes."""


class Dispatcher:
    """Runs on one event loop; the store's calls run in threads."""

    def __init__(self, store: Store, scheduler: str, terms: Terms, *, say: Callable[[str], None] = logger.info) -> None:
        """`scheduler`: its address. `say` hears when the way to it is lost and found."""
        self._store, self._address, self._terms, self._say = store, scheduler, terms, say
        self._holder = terms.holder or f"dispatcher-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._flights: dict[str, Flight] = {}
        self._held: list[Claim] = []
        self._witness = Witness(store)
        self._historian = Historian(store, heartbeat=terms.heartbeat)
        self._ended: list[tuple[str, Future]] = []
        self._news = asyncio.Event()
        self._names: dict[str, str] = {}
        self._rests: dict[str, float] = {}
        self._suspects: dict[str, float] = {}
        self._silent_starts = 0
        self._swept = self._expired = self._claimed_at = float("-inf")
        self.ticks = 0
        """Grows while it works: a watchdog looks at it."""

    @property
    def in_flight(self) -> int:
        """Claims of ours that Dask has."""
        return len(self._flights)

    async def run(self, stop: asyncio.Event) -> None:
        """Dispatch until `stop`. What runs then goes on without us; what did not begin is given back."""
        pause, silent = RETRY_FIRST, False
        while not stop.is_set():
            self.ticks += 1
            try:
                async with linked(self._address) as link:
                    if silent:
                        self._say(f"the scheduler at {self._address} is back")
                    pause, silent = RETRY_FIRST, False
                    await self._serve(link, stop)
            except LinkLost as error:
                if not silent:
                    self._say(f"{error}: looking for it")
                silent = True
            except StoreUnavailable as error:
                self._say(f"the store can't be used: {error}")
            except Exception:  # whatever it was: nothing here is worth keeping, and everything is found again
                logger.exception("the dispatcher begins anew")
            await self._give_back_all()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
            pause = min(2 * pause, RETRY_MOST)
        await self._historian.close()

    # -- one link

    async def _serve(self, link: Link, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.ticks += 1
            if not link.alive:
                raise LinkLost(f"the scheduler at {self._address} is gone")
            pause = await self._tick(link)
            if pause and not self._ended:
                await self._until_news(pause, stop)

    async def _until_news(self, pause: float, stop: asyncio.Event) -> None:
        self._news.clear()
        if stop.is_set() or self._ended:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), pause)

    async def _tick(self, link: Link) -> float:
        """One look at everything. How long to rest after it, in seconds."""
        await self._answer_ended()
        await self._look_after_flights(link)
        await self._housekeeping()
        await self._historian.look(link)
        if not await self._anything_waits():
            idle_for = asyncio.get_running_loop().time() - self._claimed_at
            return IDLE_FIRST if idle_for < MOMENT else IDLE_MOST
        state = self._trusted(await link.state())
        if not await link.prove(state):
            return BUSY
        in_flight = Counter(flight.claim.job.type for flight in self._flights.values())
        claimed = 0
        for group in groups(state, job_types(), in_flight):
            claimed += await self._claim(link, group, state)
        if not claimed:
            return BUSY
        self._claimed_at = asyncio.get_running_loop().time()
        return 0.0

    def _trusted(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """The grid without the workers that did not begin what they were given a moment ago."""
        now = asyncio.get_running_loop().time()
        if len(self._names) > _REMEMBERED:
            self._names.clear()
        self._names.update({row["address"]: row["id"] for row in state["workers"]})
        self._suspects = {id_: until for id_, until in self._suspects.items() if until > now}
        return {**state, "workers": [row for row in state["workers"] if row["id"] not in self._suspects]}

    async def _anything_waits(self) -> bool:
        return bool(await self._call(self._store.jobs.peek, types=frozenset(job_types()), limit=1))

    async def _claim(self, link: Link, group: Group, state: Mapping[str, Any]) -> int:
        claims: list[Claim] = await self._call(
            self._store.jobs.claim,
            types=group.types,
            limit=group.room,
            lease=self._terms.jobs.lease,
            holder=self._holder,
            region=group.region,
        )
        self._held = list(claims)
        while self._held:  # whatever goes wrong with one of them, the others are given back
            await self._dispatch(link, self._held[0], open_workers(state))
            del self._held[0]
        self._witness.write()
        return len(claims)

    async def _dispatch(self, link: Link, claim: Claim, rows: Sequence[Mapping[str, Any]]) -> None:
        job = claim.job
        try:
            ask = _ask(claim)
        except (UnknownJobTypeError, ValueError) as error:  # of an older version, or the type has changed since
            await self._fail(claim, "invalid_params", str(error), retry=False)
            return
        ask = _without(ask, without_dead_ends(claim.excluded, ask, rows) | set(self._suspects))
        if not welcome(ask, rows):
            await self._release(claim, self._rest(job.id))
            return
        order = self._work_order(claim)
        await self._witness.hear(link, claim, ask, order.name)
        now = asyncio.get_running_loop().time()
        future = link.submit(ask, order, partial(self._heard, order.name))
        self._flights[order.name] = Flight(claim, future, now, now)

    def _rest(self, job_id: str) -> float:
        """For how long a job rests that nobody who is here may take: longer each time."""
        rest = self._rests[job_id] = min(REST_MOST, 2 * self._rests.get(job_id, GIVE_BACK / 2))
        return rest

    def _work_order(self, claim: Claim) -> WorkOrder:
        job, jobs = claim.job, self._terms.jobs
        expires = claim.lease_until + timedelta(seconds=job.timeout_seconds) + SPARE
        return WorkOrder(
            job_id=job.id,
            fence=claim.fence,
            type=job.type,
            params=dict(job.params),
            timeout_seconds=job.timeout_seconds,
            lease_seconds=jobs.lease,
            token=capability.mint(self._terms.secret, job.id, claim.fence, expires),
            api=self._terms.api,
            max_result_bytes=int(jobs.max_result_mb * 1_000_000),
            begin_within=BEGIN_WITHIN,
            trace_id=job.trace_id,
            salt=Salts(self._terms.secret, self._terms.share_prefixes).of(job.client_id),
        )

    # -- what became of it

    def _heard(self, name: str, future: Future) -> None:
        self._ended.append((name, future))
        self._news.set()

    async def _answer_ended(self) -> None:
        ended, self._ended = self._ended, []
        for name, future in ended:
            flight = self._flights.get(name)
            if flight is None or flight.future is not future:
                continue
            if future.status == "cancelled":
                raise LinkLost("the scheduler forgot what it was given")
            del self._flights[name]
            if future.status == "error":
                await self._failed(flight, await future.exception())
            else:
                self._silent_starts = 0
                self._rests.pop(flight.claim.job.id, None)
            future.release()

    async def _failed(self, flight: Flight, error: BaseException) -> None:
        """Dask could not finish it: a worker died, or it never began. What began and ended otherwise is not ours."""
        claim = flight.claim
        if not flight.begun and await self._release(claim, GIVE_BACK):
            return
        if isinstance(error, KilledWorker):
            worker = self._names.get(str(getattr(error.last_worker, "address", "")))
            await self._fail(claim, "worker_died", "a worker died under it", retry=True, death=True, worker_id=worker)
        else:  # not by the job: `run_attempt` tells of that itself
            await self._fail(claim, "error", f"{type(error).__name__} on the worker", retry=True)

    async def _look_after_flights(self, link: Link) -> None:
        """Renew the leases of those that wait; take back what nobody begins."""
        now, lease = asyncio.get_running_loop().time(), self._terms.jobs.lease
        late: list[str] = []
        for name, flight in list(self._flights.items()):
            if flight.begun:
                continue
            if now - flight.submitted > BEGIN_WITHIN:
                late.append(name)
            elif now - flight.renewed > lease / 3:
                await self._renew(flight, now)
        await self._take_back(link, late)

    async def _renew(self, flight: Flight, now: float) -> None:
        flight.renewed = now
        try:
            await self._call(self._store.jobs.renew, flight.claim.job.id, flight.claim.fence, self._terms.jobs.lease)
        except Stale:  # its worker has begun, or it is another's: either way not ours to look after
            flight.begun = True
            self._silent_starts = 0

    async def _take_back(self, link: Link, names: list[str]) -> None:
        forgotten: list[Future] = []
        holders = await link.holders() if names else {}
        for name in names:
            flight = self._flights[name]
            placed = name in holders or not await link.waits(name)
            job_id = flight.claim.job.id
            if await self._release(flight.claim, GIVE_BACK if placed else self._rest(job_id)):
                del self._flights[name]
                forgotten.append(flight.future)
                self._silent_starts += placed  # who waits for memory or a lot was heard of
                if (suspect := self._names.get(holders.get(name, ""))) is not None:
                    self._suspects[suspect] = asyncio.get_running_loop().time() + SUSPECT_FOR
            else:
                flight.begun = True
                self._silent_starts = 0
        await link.cancel(forgotten)
        if self._silent_starts >= SILENT_STARTS:
            self._silent_starts = 0
            raise LinkLost(f"{SILENT_STARTS} jobs in a row were begun by nobody")

    async def _give_back_all(self) -> None:
        """Whatever did not begin waits again, at once: the link that had it is gone."""
        claims = [*(flight.claim for flight in self._flights.values() if not flight.begun), *self._held]
        self._flights, self._held, self._ended = {}, [], []
        for claim in claims:
            with suppress(StoreUnavailable):
                await self._release(claim, 0.0)
        await self._witness.finish()

    # -- the store

    async def _release(self, claim: Claim, delay: float) -> bool:
        """Give a claim back. False when it was not ours to give: a worker has begun it, or its lease has ended."""
        try:
            await self._call(self._store.jobs.release, claim.job.id, claim.fence, delay=delay)
        except Stale:
            return False
        return True

    async def _fail(self, claim: Claim, code: str, message: str, **more: Any) -> None:
        most = self._terms.jobs.max_attempts
        with suppress(Stale):
            await self._call(
                self._store.jobs.fail, claim.job.id, claim.fence, code=code, message=message, max_attempts=most, **more
            )

    async def _housekeeping(self) -> None:
        now, jobs = asyncio.get_running_loop().time(), self._terms.jobs
        if now - self._swept >= SWEEP_EVERY:
            self._swept = now
            await self._call(self._store.jobs.sweep, max_wait=jobs.max_wait)
        if now - self._expired >= EXPIRE_EVERY:
            self._expired = now
            await self._call(self._store.jobs.expire, jobs.retention_days * 86_400)
            if len(self._rests) > _REMEMBERED:
                self._rests.clear()

    async def _call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await asyncio.to_thread(function, *args, **kwargs)


def _ask(claim: Claim) -> Ask:
    """What placement must know. Raises UnknownJobTypeError, and ValueError for parameters that the type refuses."""
    job = claim.job
    kind = job_type(job.type)
    ask = kind.ask(kind.Params.model_validate(dict(job.params)))
    said = ask.to_annotation() | {"allow_cross_region": job.allow_cross_region, "deaths_allowed": 0}
    return Ask.from_annotation(said | ({"region": job.region} if job.region else {}))


def _without(ask: Ask, excluded: frozenset[str]) -> Ask:
    return Ask.from_annotation(ask.to_annotation() | {"excluded": sorted(excluded)})
