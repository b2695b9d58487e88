"""What goes into the store and comes out of it: frozen values, instants aware, UTC, of the database's clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from ..jobs import JobRecord

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A request for work that was checked and may be accepted."""

    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values, finite numbers only."""
    priority: int = 0
    """-100 … 100, higher first."""
    region: str | None = None
    allow_cross_region: bool = True
    """False: it may run in `region` only."""
    timeout_seconds: float = 300.0
    client_id: str = "local"
    client_ip: str | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to an acceptance: it is on disk."""

    job: JobRecord
    created: bool
    """False: the idempotency key was known, this is the first request's job."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that belongs to its holder until the lease ends."""

    job: JobRecord
    fence: int
    lease_until: datetime
    deaths: int
    """Workers' deaths that this job caused so far."""
    excluded: frozenset[str]
    """Workers that must not get it again."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What was said when an attempt was placed."""

    job_id: str
    fence: int
    verdicts: Mapping[str, Any]
    """See `grid.testimony`."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lease that was prolonged."""

    lease_until: datetime
    cancel: bool
    """The job is to be cancelled: stop, then say so with `fail(code="cancelled")`."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list, newest first."""

    items: list[T]
    next_cursor: str | None
    """For the next page; None: this was the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a job."""

    job_id: str
    fence: int
    holder: str
    worker_id: str | None
    incarnation: str | None
    claimed_at: datetime
    begun_at: datetime | None
    """None: no worker ever began it."""
    ended_at: datetime | None
    outcome: str | None
    """None: it runs. Else ``completed``, ``failed``, ``died``, ``lost``, ``timeout``, ``cancelled``, ``released``,
    ``handed_back`` or ``refused_by_donor``."""
    detail: str | None
    """The code of what went wrong."""
    verdicts: dict[str, Any] | None = None
    """What every worker said when it was placed, see `grid.testimony`. None: nobody was asked."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job."""

    seq: int
    """Grows within a job; `Last-Event-ID` of the stream."""
    job_id: str
    kind: str
    """``status``, ``progress`` or ``tokens``."""
    data: dict[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class TypeStats:
    """The queue of one job type."""

    type: str
    queued: int
    running: int
    service_seconds: float | None
    """Median time from begin to completion of the last 100 completed jobs. None: none was completed yet."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The queue of the whole grid, or of what may run in one region."""

    by_type: dict[str, TypeStats]
    total_queued: int
    oldest_queued_seconds: float | None
    """Age of the job that waits longest. None: nothing waits."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What was deleted of a client."""

    jobs: int
    usage: int
    files: int = 0
    batches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key that opens the HTTP API; the secret itself is not kept."""

    id: str
    name: str
    prefix: str
    """The eight characters after ``ig_``: public, to tell keys apart."""
    scopes: frozenset[str]
    client_id: str
    """Whose jobs it sees and makes."""
    requests_per_minute: int | None
    """None: the grid's default."""
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """Within a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What a worker says of itself when it comes."""

    id: str
    name: str
    region: str | None = None
    country: str | None = None
    city: str | None = None
    gpu_model: str | None = None
    gpu_memory_gb: float = 0.0
    supported_types: frozenset[str] = frozenset()
    status: str = "online"
    """``online``, ``busy``, ``draining`` or ``offline``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker as the store keeps it."""

    facts: WorkerFacts
    registered_at: datetime
    last_heartbeat: datetime | None
    total_jobs: int
    """Jobs that it completed."""
    success_rate: float | None
    """Completed ÷ ended attempts that were its own doing. None: it ended none."""
    avg_latency_ms: float | None
    """Mean time from begin to completion."""
    reliability: Mapping[str, float] | None = None
    """Its score (``total``) and the four terms, as last counted. None: never."""
    models: frozenset[str] = frozenset()
    """Models that it is restricted to. Empty: any of its types."""
    config: str | None = None
    """Its remote configuration, as JSON. None: it has none."""
