"""The jobs of the store: every move is a compare-and-set, every instant is the database's."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping
from typing import Any

from ..jobs import JobRecord, JobStatus
from .values import Accepted, Attempt, Claim, NewJob, Page, Purged, QueueStats, Renewal


class JobStore:
    """Jobs, their attempts and results. Safe to use from many threads and many processes.

    Every method may raise StoreUnavailable. All of it is synchronous; asynchronous callers go through a thread.
    """

    def accept(
        self,
        new: NewJob,
        *,
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
        max_queued: int | None = None,
    ) -> Accepted:
        """Put a job on disk. When this returns, it will end in exactly one final state.

        A key that the same client used before gives the first request's job; with another `body_sha256` it raises
        IdempotencyConflict. Raises QueueFull when `max_queued` jobs wait (above 1,000 counted at most once a second),
        ValueError on a priority or parameters that can't be kept (NaN, what is not JSON).
        """
        raise NotImplementedError

    def get(self, job_id: str, *, client_id: str | None = None, with_result: bool = False) -> JobRecord | None:
        """The job; None when there is none, or when it is not `client_id`'s."""
        raise NotImplementedError

    def result(self, job_id: str) -> dict[str, Any] | None:
        """The result of a completed job."""
        raise NotImplementedError

    def list(
        self,
        *,
        client_id: str | None = None,
        status: JobStatus | None = None,
        type: str | None = None,  # noqa: A002 - the field's name
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[JobRecord]:
        """Jobs, newest first, without their parameters and results. Raises ValueError on a cursor that is none."""
        raise NotImplementedError

    def position(self, job_id: str, *, limit: int = 10_000) -> int | None:
        """1 for the queued job that is next among its type, at most `limit`; None when it doesn't wait."""
        raise NotImplementedError

    def stats(self, region: str | None = None) -> QueueStats:
        """The queue, counted; with a region only what may run there."""
        raise NotImplementedError

    def attempts(self, job_id: str) -> builtins.list[Attempt]:
        """All attempts of a job, the first one first."""
        raise NotImplementedError

    def claim(
        self,
        *,
        types: Collection[str],
        limit: int,
        lease: float,
        holder: str,
        region: str | None = None,
        only: str | None = None,
        bind: tuple[str, str] | None = None,
    ) -> builtins.list[Claim]:
        """Up to `limit` jobs for `holder`, in the queue's order, each under a new fence and for `lease` seconds.

        Queued jobs, and running ones whose lease ended. `region`: only jobs that may run there. `only`: this job or
        none. `bind` = (worker id, incarnation): begin them at once, as `begin` would.
        """
        raise NotImplementedError

    def peek(
        self, *, types: Collection[str], limit: int, region: str | None = None, only: str | None = None
    ) -> builtins.list[JobRecord]:
        """What `claim` would take now, left where it is."""
        raise NotImplementedError

    def begin(self, job_id: str, fence: int, worker_id: str, incarnation: str, lease: float) -> Renewal:
        """Bind the attempt to one worker process and prolong its lease. The same pair may say it again.

        Raises Stale: the fence is old, the job ended, or another process has begun this attempt.
        """
        raise NotImplementedError

    def renew(
        self,
        job_id: str,
        fence: int,
        lease: float,
        *,
        worker_id: str | None = None,
        incarnation: str | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> Renewal:
        """Prolong the lease of an attempt: by the worker that began it, or, without a worker, by the holder of one that
        has not begun. `progress` is kept in the job and told as an event. Raises Stale."""
        raise NotImplementedError

    def complete(
        self,
        job_id: str,
        fence: int,
        *,
        worker_id: str,
        incarnation: str,
        result: Mapping[str, Any],
        usage: Mapping[str, Any] | None,
        seconds: float,
    ) -> JobRecord:
        """Commit the result: job, result, usage, attempt and event in one transaction. The same pair may say it again.

        Raises Stale (nothing was changed) and ValueError (the result is not JSON, or has NaN).
        """
        raise NotImplementedError

    def fail(
        self,
        job_id: str,
        fence: int,
        *,
        code: str,
        message: str,
        retry: bool,
        death: bool = False,
        worker_id: str | None = None,
        incarnation: str | None = None,
        max_attempts: int = 3,
    ) -> JobRecord:
        """End an attempt that failed: the job waits again, or has failed for good. What came of it is in the record.

        `code` ``timeout`` ends the job as such, ``cancelled`` ends one that is to be cancelled. `death`: its worker
        died of it. A worker that began it names itself; who holds the claim may fail it without (`worker_id` alone
        says which worker died or is to be avoided). Raises Stale.
        """
        raise NotImplementedError

    def release(self, job_id: str, fence: int, *, delay: float = 0.0) -> JobRecord:
        """Give back a claim that no worker began: it waits again, after `delay` seconds. Raises Stale."""
        raise NotImplementedError

    def cancel(self, job_id: str, *, client_id: str | None = None) -> JobRecord | None:
        """Cancel a queued job at once; ask a running one's worker to stop. A final job stays what it is.

        None when there is no such job, or when it is not `client_id`'s.
        """
        raise NotImplementedError

    def sweep(self, *, max_wait: float, limit: int = 1000) -> int:
        """End what nobody will end: jobs that waited longer than `max_wait` seconds, attempts past their deadline,
        cancelled ones whose lease ended, jobs lost too often. Returns how many; cheap when there is nothing."""
        raise NotImplementedError

    def purge(self, client_id: str) -> Purged:
        """Delete all that belongs to a client, running or not. A worker that still runs one is refused with Stale."""
        raise NotImplementedError

    def expire(self, older_than_seconds: float, limit: int = 1000) -> int:
        """Delete final jobs, with results, attempts and events, that ended so long ago; usage stays. How many."""
        raise NotImplementedError
