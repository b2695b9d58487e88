"""A donor: a machine that takes work, the limits that its owner set, and what it is doing now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DonorState(StrEnum):
    """What a donor is doing, in one word."""

    ONLINE = "online"
    BUSY = "busy"
    PAUSED = "paused"
    DRAINING = "draining"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the owner allows (SPEC's load control). The defaults allow everything, one job at a time."""

    acceptance_rate: float = 1.0
    """Share of the offered work to take, 0.1 to 1.0."""
    max_concurrent_jobs: int = 1
    """Jobs at the same time, at least 1."""
    max_jobs_per_hour: int = 0
    """Jobs started within any 60 minutes. 0: no limit."""
    working_hours_start: int | None = None
    """First hour of work, 0-23, in `time_zone`. None (with the end): around the clock."""
    working_hours_end: int | None = None
    """Hour at which work ends, 0-23; before or equal to the start it means the next day (equal: around the clock)."""
    time_zone: str = "UTC"
    """IANA name of the donor's own time zone."""
    max_gpu_memory_percent: float = 90.0
    """Work is refused that would fill the GPU's memory beyond this share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """What a donor is: changes rarely."""

    id: str
    """Stable over restarts of the process."""
    name: str = ""
    """For people."""
    region: str = "asia-east"
    """One of the seven region codes."""
    country: str | None = None
    city: str | None = None
    gpu_model: str | None = None
    """None: no GPU."""
    gpu_memory_gb: float = 0.0
    """Of one GPU, in GB. 0: no GPU."""
    gpu_count: int = 0
    supported_types: frozenset[str] = frozenset()
    """Job types it can run."""
    models: frozenset[str] = frozenset()
    """Model ids it is restricted to. Empty: any model of its types."""
    limits: Limits = Limits()
    reliability: float = 0.75
    """Score 0-1 (`grid.reliability`)."""
    avg_latency_ms: float | None = None
    """Mean service time of its finished jobs, in ms. None: nothing finished yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a donor is doing now: changes all the time."""

    running: int = 0
    """Jobs assigned and not finished."""
    started_last_hour: int = 0
    """Jobs started within the last 60 minutes."""
    hourly_slot_frees_at: float | None = None
    """Unix seconds at which the oldest of those starts falls out of the hour. None: unknown."""
    gpu_memory_used_gb: float = 0.0
    """In use on the GPU by anybody, in GB."""
    loaded: frozenset[str] = frozenset()
    """Ids of the models that are resident."""
    paused: bool = False
    draining: bool = False


IDLE = Load()
