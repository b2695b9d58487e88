"""The jobs of the store: every move is a compare-and-set, every instant is the database's."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from .. import job_rules as rules
from ..job_rules import Failure, JobState, Stale
from ..jobs import JobRecord, JobStatus
from ..regions import check_region
from . import moves, reads, removal
from .accepting import Acceptor
from .completing import Completer
from .database import Database, Row
from .grouping import Grouped
from .hot import LANES, Beginning, HotMoves, Wish
from .rows import attempt, instant, record, to_json, us
from .values import Accepted, Attempt, Claim, NewJob, Page, Placement, Purged, QueueStats, Renewal


class JobStore:
    """Jobs, their attempts and results. Safe to use from many threads and many processes.

    Every method may raise StoreUnavailable. All of it is synchronous; asynchronous callers go through a thread.
    """

    def __init__(
        self, database: Database, hot: HotMoves, *, priority_step: float, told: Callable[[str], None] = lambda _: None
    ) -> None:
        """`told` is called with the id of a job that has a new event, after the commit."""
        self._database = database
        self._hot = hot
        self._told = told
        self._acceptor = Acceptor(database, hot, priority_step=priority_step)
        self._completer = Completer(database, hot)
        self._begin = Grouped(self._begin_all)

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
        return self._acceptor.accept(
            new, idempotency_key=idempotency_key, body_sha256=body_sha256, max_queued=max_queued
        )

    def known(self, client_id: str | None, key: str, body_sha256: str) -> Accepted | None:
        """The job that this client handed in under this idempotency key. Raises IdempotencyConflict as `accept`."""
        return self._acceptor.known(client_id, key, body_sha256)

    def get(self, job_id: str, *, client_id: str | None = None, with_result: bool = False) -> JobRecord | None:
        """The job; None when there is none, or when it is not `client_id`'s."""
        found = reads.one(self._database, job_id, with_result=with_result)
        if found is None or (client_id is not None and found[0]["client_id"] != client_id):
            return None
        return record(found[0], result=found[1])

    def result(self, job_id: str) -> dict[str, Any] | None:
        """The result of a completed job."""
        found = reads.one(self._database, job_id, with_result=True)
        return None if found is None else found[1]

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
        if cursor is not None and not (len(cursor) == 32 and set(cursor) <= set("0123456789abcdef")):
            raise ValueError(f"{cursor!r} is no cursor of this list: take `next_cursor` of the page before")
        wanted = {"client_id": client_id, "status": None if status is None else JobStatus(status).value, "type": type}
        rows = reads.page(self._database, wanted, limit + 1, cursor)
        more = len(rows) > limit
        return Page([record(row) for row in rows[:limit]], rows[limit - 1]["id"] if more else None)

    def position(self, job_id: str, *, limit: int = 10_000) -> int | None:
        """1 for the queued job that is next among its type, at most `limit`; None when it doesn't wait."""
        return reads.position(self._database, job_id, limit)

    def stats(self, region: str | None = None) -> QueueStats:
        """The queue, counted; with a region only what may run there."""
        return reads.stats(self._database, region)

    def attempts(self, job_id: str) -> builtins.list[Attempt]:
        """All attempts of a job, the first one first."""
        return [attempt(row) for row in reads.attempts(self._database, job_id)]

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
        if not types or limit < 1:
            return []
        worker_id, incarnation = bind or (None, None)
        wish = Wish(
            types=sorted(set(types)),
            lanes=_lanes(region),
            only=only,
            limit=limit,
            lease_us=us(lease),
            holder=holder,
            worker_id=worker_id,
            incarnation=incarnation,
        )
        with self._database.single() as session:
            rows = self._hot.claim(session, wish)
        claims = [_claim(row) for row in sorted(rows, key=lambda row: (row["due_at"], row["id"]))]
        for claim in claims:
            self._told(claim.job.id)
        return claims

    def peek(
        self, *, types: Collection[str], limit: int, region: str | None = None, only: str | None = None
    ) -> builtins.list[JobRecord]:
        """What `claim` would take now, left where it is."""
        rows = reads.claimable(self._database, sorted(set(types)), _lanes(region), limit, only)
        return [record(row) for row in rows]

    def keep_verdicts(self, placements: Sequence[Placement]) -> None:
        """Keep with each attempt what the workers said when it was placed. An attempt that is gone is left out."""
        moves.testify(self._database, placements)

    def begin(self, job_id: str, fence: int, worker_id: str, incarnation: str, lease: float) -> Renewal:
        """Bind the attempt to one worker process and prolong its lease. The same pair may say it again.

        Raises Stale: the fence is old, the job ended, or another process has begun this attempt.
        """
        row = self._begin(Beginning(job_id, fence, worker_id, incarnation, us(lease)))
        if row is None:
            raise moves.refusal(self._database, job_id, fence, worker_id, incarnation)
        return _renewal(row)

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
        said = None if progress is None else to_json(progress)
        row = moves.renew(self._database, job_id, fence, us(lease), worker_id, incarnation, said)
        if said is not None:
            self._told(job_id)
        return _renewal(row)

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
        job, now = self._completer.complete(
            job_id,
            fence,
            worker_id=worker_id,
            incarnation=incarnation,
            result=result,
            usage=usage,
            seconds=seconds,
        )
        if now:
            self._told(job_id)
        return job

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
        failure = Failure(
            code=code, message=message, retry=retry, death=death, worker_id=worker_id, incarnation=incarnation
        )
        return self._moved(job_id, lambda job, now: rules.fail(job, now, fence, failure, max_attempts=max_attempts))

    def hand_back(
        self,
        job_id: str,
        fence: int,
        *,
        worker_id: str,
        incarnation: str,
        refused: bool = False,
        why: str = "",
        rest: float = 2.0,
    ) -> JobRecord:
        """End an attempt that its donor gave up for the machine's owner, or (`refused`) may not run: the job waits
        again and nothing is counted. A worker that gave it up three times is avoided for it, and then, or when it
        refused, the job rests first: `rest` seconds, longer each time. Raises Stale."""
        row = moves.hand_back(
            self._database,
            job_id,
            fence,
            worker_id=worker_id,
            incarnation=incarnation,
            refused=refused,
            rest=us(rest),
            why=why,
        )
        if row is None:
            raise Stale("there is no such job, or it was deleted")
        self._told(job_id)
        return record(row)

    def take_back(self, worker_id: str, why: str) -> int:
        """Give what a worker has begun, or claimed by asking, to others, at once. How many jobs that were.

        It counts neither against the jobs nor against the worker.
        """
        count = 0
        for job_id, fence, incarnation in moves.held_by(self._database, worker_id):
            with suppress(Stale):  # it ended meanwhile
                self.hand_back(job_id, fence, worker_id=worker_id, incarnation=incarnation, why=why, rest=0.0)
                count += 1
        return count

    def release(self, job_id: str, fence: int, *, delay: float = 0.0) -> JobRecord:
        """Give back a claim that no worker began: it waits again, after `delay` seconds. Raises Stale."""
        return self._moved(job_id, lambda job, now: rules.release(job, now, fence, delay=us(delay)))

    def cancel(self, job_id: str, *, client_id: str | None = None) -> JobRecord | None:
        """Cancel a queued job at once; ask a running one's worker to stop. A final job stays what it is.

        None when there is no such job, or when it is not `client_id`'s.
        """
        if client_id is not None and self.get(job_id, client_id=client_id) is None:
            return None
        try:
            return self._moved(job_id, rules.cancel)
        except Stale:
            return None

    def sweep(self, *, max_wait: float, limit: int = 1000) -> int:
        """End what nobody will end: jobs that waited longer than `max_wait` seconds, attempts past their deadline,
        cancelled ones whose lease ended, jobs lost too often. Returns how many; cheap when there is nothing."""
        ended = moves.sweep(self._database, us(max_wait), limit)
        for job_id in ended:
            self._told(job_id)
        return len(ended)

    def purge(self, client_id: str) -> Purged:
        """Delete all that belongs to a client, running or not. A worker that still runs one is refused with Stale."""
        return removal.purge(self._database, client_id)

    def expire(self, older_than_seconds: float, limit: int = 1000) -> int:
        """Delete final jobs, with results, attempts and events, that ended so long ago; usage stays. How many."""
        return removal.expire(self._database, us(older_than_seconds), limit)

    def _begin_all(self, items: Sequence[Beginning]) -> Sequence[Row | None]:
        with self._database.single() as session:
            rows = {(row["id"], row["worker_id"], row["incarnation"]): row for row in self._hot.begin(session, items)}
        found = [rows.get((item.id, item.worker_id, item.incarnation)) for item in items]
        return [
            row if row is None or row["fence"] == item.fence else None for row, item in zip(found, items, strict=True)
        ]

    def _moved(self, job_id: str, rule: Callable[[JobState, int], JobState]) -> JobRecord:
        """Apply a rule. Raises Stale, also when there is no such job."""
        found = moves.change(self._database, job_id, rule)
        if found is None:
            raise Stale("there is no such job, or it was deleted")
        row, changed = found
        if changed:
            self._told(job_id)
        return record(row)


def _lanes(region: str | None) -> builtins.list[str]:
    return LANES if region is None else ["", check_region(region)]


def _renewal(row: Row) -> Renewal:
    return Renewal(instant(row["lease_until"]), bool(row["cancel_requested"]))


def _claim(row: Row) -> Claim:
    job = record(row)
    return Claim(job, job.fence, instant(row["lease_until"]), job.deaths, job.excluded)
