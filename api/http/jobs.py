"""`/api/v1/jobs`: hand in, look, list, cancel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import ValidationError

from ...grid.job_types import JobType, UnknownJobTypeError, job_type
from ...grid.jobs import JobRecord, JobStatus
from ...grid.store import Accepted, IdempotencyConflict, NewJob, QueueFull, StoreUnavailable
from ..fetching import FetchFailed, FetchRefused, inline_media
from ..fetching.inline import MediaRefused, has_addresses
from ..logs import logger
from .auth import Principal, principal
from .client_address import AddressOf
from .jobs_bodies import JobAccepted, JobBody, JobDocument, JobList, JobSummary
from .jobs_door import JobDoor, is_job_id, job_not_found
from .jobs_queue import Lookout
from .problems import FieldError, Problem, from_validation, printable, problems, retry_after
from .trace import trace_id

log = logger(__name__)

POSITION_LIMIT = 1000
"""A job farther behind is told this position: counting on would cost the database more than it tells the client."""
MAX_KEY = 255
MAX_PAGE = 200
_REPEATED = "The idempotency key is known: the first request's job, as it stands."
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_KEY,
        pattern=r"^[\x21-\x7e]+$",
        description="Your own name for this request: a repeat returns the first job and makes no second one.",
    ),
]


class Intake:
    """Checks what clients hand in, and puts it on disk."""

    def __init__(self, door: JobDoor, lookout: Lookout, address_of: AddressOf) -> None:
        self._door, self._lookout, self._address_of = door, lookout, address_of

    def check(self, body: JobBody, request: Request, who: Principal) -> NewJob:
        """The job in its checked form, in the client's region unless it names one. Raises Problem 422."""
        params = _checked(body)
        address = self._address_of(request.scope)
        return NewJob(
            type=body.type,
            params=params,
            priority=body.priority,
            region=body.wanted_region or self._door.region_of(address),
            allow_cross_region=body.allow_cross_region,
            timeout_seconds=body.timeout_seconds,
            client_id=who.client_id,
            client_ip=address,
            trace_id=trace_id(request),
        )

    async def accept(self, new: NewJob, body: JobBody, key: str | None) -> tuple[Accepted, int | None]:
        """Put it on disk; its place in the queue. What it names by addresses is fetched first.

        Raises Problem: the key was used before, too many jobs wait, or an address isn't fetched.
        """
        digest = None if key is None else fingerprint(body, new.params)
        most = self._door.settings.jobs.max_queued
        try:
            if has_addresses(new.params):
                if key is not None and digest is not None:  # a repeat is answered though the address be gone by now
                    known = await self._door.call(self._door.store.jobs.known, new.client_id, key, digest)
                    if known is not None:
                        return known, await self._door.call(self.place, known.job)
                new = replace(new, params=await self._inlined(new))
            accepted, place = await self._door.call(self._put, new, key, digest, most)
        except IdempotencyConflict:
            detail = "This Idempotency-Key belongs to another request. Use a new one for each new job."
            raise Problem("idempotency_conflict", detail) from None
        except QueueFull:
            raise Problem("queue_full", f"{most} jobs wait already.", headers=retry_after(30)) from None
        self._door.took_in()
        log.info("job.accepted", job_id=accepted.job.id, type=new.type, client=new.client_id, new=accepted.created)
        return accepted, place

    async def _inlined(self, new: NewJob) -> dict[str, Any]:
        """The parameters with the files themselves instead of addresses. Raises Problem."""
        try:
            params = await inline_media(new.params, self._door.fetcher)
        except FetchRefused as error:
            place = f"params.{error.place}" if isinstance(error, MediaRefused) else "params"
            told = FieldError(location="body", field=place, code="address_refused", detail=printable(str(error)))
            raise Problem("invalid_request", f"{place}: {error}", errors=[told]) from None
        except FetchFailed as error:
            raise Problem("fetch_failed", str(error)) from None
        return _validated(job_type(new.type), params)

    def _put(self, new: NewJob, key: str | None, digest: str | None, most: int) -> tuple[Accepted, int | None]:
        accepted = self._door.store.jobs.accept(new, idempotency_key=key, body_sha256=digest, max_queued=most)
        with suppress(StoreUnavailable):  # it is on disk: that is said whatever comes
            return accepted, self.place(accepted.job)
        return accepted, None

    def place(self, job: JobRecord) -> int | None:
        """Its position in the queue; None once it doesn't wait. Blocks: for threads."""
        if job.status is not JobStatus.QUEUED:
            return None
        return self._door.store.jobs.position(job.id, limit=POSITION_LIMIT)

    async def wait(self, job: JobRecord, place: int | None) -> float | None:
        """Seconds until a job at this place starts. None: not known, or it doesn't wait."""
        if place is None:
            return None
        with suppress(StoreUnavailable):
            return (await self._lookout.look()).wait(job.type, None if place >= POSITION_LIMIT else place - 1)
        return None


def jobs_router(door: JobDoor, intake: Intake) -> APIRouter:
    """The routes, bound to the store."""
    router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])
    submitting = (
        "invalid_json",
        "unsupported_media_type",
        "unknown_job_type",
        "fetch_failed",
        "idempotency_conflict",
        "request_too_large",
        "queue_full",
    )

    @router.post(
        "",
        status_code=201,
        response_model=JobAccepted,
        responses=problems(*submitting, beside={200: {"model": JobAccepted, "description": _REPEATED}}),
    )
    async def submit(
        body: JobBody, request: Request, response: Response, idempotency_key: IdempotencyKey = None
    ) -> JobAccepted:
        """Hand in a job. Once this answers, the job is on disk and ends exactly once."""
        new = intake.check(body, request, principal(request))
        accepted, place = await intake.accept(new, body, idempotency_key)
        response.status_code = 201 if accepted.created else 200
        response.headers["Location"] = f"/api/v1/jobs/{accepted.job.id}"
        wait = await intake.wait(accepted.job, place)
        return JobAccepted.of(accepted.job, queue_position=place, estimated_wait_seconds=wait)

    @router.get("", response_model=JobList, responses=problems())
    async def list_jobs(
        request: Request,
        status: JobStatus | None = None,
        type: Annotated[str | None, Query(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")] = None,  # noqa: A002 - of the API
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
        cursor: Annotated[str | None, Query(max_length=512, pattern=r"^[\x21-\x7e]+$")] = None,
    ) -> JobList:
        """Your jobs, newest first; `next_cursor` leads to the next page."""
        try:
            page = await door.call(
                door.store.jobs.list,
                client_id=principal(request).sees,
                status=status,
                type=type,
                limit=limit,
                cursor=cursor,
            )
        except ValueError:
            error = FieldError(location="query", field="cursor", code="invalid_cursor", detail="not one of ours")
            raise Problem("invalid_request", "cursor: it is not one of ours", errors=[error]) from None
        return JobList(jobs=[JobSummary.of(job) for job in page.items], next_cursor=page.next_cursor)

    @router.get("/{job_id}", response_model=JobDocument, responses=problems("job_not_found"))
    async def get_job(job_id: str, request: Request) -> JobDocument:
        """A job as it stands, with its result once it has one."""
        return JobDocument.whole(await door.job(job_id, principal(request).sees, with_result=True))

    @router.delete("/{job_id}", response_model=JobDocument, responses=problems("job_not_found"))
    async def cancel(job_id: str, request: Request) -> JobDocument:
        """Cancel a job. One that waits ends at once; one that runs is told to stop; one that has ended stays."""
        sees = principal(request).sees
        job = await door.call(door.store.jobs.cancel, job_id, client_id=sees) if is_job_id(job_id) else None
        if job is None:
            raise job_not_found()
        log.info("job.cancel", job_id=job_id, status=job.status.value)
        return JobDocument.whole(job)

    return router


def _checked(body: JobBody) -> dict[str, Any]:
    """The parameters as their job type has them. Raises Problem 422 with the fields that are wrong."""
    try:
        kind = job_type(body.type)
    except UnknownJobTypeError as error:
        raise Problem("unknown_job_type", f"type: {error}") from None
    params = _validated(kind, body.params)
    try:
        json.dumps(params, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        told = FieldError(location="body", field="params", code="not_json", detail="a number or a text is no JSON")
        raise Problem("invalid_request", "params: a number or a text is no JSON", errors=[told]) from None
    return params


def _validated(kind: JobType, given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return kind.Params.model_validate(given).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=True)
        raise from_validation(found, inside="params") from None


def fingerprint(body: JobBody, params: Mapping[str, Any]) -> str:
    """What a repeat under the same idempotency key must agree in: the request, not how it was written down."""
    said = body.model_dump(mode="json", exclude={"params", "preferred_region"}) | {"region": body.wanted_region}
    return sha256(json.dumps([said, params], sort_keys=True, separators=(",", ":")).encode()).hexdigest()
