"""The life of a job as pure rules: which move is allowed, and what it changes. Instants are µs since the epoch.

Every rule takes the job as it is, the instant, and what was asked, and gives the job as it will be. The store applies
them as compare-and-sets; the property tests walk them with a clock of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .jobs import JobStatus

SECOND = 1_000_000
GRACE = 30 * SECOND
"""An attempt that its worker did not end at its timeout is ended by force so much later."""
POISON_DEATHS = 3
"""A job that killed so many distinct workers is poison."""
MAX_LOSSES = 10
"""A job whose worker fell silent so often has failed."""
HANDED_BACK, REFUSED_BY_DONOR = "handed_back", "refused_by_donor"
"""How an attempt ended that its donor gave up for the machine's owner, or never wanted: codes, and outcomes."""
MAX_HAND_BACKS = 3
"""A donor that gave up the same job so often is avoided for it."""
LONGEST_REST = 31
"""A job rests at most so many times as long as when it was refused first."""


class Stale(Exception):
    """A move came under a fence, or from a worker process, that no longer holds the job; it changed nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What the rules must know of a job."""

    created_at: int
    timeout: int
    """µs that one attempt may take."""
    status: JobStatus = JobStatus.QUEUED
    fence: int = 0
    not_before: int = 0
    holder: str | None = None
    lease_until: int | None = None
    worker_id: str | None = None
    incarnation: str | None = None
    started_at: int | None = None
    """When the running attempt began."""
    deadline: int | None = None
    completed_at: int | None = None
    attempts: int = 0
    errors: int = 0
    deaths: int = 0
    losses: int = 0
    killed: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    cancel_requested: bool = False
    error_code: str | None = None
    error: str | None = None
    outcome: str | None = field(default=None, compare=False)
    """How this move ended the attempt under `fence`; None: it ended none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is said of an attempt that failed."""

    code: str
    message: str = ""
    retry: bool = True
    death: bool = False
    """Its worker died of it."""
    worker_id: str | None = None
    incarnation: str | None = None


def claimable(job: JobState, now: int) -> bool:
    """May somebody have it: it waits and its time has come, or its lease ended and it may be tried again."""
    if job.status is JobStatus.QUEUED:
        return job.not_before <= now
    return lease_ended(job, now) and not job.cancel_requested and not overdue(job, now) and not lost_for_good(job)


def lease_ended(job: JobState, now: int) -> bool:
    """It runs, but nobody prolonged its lease."""
    return job.status is JobStatus.RUNNING and job.lease_until is not None and job.lease_until < now


def overdue(job: JobState, now: int) -> bool:
    """Its attempt held the lease beyond its deadline: the worker lives and didn't stop."""
    return job.deadline is not None and job.lease_until is not None and job.deadline < min(now, job.lease_until)


def lost_for_good(job: JobState) -> bool:
    """The present attempt was begun, and if it is lost too, it is one loss too many."""
    return job.worker_id is not None and job.losses + 1 >= MAX_LOSSES


def claim(job: JobState, now: int, *, holder: str, lease: int) -> JobState | None:
    """The job in the holder's hands under a new fence; None when it may not be claimed."""
    if not claimable(job, now):
        return None
    lost = job.status is JobStatus.RUNNING and job.worker_id is not None
    return replace(
        _put_down(job),
        status=JobStatus.RUNNING,
        fence=job.fence + 1,
        holder=holder,
        lease_until=now + lease,
        losses=job.losses + lost,
        outcome="lost" if job.status is JobStatus.RUNNING else None,
    )


def begin(job: JobState, now: int, fence: int, *, worker_id: str, incarnation: str, lease: int) -> JobState:
    """Bind the attempt to one worker process; the same one may say it again. Raises Stale."""
    _check_fence(job, fence)
    if job.worker_id is not None:
        _check_pair(job, worker_id, incarnation)
        return replace(job, lease_until=now + lease)
    return replace(
        job,
        worker_id=worker_id,
        incarnation=incarnation,
        started_at=now,
        deadline=now + job.timeout + GRACE,
        attempts=job.attempts + 1,
        lease_until=now + lease,
    )


def renew(
    job: JobState, now: int, fence: int, *, lease: int, worker_id: str | None = None, incarnation: str | None = None
) -> JobState:
    """Prolong the lease: the worker that began it, or the holder of one that has not begun. Raises Stale."""
    _check_fence(job, fence)
    _check_pair(job, worker_id, incarnation)
    return replace(job, lease_until=now + lease)


def complete(job: JobState, now: int, fence: int, *, worker_id: str, incarnation: str) -> JobState:
    """The result is there. A cancellation that came while it ran came too late. Raises Stale."""
    _check_fence(job, fence)
    _check_pair(job, worker_id, incarnation)
    return _end(job, now, JobStatus.COMPLETED, outcome="completed")


def fail(job: JobState, now: int, fence: int, failure: Failure, *, max_attempts: int) -> JobState:
    """End an attempt that failed: it waits again, or is final. Raises Stale.

    Failures are counted apart: errors of the job, deaths of workers. `max_attempts` bounds their sum; three distinct
    dead workers are poison whatever it is.
    """
    _check_fence(job, fence)
    if failure.incarnation is not None and job.worker_id is not None:
        _check_pair(job, failure.worker_id, failure.incarnation)
    worker = failure.worker_id or job.worker_id
    killer = {worker or f"unknown under fence {fence}"} if failure.death else set[str]()
    job = replace(
        job,
        errors=job.errors + (not failure.death),
        deaths=job.deaths + failure.death,
        killed=job.killed | killer,
        excluded=job.excluded | ({worker} if worker else set()),
    )
    outcome = "died" if failure.death else "failed"
    if job.cancel_requested:
        return _end(job, now, JobStatus.CANCELLED, outcome="cancelled")
    if failure.code == "timeout":
        return _end(job, now, JobStatus.TIMEOUT, "timeout", failure.message, outcome="timeout")
    if len(job.killed) >= POISON_DEATHS:
        message = f"it killed {len(job.killed)} workers, the last time: {failure.message or failure.code}"
        return _end(job, now, JobStatus.FAILED, "poisoned", message, outcome=outcome)
    if not failure.retry or job.errors + job.deaths >= max_attempts:
        return _end(job, now, JobStatus.FAILED, failure.code, failure.message, outcome=outcome)
    # the words tell why it waits again; a later end has its own
    waits = replace(_put_down(job), status=JobStatus.QUEUED, outcome=outcome)
    return replace(waits, error_code=failure.code, error=failure.message)


def hand_back(
    job: JobState,
    now: int,
    fence: int,
    *,
    worker_id: str,
    incarnation: str,
    before: int = 0,
    refused: bool = False,
    rest: int = 0,
) -> JobState:
    """Its donor needs the machine for itself, or (`refused`) may not run this: the job waits again. Raises Stale.

    Nothing is counted against the job: no donor's owner can make it fail. `before`: how often this worker gave it up
    already. It waits at once for somebody else; refused, or given up too often, it rests first for `rest` µs, longer
    each time, so that nobody who is alone here is asked for ever.
    """
    _check_fence(job, fence)
    if job.worker_id is not None:
        _check_pair(job, worker_id, incarnation)
    if job.cancel_requested:
        return _end(job, now, JobStatus.CANCELLED, outcome="cancelled")
    often = before + 1 >= MAX_HAND_BACKS
    rests = rest * min(2 * before + 1, LONGEST_REST) if refused or often else 0
    return replace(
        _put_down(job),
        status=JobStatus.QUEUED,
        not_before=now + rests,
        excluded=job.excluded | ({worker_id} if often else set()),
        outcome=REFUSED_BY_DONOR if refused else HANDED_BACK,
    )


def release(job: JobState, now: int, fence: int, *, delay: int) -> JobState:
    """Give back what no worker began. Raises Stale."""
    _check_fence(job, fence)
    if job.worker_id is not None:
        raise Stale(f"worker {job.worker_id} has begun it: it can only be completed or fail")
    if job.cancel_requested:
        return _end(job, now, JobStatus.CANCELLED, outcome="cancelled")
    return replace(_put_down(job), status=JobStatus.QUEUED, not_before=now + delay, outcome="released")


def cancel(job: JobState, now: int) -> JobState:
    """A queued job ends at once, a running one is asked to, a final one stays what it is."""
    if job.status is JobStatus.QUEUED:
        return _end(job, now, JobStatus.CANCELLED)
    return job if job.status.final else replace(job, cancel_requested=True)


def sweep(job: JobState, now: int, *, max_wait: int) -> JobState | None:
    """End a job that nobody else will end; None: there is nothing to do."""
    waited_too_long = job.created_at + max_wait < now
    if job.status is JobStatus.QUEUED and waited_too_long:
        return _end(job, now, JobStatus.TIMEOUT, "queue_timeout", "it waited too long for a worker")
    if job.status is not JobStatus.RUNNING:
        return None
    if overdue(job, now):
        message = f"its attempt on {job.worker_id} did not end within {job.timeout / SECOND:g} s"
        return _end(job, now, JobStatus.TIMEOUT, "timeout", message, outcome="timeout")
    if not lease_ended(job, now):
        return None
    if job.cancel_requested:
        return _end(job, now, JobStatus.CANCELLED, outcome="cancelled")
    if lost_for_good(job):
        job = replace(job, losses=job.losses + 1)
        return _end(job, now, JobStatus.FAILED, "lost", f"its worker fell silent {job.losses} times", outcome="lost")
    if job.worker_id is None and waited_too_long:
        return _end(job, now, JobStatus.TIMEOUT, "queue_timeout", "it waited too long for a worker", outcome="lost")
    return None


def _check_fence(job: JobState, fence: int) -> None:
    if job.status is not JobStatus.RUNNING:
        raise Stale(f"the job is {job.status}, nobody runs it")
    if job.fence != fence:
        raise Stale(f"fence {fence} is old, the job is under {job.fence}")


def _check_pair(job: JobState, worker_id: str | None, incarnation: str | None) -> None:
    if (job.worker_id, job.incarnation) != (worker_id, incarnation):
        raise Stale(
            f"it is with {_process(job.worker_id, job.incarnation)}, not with {_process(worker_id, incarnation)}"
        )


def _process(worker_id: str | None, incarnation: str | None) -> str:
    return f"process {incarnation} of worker {worker_id}" if worker_id else "its holder, not begun"


def _put_down(job: JobState) -> JobState:
    """Without anything of an attempt."""
    return replace(job, holder=None, lease_until=None, worker_id=None, incarnation=None, started_at=None, deadline=None)


def _end(
    job: JobState, now: int, status: JobStatus, code: str | None = None, error: str | None = None, *, outcome: str = ""
) -> JobState:
    return replace(
        job,
        status=status,
        completed_at=now,
        lease_until=None,
        deadline=None,
        error_code=code,
        error=error,
        outcome=outcome or None,
    )
