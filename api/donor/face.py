"""What the agent shows and does for its owner, whoever asks: the command line, the page on loopback, a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol


class AgentState(StrEnum):
    """What the agent is doing, in one word."""

    STARTING = "starting"
    """It registers, or loads its engines."""
    ONLINE = "online"
    """It would take work."""
    BUSY = "busy"
    """It works."""
    PAUSED = "paused"
    """It takes nothing new, and nothing runs: `reason` says why."""
    DRAINING = "draining"
    """It finishes what runs, then leaves."""
    OFFLINE = "offline"
    """The service can't be reached, or does not want this machine."""


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job as its donor sees it: never what is in it."""

    job_id: str
    type: str
    started_at: datetime
    ended_at: datetime | None = None
    """None: it runs."""
    outcome: str | None = None
    """``completed``, ``failed``, ``handed_back``, …; None: it runs."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the agent's log."""

    number: int
    """Counts up for as long as this agent lives."""
    at: datetime
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class ScoreTerms:
    """The reliability score (0 to 1) and its four terms, as the grid counts them."""

    total: float
    success: float
    stability: float
    latency: float
    seniority: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNow:
    """The GPU at this moment. What the driver doesn't tell is None."""

    model: str
    memory_total_gb: float
    memory_used_gb: float
    utilisation_percent: float | None = None
    temperature_celsius: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """Everything on one screen."""

    state: AgentState
    reason: str
    """Why it is in this state, in plain words."""
    since: datetime
    """Since when it has been in it."""
    worker_id: str | None
    """None: not registered yet."""
    name: str
    region: str
    server: str
    """The grid's address, without a password in it."""
    pull: bool
    """It asks for its work over HTTP alone; otherwise Dask sends it."""
    types: tuple[str, ...] = ()
    paused_until: datetime | None = None
    """When a pause of limited length ends by itself."""
    opens_at: datetime | None = None
    """When the owner's hours allow work again; None: they do now."""
    closes_at: datetime | None = None
    """When the owner's hours end; None: never, or they are over now."""
    score: ScoreTerms | None = None
    """None: the grid has not told it yet."""
    running: tuple[JobLine, ...] = ()
    finished: tuple[JobLine, ...] = ()
    """The last ones, newest first; at most 50."""
    jobs_today: int = 0
    jobs_last_hour: int = 0
    limits: dict[str, Any] = field(default_factory=dict)
    """The load control in force: key without its section → value."""
    config_version: int = 0
    """0: only this machine's own configuration is in force."""
    gpu: GpuNow | None = None
    """None: no GPU."""
    certificate_expires_at: datetime | None = None
    """Of the certificate for the Dask network. None: it has none."""
    pid: int = 0


class NotAllowed(ValueError):
    """Settings were refused, and nothing was changed, or are not in force, where it says so."""

    def __init__(self, refused: Mapping[str, str]) -> None:
        """`refused`: dotted key → why, and what is allowed."""
        self.refused = dict(refused)
        super().__init__("\n".join(self.refused.values()))


class AgentFace(Protocol):
    """The agent, for its owner. Every method belongs to the agent's event loop."""

    def status(self) -> AgentStatus:
        """How it is now."""
        ...

    async def pause(self, seconds: float | None) -> None:
        """Free the GPU now and take nothing until `resume`, or for so long. What runs is handed back."""
        ...

    async def resume(self) -> None:
        """Take work again, after `pause` or `drain`."""
        ...

    async def drain(self) -> None:
        """Finish what runs, take nothing new, leave the grid; the agent then ends."""
        ...

    async def set(self, key: str, value: str) -> None:
        """Change one setting (``load_control.max_concurrent_jobs``) for good; in force at once where it can be.

        Raises ValueError with what is allowed.
        """
        ...

    async def set_many(self, values: Mapping[str, str]) -> None:
        """Change several settings, all of them or none. Raises NotAllowed."""
        ...

    def log_lines(self, after: int = 0, limit: int = 200) -> Sequence[LogLine]:
        """The newest `limit` lines with a number above `after`, oldest first."""
        ...
