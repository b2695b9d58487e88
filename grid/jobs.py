"""A job, and what placement must know of a piece of work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from .regions import check_region


class JobStatus(StrEnum):
    """Where a job stands. The last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def final(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What placement must know of one piece of work: the same for a Dask task, an actor and a pulled job.

    Raises UnknownRegionError on a region that is none of the seven.
    """

    type: str
    """Job type, e.g. ``embedding``."""
    model: str | None = None
    """Model id; a donor that already holds it scores higher. None: the type's default."""
    region: str | None = None
    """Preferred region code. None: no preference."""
    allow_cross_region: bool = True
    """False: only donors in `region` may take it."""
    gpu_memory_gb: float = 0.0
    """GPU memory that the work needs, in GB. 0: it does not matter."""
    excluded: frozenset[str] = frozenset()
    """Ids of donors on which this work already failed."""
    deaths_allowed: int | None = None
    """How many workers may die under a Dask task before its submitter is told. None: the scheduler's own limit."""
    seconds: float = 0.0
    """How long such work takes at a donor of usual speed, in s, if that is known. 0: it is not."""

    def __post_init__(self) -> None:
        if self.region is not None:
            check_region(self.region)
        if not 0.0 <= self.seconds < math.inf:
            raise ValueError(f"seconds is {self.seconds!r}; allowed: 0 (not known) or more, and finite")

    def to_annotation(self) -> dict[str, Any]:
        """As a plain dict of msgpack types, for ``dask.annotate(grid=…)``; defaults are left out."""
        return {
            name: (sorted(value) if name == "excluded" else value)
            for name in self.__slots__
            if (value := getattr(self, name)) != _DEFAULTS.get(name, _REQUIRED)
        }

    @classmethod
    def from_annotation(cls, annotation: Mapping[str, Any]) -> Ask:
        """The inverse of `to_annotation`. Raises TypeError on unknown or missing fields."""
        fields = dict(annotation)
        if "excluded" in fields:
            fields["excluded"] = frozenset(fields["excluded"])
        return cls(**fields)


_REQUIRED = object()
_DEFAULTS: dict[str, Any] = {name: getattr(Ask(type=""), name) for name in Ask.__slots__ if name != "type"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One accepted request for work, as the store keeps it."""

    id: str
    type: str
    """Job type, e.g. ``embedding``."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Validated parameters of the job type."""
    status: JobStatus = JobStatus.QUEUED
    priority: int = 0
    """Higher first."""
    region: str | None = None
    """Preferred region code."""
    allow_cross_region: bool = True
    timeout_seconds: float = 300.0
    """Wall time from the start of an attempt to its forced end."""
    attempts: int = 0
    """How many times it was started."""
    worker_id: str | None = None
    """Donor that runs or ran it."""
    result: Mapping[str, Any] | None = None
    error: str | None = None
    created_at: datetime | None = None
    """UTC, the store's clock; the same for the next two."""
    started_at: datetime | None = None
    completed_at: datetime | None = None

    def ask(self, *, gpu_memory_gb: float = 0.0, excluded: frozenset[str] = frozenset()) -> Ask:
        """The part of this job that placement looks at."""
        return Ask(
            type=self.type,
            model=self.params.get("model"),
            region=self.region,
            allow_cross_region=self.allow_cross_region,
            gpu_memory_gb=gpu_memory_gb,
            excluded=excluded,
        )


MIN_PRIORITY, MAX_PRIORITY = -100, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord(Job):
    """A job with what only the grid's own parts need: its lease, its fence, and what went wrong with it so far."""

    client_id: str = "local"
    """Whose job it is."""
    client_ip: str | None = None
    trace_id: str | None = None
    fence: int = 0
    """Raised by one at every claim; a move under an older one is refused."""
    holder: str | None = None
    """Who claimed it: a dispatcher, or the door that a pulling worker came through."""
    incarnation: str | None = None
    """Which process of `worker_id` runs it: drawn anew at each start of the worker."""
    lease_until: datetime | None = None
    """Until when it belongs to its holder or worker."""
    deadline: datetime | None = None
    """When the running attempt is ended by force: its beginning + `timeout_seconds` + a grace."""
    not_before: datetime | None = None
    """It may not be claimed earlier."""
    errors: int = 0
    """Attempts that ended with an error of the job type."""
    deaths: int = 0
    """Attempts whose worker died of them."""
    losses: int = 0
    """Attempts whose worker fell silent."""
    killed: frozenset[str] = frozenset()
    """Distinct workers that died of it."""
    excluded: frozenset[str] = frozenset()
    """Workers on which it failed or that died of it."""
    cancel_requested: bool = False
    """Somebody asked to cancel it while it ran."""
    progress: Mapping[str, Any] | None = None
    """What its worker last said."""
    error_code: str | None = None
    """Stable name of what ended it, e.g. ``poisoned``; `error` has the words."""
