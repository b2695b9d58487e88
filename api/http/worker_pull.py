"""`GET /api/v1/workers/{id}/next-job`: work for a donor that can't be pushed any, by the same policy."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from ...grid import testimony
from ...grid.acceptance import standing
from ...grid.capability import mint
from ...grid.donors import IDLE, Donor, Limits, Load
from ...grid.jobs import JobRecord
from ...grid.placement import Donors, explain
from ...grid.pulling import Waiting
from ...grid.store import Claim, Placement, Stale, StoreUnavailable, WorkerFacts
from ...scheduler_plugins.placer import lot
from ..logs import logger
from .client_address import AddressOf
from .jobs_bodies import WorkerOpinion
from .jobs_door import JobDoor, ask_of
from .jobs_queue import alive
from .jobs_stats import Region
from .known_donors import Usual, donor_of, limits_of, load_of
from .problems import FieldError, Problem, problems
from .worker_auth import RegisteredWorker
from .worker_bodies import AssignmentDocument, WorkerId
from .worker_heartbeat import OWN
from .worker_questions import Board, Enough, Questions

log = logger(__name__)

LOOK_AT = 100
"""Waiting jobs that one look offers to a worker."""
TOLD = testimony.LONGEST // 60
"""Opinions that are put into words: there is no room for more."""
SOONEST = 0.75
"""Share of the time that a worker would wait after which it may be told that there is nothing."""
HERE_FRESH = 0.5
"""Seconds for which it is believed who is here."""
SPOOLED = timedelta(hours=1)
"""For so long after the end of an attempt's time its result is still taken, if nobody else has the job."""
UNTOLD = Limits(max_concurrent_jobs=1024)
"""Of a worker that never registered: its owner's limits are known to its machine alone."""
LONGEST_PAUSE = 2.0
"""Seconds between two looks at whether a worker that takes nothing now does so again."""
TURNS = 64
"""Workers for whom jobs are claimed side by side; those of one worker come one after the other."""
_NOTHING = "Nothing for this worker in that time: ask again."


class Counter:
    """Hands out work to workers that ask. Its methods block: for threads."""

    def __init__(self, door: JobDoor) -> None:
        self._store, self._jobs, self._secret = door.store, door.settings.jobs, door.secret
        self._salts = door.salts
        self._usual = Usual(door.store)
        self._looking = Lock()
        self._turns = [Lock() for _ in range(TURNS)]
        self._here: Sequence[tuple[Donor, Load]] = ()
        self._good_until = float("-inf")

    def greet(self, worker_id: str, region: str | None, types: Iterable[str]) -> Donor:
        """Note that a worker is here and what it takes. Raises Problem 422 when nobody knows what it takes."""
        known = self._store.workers.get(worker_id)
        takes = frozenset(types) or (known.facts.supported_types if known else frozenset())
        if not takes:
            told = FieldError(location="query", field="types", code="missing", detail="say what this worker runs")
            raise Problem("invalid_request", "types: say what this worker runs", errors=[told])
        before = known.facts if known else WorkerFacts(id=worker_id, name=worker_id)
        facts = WorkerFacts(
            id=worker_id,
            name=before.name,
            region=region or before.region,
            country=before.country,
            city=before.city,
            gpu_model=before.gpu_model,
            gpu_memory_gb=before.gpu_memory_gb,
            supported_types=takes,
        )
        record = self._store.workers.upsert(facts)
        return replace(donor_of(record), limits=(limits_of(record.config) if record.config else None) or UNTOLD)

    def known(self, worker_id: str, types: Iterable[str]) -> Donor | None:
        """A worker that registered, as the grid keeps it, narrowed to `types`. None: it takes nothing now, or it may
        not, by its limits and the grid's own count: no agent's word is taken for that.
        """
        record = self._store.donors.get(worker_id)
        if record is None or record.worker.facts.status not in ("online", "busy"):
            return None
        donor, wanted = donor_of(record.worker), frozenset(types)
        if not self._has_room(donor):
            return None
        return replace(
            donor,
            gpu_count=record.gpu_count,
            supported_types=donor.supported_types & wanted if wanted else donor.supported_types,
        )

    def board(self, types: Collection[str], asking: Collection[str]) -> Board:
        """What waits of these types, and who gets work by asking; `asking`: ids of those that ask now."""
        waiting = self._store.jobs.peek(types=types, limit=LOOK_AT) if types else []
        if not waiting:
            return Board()
        now = datetime.now(UTC)
        here, busy = self._everybody(now), set(asking)
        others = Donors(pair for pair in here if pair[1] is IDLE and pair[0].id not in busy)
        return Board([self._waiting(job, now) for job in waiting], here, others)

    def claim(self, donor: Donor, job_id: str, board: Board) -> Claim | None:
        """The job, claimed for this worker; None: somebody else was faster. Raises Enough."""
        with self._turns[hash(donor.id) % len(self._turns)]:  # a worker may ask many times at once
            if not self._has_room(donor):
                raise Enough
            claimed = self._store.jobs.claim(
                types=donor.supported_types, limit=1, lease=self._jobs.lease, holder=_holder(donor), only=job_id
            )
        if not claimed:
            return None
        self._store.workers.heartbeat(donor.id, "busy")
        rivals = [pair for pair in board.here if pair[0].id != donor.id]
        self._testify(claimed[0], [(donor, IDLE), *rivals], datetime.now(UTC))
        return claimed[0]

    def _has_room(self, donor: Donor) -> bool:
        hourly = donor.limits.max_jobs_per_hour > 0
        load = self._store.workers.load(donor.id, holder=_holder(donor), hourly=hourly)
        return bool(standing(donor, load, datetime.now(UTC)))

    def _everybody(self, now: datetime) -> Sequence[tuple[Donor, Load]]:
        with self._looking:
            if time.monotonic() > self._good_until:
                self._here = [(donor_of(row), load_of(row)) for row in alive(self._store.workers.list(), now)]
                self._good_until = time.monotonic() + HERE_FRESH
            return self._here

    def _waiting(self, job: JobRecord, now: datetime) -> Waiting:
        since = job.created_at or now
        return Waiting(job_id=job.id, ask=self._usual.timed(ask_of(job)), seconds=(now - since).total_seconds())

    def give_back(self, claim: Claim) -> None:
        """Who asked is gone: another may have the job at once, not when the lease ends."""
        with suppress(Stale, StoreUnavailable):
            self._store.jobs.release(claim.job.id, claim.fence)

    def _testify(self, claim: Claim, asking: Sequence[tuple[Donor, Load]], now: datetime) -> None:
        """Keep what everybody who asks for work says to it, for `why`."""
        said = explain(
            self._usual.timed(ask_of(claim.job)), asking, now, lambda donor_id: lot(claim.job.id, donor_id, now)
        )
        rows = [WorkerOpinion.pulling(*one).model_dump(mode="json") for one in said[:TOLD]]
        rows += [{"verdict": verdict.reason.value} for _, verdict, _ in said[TOLD:]]  # no more than counted
        with suppress(StoreUnavailable):
            placement = Placement(claim.job.id, claim.fence, testimony.told(rows, now, path="pull"))
            self._store.jobs.keep_verdicts([placement])

    def assignment(self, claim: Claim) -> AssignmentDocument:
        """A claim as the worker gets it."""
        job = claim.job
        ends = datetime.now(UTC) + timedelta(seconds=job.timeout_seconds) + SPOOLED
        return AssignmentDocument(
            job_id=job.id,
            fence=claim.fence,
            type=job.type,
            params=dict(job.params),
            timeout_seconds=job.timeout_seconds,
            lease_seconds=self._jobs.lease,
            max_result_bytes=int(self._jobs.max_result_mb * 1_000_000),
            attempt_token=mint(self._secret, job.id, claim.fence, ends),
            trace_id=job.trace_id,
            salt=self._salts.of(job.client_id),
        )


def _holder(donor: Donor) -> str:
    return f"pull:{donor.id}"


class AsyncCounter:
    """The counter, asked from the event loop: a `worker_questions.Desk`."""

    def __init__(self, counter: Counter, door: JobDoor) -> None:
        self._counter, self._door = counter, door

    async def board(self, types: Collection[str], asking: Collection[str]) -> Board:
        return await self._door.call(self._counter.board, types, asking)

    async def claim(self, donor: Donor, job_id: str, board: Board) -> Claim | None:
        return await self._door.call(self._counter.claim, donor, job_id, board)

    async def give_back(self, claim: Claim) -> None:
        await self._door.call(self._counter.give_back, claim)


def pull_router(door: JobDoor, address_of: AddressOf) -> APIRouter:
    """The route, bound to the store."""
    router = APIRouter(prefix="/api/v1/workers", tags=["workers"])
    counter, patience = Counter(door), door.patience
    questions = Questions(AsyncCounter(counter, door), patience.look)
    door.on_work(questions.look)
    door.on_end(questions.end)

    @router.get(
        "/{worker_id}/next-job",
        response_model=AssignmentDocument,
        responses=problems(*dict.fromkeys((*OWN, "pull_closed")), beside={204: {"description": _NOTHING}}),
    )
    async def next_job(
        worker_id: WorkerId,
        request: Request,
        wait: Annotated[float, Query(ge=0, le=60, allow_inf_nan=False, description="Seconds to wait for work.")] = 20,
        types: Annotated[
            str | None, Query(max_length=500, pattern=r"^[A-Za-z0-9_.,-]+$", description="What it runs, with commas.")
        ] = None,
        region: Region | None = None,
    ) -> Response | AssignmentDocument:
        """Ask for a job and wait for one. It is leased to this worker, which begins it with `progress`."""
        takes = [name for name in (types or "").split(",") if name]
        registered, donor = isinstance(request.state.who, RegisteredWorker), None
        if not registered:
            where = region or door.region_of(address_of(request.scope))
            donor = await door.call(counter.greet, worker_id, where, takes)
        # workers that asked together, as after a restart of the service, shall not ask together for ever
        ends = time.monotonic() + min(wait, patience.pull) * random.uniform(SOONEST, 1.0)  # noqa: S311 - no secret
        pause = patience.look
        while registered and (donor := await door.call(counter.known, worker_id, takes)) is None:
            left = ends - time.monotonic()
            if left <= 0 or door.ending.is_set() or await request.is_disconnected():
                return Response(status_code=204)
            await door.rest(min(left, pause))
            pause = min(2 * pause, LONGEST_PAUSE)
        assert donor is not None
        claim = await answered(questions, donor, ends - time.monotonic(), request)
        if claim is None:
            return Response(status_code=204)
        log.info("job.pulled", job_id=claim.job.id, worker=worker_id, fence=claim.fence)
        return counter.assignment(claim)

    return router


async def answered(questions: Questions, donor: Donor, seconds: float, request: Request) -> Claim | None:
    """A job for this worker, within so many seconds. None: there was none, or who asked has hung up."""
    question, taken = questions.ask(donor, seconds), False
    gone = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait((question.answer, gone), return_when=asyncio.FIRST_COMPLETED)
        claim = question.answer.result() if question.answer.done() else None
        if claim is not None and (gone.done() or await request.is_disconnected()):
            await questions.desk.give_back(claim)
            claim = None
        taken = True
        return claim
    finally:
        gone.cancel()
        questions.close(question, taken=taken)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
