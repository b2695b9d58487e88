"""Where workers speak of their attempts: `progress` and `complete`, fenced, however they got the job."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import ValidationError

from ...grid.capability import Capability
from ...grid.job_rules import HANDED_BACK, REFUSED_BY_DONOR
from ...grid.job_types import ChecksResults, UnknownJobTypeError, job_type
from ...grid.store import Renewal, Stale
from ..logs import logger
from .auth import capability
from .jobs_door import JobDoor
from .problems import Problem, printable, problems
from .worker_bodies import (
    AttemptError,
    CompleteBody,
    EndDocument,
    LeaseDocument,
    ProgressBody,
    WorkerId,
    read,
    request_body,
)
from .worker_heartbeat import OWN

log = logger(__name__)

RESULT_MARGIN = 100_000
"""Bytes that a worker's last word has beside the result."""
_REFUSALS = ("invalid_json", "invalid_attempt_token", *OWN, "stale", "request_too_large")


class AttemptDesk:
    """What workers say, checked and handed to the store. Its methods block: for threads."""

    def __init__(self, door: JobDoor) -> None:
        self._store, self._jobs = door.store, door.settings.jobs

    def progress(self, worker_id: str, given: Capability, body: bytes) -> LeaseDocument:
        """A sign of life. Raises Problem; Stale when the attempt is over."""
        said = read(ProgressBody, body)
        _same_fence(given, said.fence)
        renewal = self._renew(worker_id, given.job_id, said)
        if said.said:
            self._store.events.append(given.job_id, "tokens", {"text": said.said}, fence=said.fence)
        return LeaseDocument(lease_seconds=self._jobs.lease, cancel=renewal.cancel)

    def _renew(self, worker_id: str, job_id: str, said: ProgressBody) -> Renewal:
        jobs, lease = self._store.jobs, self._jobs.lease
        if said.begin:
            renewal = jobs.begin(job_id, said.fence, worker_id, said.incarnation, lease)
            if said.progress is None:
                return renewal
        return jobs.renew(
            job_id, said.fence, lease, worker_id=worker_id, incarnation=said.incarnation, progress=said.progress
        )

    def complete(self, worker_id: str, given: Capability, body: bytes) -> EndDocument:
        """The end of an attempt. Raises Problem; Stale when it came too late: then nothing was changed."""
        said = read(CompleteBody, body)
        _same_fence(given, said.fence)
        if said.error is not None and said.error.code in (HANDED_BACK, REFUSED_BY_DONOR):
            return self._handed_back(worker_id, given, said, said.error)
        if said.error is not None:
            return self._failed(worker_id, given, said, said.error)
        try:
            job = self._store.jobs.complete(
                given.job_id,
                said.fence,
                worker_id=worker_id,
                incarnation=said.incarnation,
                result=self._checked(given.job_id, said, len(body)),
                usage=said.usage,
                seconds=said.processing_time,
            )
        except ValueError as unfit:
            self._unfit(worker_id, given, said, str(unfit))
            raise Problem("invalid_result", f"The result was not taken: {printable(str(unfit))}.") from None
        log.info("job.completed", job_id=job.id, worker=worker_id, seconds=round(said.processing_time, 3))
        return EndDocument(status=job.status)

    def _checked(self, job_id: str, said: CompleteBody, size: int) -> dict[str, object]:
        """The result in the form of its job type and without anything else, if it can be the answer to the job at all.

        Raises ValueError, Stale.
        """
        most = int(self._jobs.max_result_mb * 1_000_000)
        if size > most + RESULT_MARGIN:
            raise ValueError(f"it has {size:,} bytes; at most {most:,} are kept (jobs.max_result_mb)")
        job = self._store.jobs.get(job_id)
        if job is None:
            raise Stale("the job was deleted")
        try:
            kind = job_type(job.type)
            result = kind.Result.model_validate(said.result)
            if isinstance(kind, ChecksResults):
                kind.check(kind.Params.model_validate(dict(job.params)), result)
            return result.model_dump(mode="json", exclude_unset=True)
        except UnknownJobTypeError as error:
            raise ValueError(str(error)) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def _failed(self, worker_id: str, given: Capability, said: CompleteBody, error: AttemptError) -> EndDocument:
        job = self._store.jobs.fail(
            given.job_id,
            said.fence,
            code=error.code,
            message=error.message,
            retry=error.retry,
            death=error.death,
            worker_id=worker_id,
            incarnation=said.incarnation,
            max_attempts=self._jobs.max_attempts,
        )
        log.info("job.attempt_failed", job_id=job.id, worker=worker_id, code=error.code, status=job.status.value)
        return EndDocument(status=job.status)

    def _handed_back(self, worker_id: str, given: Capability, said: CompleteBody, error: AttemptError) -> EndDocument:
        """The machine's owner comes first: the job waits again, and nothing is counted against it."""
        job = self._store.jobs.hand_back(
            given.job_id,
            said.fence,
            worker_id=worker_id,
            incarnation=said.incarnation,
            refused=error.code == REFUSED_BY_DONOR,
            why=printable(error.message) if error.message else "",
        )
        log.info("job.given_up", job_id=job.id, worker=worker_id, code=error.code, status=job.status.value)
        return EndDocument(status=job.status)

    def _unfit(self, worker_id: str, given: Capability, said: CompleteBody, why: str) -> None:
        self._store.jobs.fail(
            given.job_id,
            said.fence,
            code="invalid_result",
            message=f"the worker's result was not taken: {printable(why)}",
            retry=True,
            worker_id=worker_id,
            incarnation=said.incarnation,
            max_attempts=self._jobs.max_attempts,
        )
        log.warning("job.invalid_result", job_id=given.job_id, worker=worker_id)


def attempts_router(door: JobDoor) -> APIRouter:
    """The routes, bound to the store."""
    router = APIRouter(prefix="/api/v1/workers", tags=["workers"])
    desk = AttemptDesk(door)

    @router.post(
        "/{worker_id}/jobs/{job_id}/progress",
        response_model=LeaseDocument,
        responses=problems(*_REFUSALS),
        openapi_extra=request_body(ProgressBody),
    )
    async def progress(worker_id: WorkerId, job_id: str, request: Request) -> LeaseDocument:
        """A sign of life: begins the attempt, prolongs its lease, tells how far it is. 409: it is over, stop."""
        body = await request.body()
        try:
            return await door.call(desk.progress, worker_id, capability(request), body)
        except Stale as stale:
            raise _over(stale) from None

    @router.post(
        "/{worker_id}/jobs/{job_id}/complete",
        response_model=EndDocument,
        responses=problems(*_REFUSALS, "invalid_result"),
        openapi_extra=request_body(CompleteBody),
    )
    async def complete(worker_id: WorkerId, job_id: str, request: Request) -> EndDocument:
        """The end of an attempt. The same process may say it again; a late one is 409 and changes nothing."""
        body = await request.body()
        try:
            return await door.call(desk.complete, worker_id, capability(request), body)
        except Stale as stale:
            raise _over(stale) from None

    return router


def _over(stale: Stale) -> Problem:
    return Problem("stale", f"This attempt is over, nothing was changed: {stale}.")


def _same_fence(given: Capability, fence: int) -> None:
    if given.fence != fence:
        raise Problem("invalid_attempt_token", "The token is for another attempt at this job.")
