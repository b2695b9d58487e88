"""What the jobs API takes and gives, as models: requests refuse what they don't know, answers are described in full."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ...grid.donors import Donor
from ...grid.jobs import MAX_PRIORITY, MIN_PRIORITY, JobRecord, JobStatus
from ...grid.regions import REGIONS, check_region
from ...grid.store import Attempt
from ...grid.verdicts import Verdict
from .bodies import Body

MAX_TIMEOUT = 86_400.0
"""Seconds that one attempt may have."""
RegionCode = Annotated[str, Field(json_schema_extra={"enum": list(REGIONS)})]


class JobBody(Body):
    """A job to do."""

    type: str = Field(min_length=1, max_length=64, description="Job type, e.g. `embedding`.")
    params: dict[str, Any] = Field(description="Parameters of the job type.")
    priority: int = Field(0, ge=MIN_PRIORITY, le=MAX_PRIORITY, description="Higher first; nobody starves.")
    region: RegionCode | None = Field(None, description="Where it should run. Unset: where the client is.")
    preferred_region: RegionCode | None = Field(None, description="Another name of `region`.")
    allow_cross_region: bool = Field(True, description="False: it may run in its region only.")
    timeout_seconds: float = Field(
        300.0, gt=0, le=MAX_TIMEOUT, allow_inf_nan=False, description="Wall time of one attempt."
    )

    model_config = ConfigDict(
        strict=True,  # a number in quotes is none
        json_schema_extra={"examples": [{"type": "embedding", "params": {"texts": ["a lease", "a fence"]}}]},
    )

    @field_validator("region", "preferred_region")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return None if value is None else check_region(value)

    @model_validator(mode="after")
    def _one_region(self) -> Self:
        if self.region and self.preferred_region and self.region != self.preferred_region:
            raise ValueError("region and preferred_region are two names of one thing; give one of them")
        return self

    @property
    def wanted_region(self) -> str | None:
        """The region that was asked for under either name."""
        return self.region or self.preferred_region


class JobSummary(BaseModel):
    """A job without its result, as lists have it."""

    job_id: str
    type: str
    status: JobStatus
    priority: int
    region: str | None
    allow_cross_region: bool
    timeout_seconds: float
    worker_id: str | None = Field(description="Who runs or ran it: a name that opens nothing.")
    attempts: int = Field(description="How many times it was started.")
    cancel_requested: bool
    progress: dict[str, Any] | None = Field(description="What its worker last said.")
    error: str | None = Field(description="What went wrong, for people.")
    error_code: str | None = Field(description="What went wrong, for programs.")
    trace_id: str | None
    created_at: datetime | None = Field(description="UTC, by the database's clock; the same for the next two.")
    started_at: datetime | None
    completed_at: datetime | None

    @classmethod
    def of(cls, job: JobRecord, **more: Any) -> Self:
        return cls(
            job_id=job.id,
            type=job.type,
            status=job.status,
            priority=job.priority,
            region=job.region,
            allow_cross_region=job.allow_cross_region,
            timeout_seconds=job.timeout_seconds,
            worker_id=job.worker_id,
            attempts=job.attempts,
            cancel_requested=job.cancel_requested,
            progress=_plain(job.progress),
            error=job.error,
            error_code=job.error_code,
            trace_id=job.trace_id,
            created_at=job.created_at,
            started_at=job.started_at,
            completed_at=job.completed_at,
            **more,
        )


class JobDocument(JobSummary):
    """A job with its result."""

    result: dict[str, Any] | None = Field(description="As its job type has it; null until it is completed.")

    @classmethod
    def whole(cls, job: JobRecord) -> Self:
        return cls.of(job, result=_plain(job.result))


class JobAccepted(JobSummary):
    """A job that is on disk: it will end exactly once."""

    queue_position: int | None = Field(description="1: the next of its type, 1000: far behind. Null: it doesn't wait.")
    estimated_wait_seconds: float | None = Field(description="Null: nothing is known to estimate it from.")


class JobList(BaseModel):
    """One page of jobs, newest first."""

    jobs: list[JobSummary]
    next_cursor: str | None = Field(description="For the next page. Null: this is the last one.")


class TypeQueue(BaseModel):
    """The queue of one job type."""

    queued: int
    running: int
    available_workers: int = Field(description="Workers that could take one now.")
    service_seconds: float | None = Field(description="Median of recent jobs. Null: none has ended yet.")
    estimated_wait_seconds: float | None = Field(description="Of a job that comes now. Null: not known.")


class QueueDocument(BaseModel):
    """The queue, of everywhere or of what may run in one region."""

    total_queued: int
    available_workers: int = Field(description="Workers that could take something now.")
    estimated_wait_seconds: float | None = Field(description="Of a job of the type that waits longest.")
    oldest_queued_seconds: float | None = Field(description="Age of the job that waits longest. Null: nothing waits.")
    by_type: dict[str, TypeQueue]


class RegionDocument(BaseModel):
    """A region."""

    code: str
    name: str
    workers_online: int


class RegionsDocument(BaseModel):
    """The regions and how far apart they lie."""

    regions: list[RegionDocument]
    client_region: str | None = Field(description="Where the client seems to be. Null: not known.")
    distances: dict[str, dict[str, float]] = Field(description="0: the same region, 1: the farthest two.")


class WorkerOpinion(BaseModel):
    """What one worker says to a job."""

    worker: str
    name: str
    region: str | None
    path: str = Field(description="How work comes to it: `dask` or `pull`.")
    verdict: str = Field(description="`accepted`, or the reason against it.")
    detail: str
    retry_at: datetime | None = Field(description="When time alone may change the verdict.")
    score: float | None = Field(description="Higher is better. Null: refused.")

    @classmethod
    def pulling(cls, donor: Donor, verdict: Verdict, score: float | None) -> Self:
        """What the rule says of a worker that asks for its jobs."""
        return cls(
            worker=donor.id,
            name=donor.name,
            region=donor.region,
            path="pull",
            verdict=verdict.reason.value,
            detail=verdict.detail,
            retry_at=verdict.retry_at,
            score=score,
        )


class PlacementDocument(BaseModel):
    """What every worker said when an attempt was placed."""

    at: datetime
    workers: list[WorkerOpinion] = Field(description="Who might have had it, best first; then who refused.")
    others: dict[str, int] = Field(description="Verdict → how many more said so: a long list is cut.")


class AttemptDocument(BaseModel):
    """One try of a job."""

    fence: int
    worker_id: str | None
    claimed_at: datetime
    begun_at: datetime | None
    ended_at: datetime | None
    outcome: str | None = Field(description="Null: it goes on.")
    detail: str | None
    placement: PlacementDocument | None = Field(description="Null: nobody was asked, or nobody answered.")

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        return cls(
            fence=attempt.fence,
            worker_id=attempt.worker_id,
            claimed_at=attempt.claimed_at,
            begun_at=attempt.begun_at,
            ended_at=attempt.ended_at,
            outcome=attempt.outcome,
            detail=attempt.detail,
            placement=PlacementDocument.model_validate(attempt.verdicts) if attempt.verdicts else None,
        )


class WhyDocument(BaseModel):
    """Why a job waits, or where it ran."""

    version: int
    job_id: str
    status: JobStatus
    summary: str = Field(description="In one sentence.")
    queue_position: int | None
    estimated_wait_seconds: float | None
    ask: dict[str, Any] = Field(description="What placement knows of the job.")
    workers: list[WorkerOpinion] = Field(
        description="Who may take it, best first; then who refuses. While it waits: now. Once a worker began it: when "
        "its last attempt was placed."
    )
    placed_at: datetime | None = Field(description="When `workers` said so. Null: now.")
    unheard: str | None = Field(description="Why workers behind the scheduler are missing from the list, if they are.")
    attempts: list[AttemptDocument]


def _plain(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if values is None else dict(values)
