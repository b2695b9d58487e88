"""What a worker is given: one attempt at one job, and the right to speak for it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Identity:
    """Who does the work: a worker that is started again is another one, even under its old id."""

    worker_id: str
    """Of the donor; outlives the process."""
    incarnation: str
    """Of the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOrder:
    """One attempt, however it came here: pushed by Dask, or asked for over HTTP. Its text shows neither what a client
    asked for nor the token, since it may end up in a log.
    """

    job_id: str
    fence: int
    type: str
    params: Mapping[str, Any] = field(repr=False)
    timeout_seconds: float
    """Wall time that the attempt has."""
    lease_seconds: float
    """Silent for so long, and the job goes to another."""
    token: str = field(repr=False)
    """The capability, see `grid.capability`."""
    api: tuple[str, ...]
    """Base URLs of the HTTP service, any of which will do."""
    max_result_bytes: int = 100_000_000
    begin_within: float = 10.0
    """Seconds for which the worker tries to say that it begins; then somebody else may have the job."""
    trace_id: str | None = None
    salt: str = field(default="", repr=False)
    """See `grid.job_types.RunContext`."""

    @property
    def name(self) -> str:
        """For files, Dask and logs: unique for ever."""
        return f"{self.job_id}-{self.fence}"


def this_process(worker_id: str) -> Identity:
    """Who this process is as that worker. A forked child is somebody else."""
    return Identity(worker_id, _incarnations.setdefault(os.getpid(), uuid.uuid4().hex))


_incarnations: dict[int, str] = {}
