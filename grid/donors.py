"""A donor: a machine that takes work, the limits that its owner set, and what it is doing now."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .regions import check_region
from .schedule import Schedule


class DonorState(StrEnum):
    """What a donor is doing, in one word."""

    ONLINE = "online"
    BUSY = "busy"
    PAUSED = "paused"
    DRAINING = "draining"
    OFFLINE = "offline"


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field} is {value!r}; allowed: {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the owner allows (SPEC's load control). The defaults allow everything, one job at a time.

    Raises ValueError on a value that no owner can mean.
    """

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
    schedule: Schedule | None = None
    """Windows of the week, in `time_zone`; with working hours, both must allow it. None: the whole week."""
    time_zone: str = "UTC"
    """IANA name of the donor's own time zone."""
    max_gpu_memory_percent: float = 90.0
    """Work is refused that would fill the GPU's memory beyond this share."""
    only_when_idle_minutes: float = 0.0
    """Work only after nobody touched the machine for so long. 0: always. The donor itself looks after this and the
    next three (`grid.donor_guard`)."""
    pause_on_battery: bool = False
    """Free the machine while it runs on battery."""
    max_gpu_temperature: float = 0.0
    """Take nothing new from so many °C on. 0: no limit."""
    pause_for_other_gpu_programs: bool = False
    """Free the GPU as soon as another program uses it."""

    def __post_init__(self) -> None:
        hours = (self.working_hours_start, self.working_hours_end)
        _require(0.1 <= self.acceptance_rate <= 1.0, "acceptance_rate", self.acceptance_rate, "0.1 to 1.0")
        _require(self.max_concurrent_jobs >= 1, "max_concurrent_jobs", self.max_concurrent_jobs, "at least 1")
        _require(self.max_jobs_per_hour >= 0, "max_jobs_per_hour", self.max_jobs_per_hour, "0 (no limit) or more")
        _require(
            0 < self.max_gpu_memory_percent <= 100,
            "max_gpu_memory_percent",
            self.max_gpu_memory_percent,
            "above 0, to 100",
        )
        _require(self.only_when_idle_minutes >= 0, "only_when_idle_minutes", self.only_when_idle_minutes, "0 or more")
        _require(self.max_gpu_temperature >= 0, "max_gpu_temperature", self.max_gpu_temperature, "0 (off) or more")
        _require(hours == (None, None) or None not in hours, "working_hours", hours, "both hours, or neither")
        for hour in hours:
            _require(hour is None or hour in range(24), "working_hours", hours, "full hours, 0 to 23")
        start, end = hours
        if self.schedule is not None and start is not None and end is not None and start != end:
            told = f"{self.schedule.text!r} with working hours {start}-{end}"
            _require(self.schedule.meets(start, end), "schedule", told, "some time in which both allow work")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            _require(False, "time_zone", self.time_zone, "an IANA name such as Europe/Berlin")


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
    pace: float = 1.0
    """Its service times over the grid's medians: below 1, it is faster than most."""

    def __post_init__(self) -> None:
        check_region(self.region)
        _require(0.0 <= self.reliability <= 1.0, "reliability", self.reliability, "0 to 1")
        _require(0.0 < self.pace < math.inf, "pace", self.pace, "above 0, and finite")
        _require(self.gpu_memory_gb >= 0, "gpu_memory_gb", self.gpu_memory_gb, "0 (no GPU) or more")


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
