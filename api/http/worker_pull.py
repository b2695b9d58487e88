"""`GET /api/v1/workers/{id}/next-job`: work for a donor that can't be pushed any, by the same policy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from ...grid import testimony
from ...grid.capability import mint
from ...grid.donors import IDLE, Donor, Load
from ...grid.jobs import JobRecord
from ...grid.placement import explain
from ...grid.pulling import Waiting, offers
from ...grid.store import Claim, Placement, Stale, StoreUnavailable, WorkerFacts
from ...scheduler_plugins.placer import lot
from ..logs import logger
from .client_address import AddressOf
from .jobs_bodies import WorkerOpinion
from .jobs_door import JobDoor, ask_of
from .jobs_queue import alive
from .jobs_stats import Region
from .known_donors import Usual, donor_of, load_of
from .problems import FieldError, Problem, problems
from .worker_auth import RegisteredWorker
from .worker_bodies import AssignmentDocument, WorkerId
from .worker_heartbeat import OWN

log = logger(__name__)

LOOK_AT = 100
"""Waiting jobs that one look offers to a worker."""
SPOOLED = timedelta(hours=1)
"""For so long after the end of an attempt's time its result is still taken, if nobody else has the job."""
_NOTHING = "Nothing for this worker in that time: ask again."


class Counter:
    """Hands out work to workers that ask. Its methods block: for threads."""

    def __init__(self, door: JobDoor) -> None:
        self._store, self._jobs, self._secret = door.store, door.settings.jobs, door.secret
        self._usual = Usual(door.store)

    def greet(self, worker_id: str, region: str | None, types: Iterable[str]) -> Donor:
        """Note that a worker is here and what it takes. Raises Problem 422 when nobody knows what it takes."""
        known = next((row for row in self._store.workers.list() if row.facts.id == worker_id), None)
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
        return donor_of(self._store.workers.upsert(facts))

    def known(self, worker_id: str, types: Iterable[str]) -> Donor | None:
        """A worker that registered, as the grid keeps it, narrowed to `types`. None: it takes nothing now."""
        record = self._store.donors.get(worker_id)
        if record is None or record.worker.facts.status not in ("online", "busy"):
            return None
        donor, wanted = donor_of(record.worker), frozenset(types)
        return replace(
            donor,
            gpu_count=record.gpu_count,
            supported_types=donor.supported_types & wanted if wanted else donor.supported_types,
        )

    def look(self, donor: Donor) -> Claim | None:
        """The first waiting job that the policy gives this worker, claimed for it."""
        types, jobs = donor.supported_types, self._store.jobs
        waiting = jobs.peek(types=types, limit=LOOK_AT, region=donor.region)
        if not waiting:
            return None
        now = datetime.now(UTC)
        here = [(donor_of(row), load_of(row)) for row in alive(self._store.workers.list(), now)]
        others = [pair for pair in here if pair[1] is IDLE]
        asked = [self._waiting(job, now) for job in waiting]
        for offer in offers(asked, donor, IDLE, others, now, lambda job_id: lot(job_id, donor.id, now)):
            if offer.taken:
                holder, lease = f"pull:{donor.id}", self._jobs.lease
                claimed = jobs.claim(types=types, limit=1, lease=lease, holder=holder, only=offer.job_id)
                if claimed:
                    self._store.workers.heartbeat(donor.id, "busy")
                    rivals = [pair for pair in here if pair[0].id != donor.id]
                    self._testify(claimed[0], [(donor, IDLE), *rivals], now)
                    return claimed[0]
        return None

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
        rows = [WorkerOpinion.pulling(*one).model_dump(mode="json") for one in said]
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
            attempt_token=mint(self._secret, job.id, claim.fence, ends),
            trace_id=job.trace_id,
        )


def pull_router(door: JobDoor, address_of: AddressOf) -> APIRouter:
    """The route, bound to the store."""
    router = APIRouter(prefix="/api/v1/workers", tags=["workers"])
    counter, patience = Counter(door), door.patience

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
        ends = time.monotonic() + min(wait, patience.pull)
        while True:
            if donor is None and registered:
                donor = await door.call(counter.known, worker_id, takes)
            claim = await door.call(counter.look, donor) if donor is not None else None
            if claim is not None:
                if await request.is_disconnected():
                    await door.call(counter.give_back, claim)
                    return Response(status_code=204)
                log.info("job.pulled", job_id=claim.job.id, worker=worker_id, fence=claim.fence)
                return counter.assignment(claim)
            left = ends - time.monotonic()
            if left <= 0 or await request.is_disconnected():
                return Response(status_code=204)
            await asyncio.sleep(min(left, patience.look))

    return router
