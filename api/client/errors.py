"""What a call of the SDK can end with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .values import Job


class GridError(Exception):
    """Whatever a call of the SDK ends with that is no result."""


class Refused(GridError):
    """The service answered that it will not: a wrong API key, wrong parameters, no such job."""

    def __init__(self, status: int, code: str, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{message} ({status} {code})")
        self.status = status
        """HTTP status."""
        self.code = code
        """Stable name of the problem, as in docs/problems.md; ``http_404`` and the like where the answer had none."""
        self.problem = dict(problem or {})
        """The whole problem document (RFC 9457)."""


class Unavailable(GridError, ConnectionError):
    """Nobody answered, or only that it is too busy, until the patience of the call was over."""


class WaitTimedOut(GridError, TimeoutError):
    """The time to wait is over. The job lives on: `wait` again, or `cancel` it."""

    def __init__(self, job_id: str, seconds: float) -> None:
        lives = f"job {job_id} has not ended within {seconds:g} s; it lives on: wait again, or cancel it"
        super().__init__(lives if job_id else f"no answer of a worker within {seconds:g} s; nothing lives on")
        self.job_id = job_id
        """Empty: it was asked for past the queue, so there is none."""


class JobFailed(GridError):
    """The job ended without a result: failed, cancelled or out of time. `job.error` says why."""

    def __init__(self, job: Job) -> None:
        why = f": {job.error}" if job.error else ""
        super().__init__(f"{job.type} job {job.id} ended as {job.status}{why}")
        self.job = job
