"""What happened to jobs, in order: the outbox that streams are fed from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .values import Event


class EventStore:
    """Events of jobs. Changes of status are written by `JobStore`, in the same transaction as the change."""

    def append(self, job_id: str, kind: str, data: Mapping[str, Any], *, fence: int | None = None) -> int | None:
        """Add ``progress`` or ``tokens`` to a running job. Its number.

        None when the job doesn't run, or not under this `fence`.
        """
        raise NotImplementedError

    def after(self, job_id: str, seq: int, limit: int = 500) -> list[Event]:
        """The job's events after number `seq`, in order."""
        raise NotImplementedError

    def wait(self, job_id: str, seq: int, timeout: float) -> bool:
        """Wait until the job has an event after `seq`, at most `timeout` seconds. True when it has one."""
        raise NotImplementedError
