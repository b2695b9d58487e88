"""What the service says, as values. A field that a newer service adds stays in `document`, where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Self, cast

from ...grid.jobs import JobStatus

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the service last told it."""

    id: str
    type: str
    status: JobStatus
    result: Document | None = None
    """As its job type describes it; None until it is completed."""
    error: str | None = None
    """Why it ended without a result, or why its last attempt failed."""
    error_code: str | None = None
    """The same for programs, e.g. ``poisoned``."""
    region: str | None = None
    worker_id: str | None = None
    """Who runs or ran it."""
    attempts: int = 0
    created_at: datetime | None = None
    """UTC; the same for the next two."""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    document: Document = field(default_factory=dict, repr=False, compare=False)
    """All that the service said."""

    @classmethod
    def of(cls, document: Document) -> Self:
        """From the service's document. Raises KeyError or ValueError when it is none; the same for the other values."""
        return cls(**_job_fields(document))


def _job_fields(document: Document) -> dict[str, Any]:
    """The fields of a `Job` out of the service's document."""
    said = {name: document.get(name) for name in ("result", "error", "error_code", "region", "worker_id")}
    instants = {name: _instant(document.get(name)) for name in ("created_at", "started_at", "completed_at")}
    return {
        "id": document["job_id"],
        "type": document["type"],
        "status": JobStatus(document["status"]),
        "attempts": document.get("attempts") or 0,
        "document": document,
        **said,
        **instants,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted(Job):
    """A job that was just accepted."""

    queue_position: int | None = None
    """1: the next. None: it does not wait, or nobody counted so far."""
    estimated_wait_seconds: float | None = None
    """From measured times of jobs like it. None: nothing was measured yet."""

    @classmethod
    def of(cls, document: Document) -> Self:
        queued: dict[str, Any] = {name: document.get(name) for name in ("queue_position", "estimated_wait_seconds")}
        return cls(**_job_fields(document), **queued)


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of the jobs, newest first."""

    jobs: tuple[Job, ...]
    next_cursor: str | None
    """Give it to `jobs` for those that follow. None: there are no more."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    seq: int
    """Grows along a job; `stream(job, after=seq)` goes on behind it."""
    kind: Literal["status", "progress", "tokens"]
    data: Document

    @property
    def text(self) -> str:
        """The text of a `tokens` event; empty for the others."""
        return str(self.data.get("text", "")) if self.kind == "tokens" else ""

    @property
    def status(self) -> JobStatus | None:
        """The new status in a `status` event; None for the others."""
        return JobStatus(self.data["status"]) if self.kind == "status" else None

    @property
    def final(self) -> bool:
        """Whether the job has ended with it."""
        return self.status is not None and self.status.final

    @classmethod
    def of(cls, seq: str, kind: str, data: Document) -> Self:
        return cls(int(seq), cast(Literal["status", "progress", "tokens"], kind), data)


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits."""

    total_queued: int
    available_workers: int
    """Workers that could take something now."""
    estimated_wait_seconds: float | None
    """For a job that is submitted now. None: nothing was measured yet."""
    by_type: Document
    document: Document = field(repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(
            total_queued=document["total_queued"],
            available_workers=document["available_workers"],
            estimated_wait_seconds=document.get("estimated_wait_seconds"),
            by_type=document.get("by_type") or {},
            document=document,
        )


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one worker says to a job."""

    worker: str
    region: str | None
    verdict: str
    """``accepted``, or the reason against it."""
    detail: str
    """In words."""
    score: float | None
    """Higher is better. None: refused."""

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(
            worker=str(document.get("name") or document["worker"]),
            region=document.get("region"),
            verdict=document["verdict"],
            detail=document.get("detail") or "",
            score=document.get("score"),
        )


@dataclass(frozen=True, slots=True)
class Why:
    """Where a job stands, and what each worker has to say to it."""

    job_id: str
    status: JobStatus
    summary: str
    """In one sentence."""
    workers: tuple[Opinion, ...]
    """Who may take it, best first; then who refuses. Of a job that runs or has ended: as it was when it was placed."""
    placed_at: datetime | None
    """When `workers` said so. None: now, or nobody was asked."""
    document: Document = field(repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(
            job_id=document["job_id"],
            status=JobStatus(document["status"]),
            placed_at=_instant(document.get("placed_at")),
            summary=str(document.get("summary") or ""),
            workers=tuple(map(Opinion.of, document.get("workers") or ())),
            document=document,
        )


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
