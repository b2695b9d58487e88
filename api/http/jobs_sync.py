"""`POST /api/v1/jobs/sync`: hand in a job and wait for its end."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from ...grid.jobs import Ask, JobRecord
from ...grid.store import NewJob
from .auth import principal
from .jobs import IdempotencyKey, Intake
from .jobs_bodies import JobBody, JobDocument
from .jobs_door import JobDoor, ask_of, job_not_found
from .jobs_why import Witness
from .problems import Problem, problems, retry_after

RECHECK = 10.0
"""Seconds after which a job is looked at even if no event of it was heard."""


def sync_router(door: JobDoor, intake: Intake, witness: Witness) -> APIRouter:
    """The route, bound to the store."""
    router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])
    refusals = (
        "invalid_json",
        "unsupported_media_type",
        "unknown_job_type",
        "fetch_failed",
        "idempotency_conflict",
        "request_too_large",
        "queue_full",
    )

    @router.post("/sync", response_model=JobDocument, responses=problems(*refusals, "no_worker", "still_running"))
    async def run(
        body: JobBody,
        request: Request,
        response: Response,
        timeout: Annotated[  # noqa: ASYNC109 - of the API
            float, Query(gt=0, le=3600, allow_inf_nan=False, description="Seconds to wait for the end.")
        ] = 60.0,
        wait_for_worker: Annotated[
            bool, Query(description="False: 503 when no worker could take it now, and no job is made.")
        ] = True,
        idempotency_key: IdempotencyKey = None,
    ) -> JobDocument:
        """Hand in a job and wait until it has ended, however it did. When time runs out the job lives on."""
        begun = time.monotonic()
        new = intake.check(body, request, principal(request))
        if not wait_for_worker:
            await _someone(witness, new)
        accepted, _ = await intake.accept(new, body, idempotency_key)
        job = accepted.job
        response.headers["Location"] = f"/api/v1/jobs/{job.id}"
        patience = min(timeout, door.patience.sync)
        ended = await until_final(door, job.id, begun + patience)
        if ended is None:
            place, waited = f"/api/v1/jobs/{job.id}", round(time.monotonic() - begun, 1)
            detail = f"The job has not ended within {waited:g} s. It lives on: GET {place}."
            raise Problem("still_running", detail, job_id=job.id, headers={"Location": place})
        return JobDocument.whole(ended)

    return router


async def until_final(door: JobDoor, job_id: str, deadline: float) -> JobRecord | None:
    """The job with its result once it has ended; None when the deadline (monotonic seconds), or the end of the service,
    comes before.
    """
    seq = 0
    while True:
        job = await door.call(door.store.jobs.get, job_id)
        if job is None:
            raise job_not_found()
        if job.status.final:
            return await door.job(job_id, None, with_result=True)
        left = deadline - time.monotonic()
        if left <= 0 or door.ending.is_set():
            return None
        if await door.wait_for_event(job_id, seq, min(left, RECHECK)):
            events = await door.call(door.store.events.after, job_id, seq)
            seq = max([seq, *(event.seq for event in events)])


async def _someone(witness: Witness, new: NewJob) -> None:
    """Raise Problem 503 unless a worker could take the job now."""
    ask = ask_of(
        JobRecord(
            id="new",
            type=new.type,
            params=new.params,
            region=new.region,
            allow_cross_region=new.allow_cross_region,
        )
    )
    if not await witness.anybody(ask, "new"):
        raise Problem("no_worker", _nobody(ask), headers=retry_after(5))


def _nobody(ask: Ask) -> str:
    where = f" in {ask.region}" if ask.region and not ask.allow_cross_region else ""
    return f"No worker{where} could take {ask.type} now; with wait_for_worker=true the job would wait for one."
