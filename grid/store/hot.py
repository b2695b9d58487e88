"""The moves that every job makes, and that must be cheap. Each database does them its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..regions import REGIONS
from .database import Row, Session

LANES = ["", *sorted(REGIONS)]
"""The regions that a job may be bound to; '' for one that may run anywhere."""

RUNNING = '{"status":"running"}'
COMPLETED = '{"status":"completed"}'
QUEUED = '{"status":"queued"}'

IS_RUNNING = "status || '' = 'running'"
"""For a job that is looked up by its id. Put plainly, the index of all running jobs would look just as good to a
planner that knows little of the table yet, and it would be read whole."""

RECLAIMABLE = """status = 'running' AND NOT cancel_requested AND (worker_id IS NULL OR losses < 9)
      AND (deadline IS NULL OR lease_until <= deadline)"""
"""`job_rules.claimable` for a job whose lease ended, as SQL."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A job to be put on disk."""

    tail: str
    """The random last 16 hexadecimal digits of its id, a UUID of version 7 whose time is the database's."""
    type: str
    params: str
    priority: int
    step_us: int
    """What one step of priority is worth, in µs of waiting."""
    region: str | None
    allow_cross_region: bool
    timeout_us: int
    client_id: str
    client_ip: str | None
    trace_id: str | None
    idempotency_key: str | None
    body_sha256: str | None

    @property
    def bound_to(self) -> str:
        return "" if self.allow_cross_region else self.region or ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to claim."""

    types: Sequence[str]
    lanes: Sequence[str]
    only: str | None
    limit: int
    lease_us: int
    holder: str
    worker_id: str | None
    incarnation: str | None


@dataclass(frozen=True, slots=True)
class Beginning:
    """An attempt that a worker process begins."""

    id: str
    fence: int
    worker_id: str
    incarnation: str
    lease_us: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A result to be committed."""

    id: str
    fence: int
    worker_id: str
    incarnation: str
    result: str
    sha256: str
    units: str | None
    seconds: float


class HotMoves(Protocol):
    """What each database does its own way. `rows` are of the table jobs."""

    def accept(self, session: Session, new: Sequence[Acceptance]) -> Sequence[Row]:
        """Insert jobs; gives `id` and `created_at` of those whose idempotency key was not taken."""

    def claim(self, session: Session, wish: Wish) -> Sequence[Row]:
        """Move what is wished for to its holder, in any order."""

    def begin(self, session: Session, begun: Sequence[Beginning]) -> Sequence[Row]:
        """Bind attempts that are still under their fence and unbound, or bound to the same pair; gives those."""

    def complete(self, session: Session, done: Sequence[Completion]) -> Sequence[Row]:
        """Move jobs that are still under their fence and pair to completed; gives those that moved."""
