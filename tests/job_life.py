"""The life of jobs as a hypothesis state machine: a model of the pure rules, a clock of its own, and the laws.

`tests/grid/test_job_rules.py` runs it alone, `tests/grid/store/test_life.py` beside a store, which must do the same.
All times are chosen so that no two meet within 50 s: what a real database takes for a step changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from idlegrid.grid import job_rules as rules
from idlegrid.grid.job_rules import SECOND, Failure, JobState, Stale
from idlegrid.grid.jobs import JobStatus

STEP = 60 * SECOND
MAX_WAIT = 1050
LEASES = st.sampled_from([50, 150, 350])
WORKERS = st.sampled_from(["w1", "w2", "w3", "w4"])
INCARNATIONS = st.sampled_from(["i1", "i2"])
LATENESS = st.sampled_from([0, 0, 0, 1])
MAX_ATTEMPTS = 3


@dataclass
class ModelJob:
    """A job of the model, and what was ever true of it."""

    name: str
    number: int
    due: int
    state: JobState
    id: str = ""
    ended: JobState | None = None
    fences: list[int] = field(default_factory=lambda: [0])
    results: list[int] = field(default_factory=list)
    usage: int = 0
    began: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Fence → the first process that began it."""
    given_up: Counter[str] = field(default_factory=Counter)
    """Worker → how often it handed the job back or refused it."""


class JobLife(RuleBasedStateMachine):
    """Subclasses do each step on something real, too (`real`), and compare."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.jobs: list[ModelJob] = []

    # -- what a subclass may add

    def real(self, operation: str, job: ModelJob | None, **how: Any) -> Any:
        """Do the step on the real thing; gives what it gave, raises what it raised."""

    def compare(self, job: ModelJob) -> None:
        """The real job must be like the model's."""

    # -- steps

    @rule(priority=st.sampled_from([-2, 0, 0, 3]), timeout=st.sampled_from([120, 520]))
    def submit(self, priority: int, timeout: int) -> None:
        state = JobState(created_at=self.now, timeout=timeout * SECOND, not_before=self.now)
        number = len(self.jobs)
        job = ModelJob(f"job {number}", number, self.now - priority * STEP, state)
        self.jobs.append(job)
        job.id = self.real("accept", job, priority=priority, timeout=timeout) or job.name

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        job = self.pick(data)
        assert self.real("accept again", job) in (None, job.id)

    @rule(seconds=st.sampled_from([100, 100, 300, 1000]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.real("pass time", None, seconds=seconds)

    @rule(lease=LEASES, limit=st.integers(1, 3), bind=st.booleans(), worker=WORKERS)
    def claim(self, lease: int, limit: int, bind: bool, worker: str) -> None:
        open_jobs = [job for job in self.jobs if rules.claimable(job.state, self.now)]
        expected = sorted(open_jobs, key=lambda job: (job.due, job.number))[:limit]
        for job in expected:
            claimed = rules.claim(job.state, self.now, holder="d", lease=lease * SECOND)
            assert claimed is not None
            if bind:
                claimed = rules.begin(
                    claimed, self.now, claimed.fence, worker_id=worker, incarnation="i1", lease=lease * SECOND
                )
                job.began[claimed.fence] = (worker, "i1")
            job.state = claimed
        taken = self.real("claim", None, lease=lease, limit=limit, bind=(worker, "i1") if bind else None)
        assert taken is None or taken == [job.id for job in expected]

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), worker=WORKERS, incarnation=INCARNATIONS, lease=LEASES, late=LATENESS)
    def begin(self, data: st.DataObject, worker: str, incarnation: str, lease: int, late: int) -> None:
        job = self.pick(data, running=True)
        fence = job.state.fence - late
        how = {"worker_id": worker, "incarnation": incarnation}

        def begun() -> JobState:
            return rules.begin(job.state, self.now, fence, lease=lease * SECOND, **how)

        if self.move("begin", job, begun, fence=fence, lease=lease, **how):
            job.began.setdefault(fence, (worker, incarnation))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), lease=LEASES, late=LATENESS)
    def renew(self, data: st.DataObject, lease: int, late: int) -> None:
        job = self.pick(data, running=True)
        fence, how = job.state.fence - late, self.pair(data, job)
        self.move(
            "renew",
            job,
            lambda: rules.renew(job.state, self.now, fence, lease=lease * SECOND, **how),
            fence=fence,
            lease=lease,
            **how,
        )

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), late=LATENESS)
    def complete(self, data: st.DataObject, late: int) -> None:
        job = self.pick(data, running=True)
        fence, how = job.state.fence - late, self.pair(data, job)
        how = {"worker_id": how["worker_id"] or "w9", "incarnation": how["incarnation"] or "i9"}
        again = job.results == [fence] and (job.state.worker_id, job.state.incarnation) == tuple(how.values())

        def completed() -> JobState:
            if again:
                return job.state
            return rules.complete(job.state, self.now, fence, **how)

        if self.move("complete", job, completed, fence=fence, **how) and not again:
            assert job.began.get(fence) == tuple(how.values()), "a result of a process that never began it"
            job.results.append(fence)
            job.usage += 1

    @precondition(lambda self: self.jobs)
    @rule(
        data=st.data(),
        code=st.sampled_from(["error", "error", "timeout", "cancelled", "invalid_params"]),
        death=st.booleans(),
        late=LATENESS,
    )
    def fail(self, data: st.DataObject, code: str, death: bool, late: int) -> None:
        job = self.pick(data, running=True)
        fence, how = job.state.fence - late, self.pair(data, job)
        failure = Failure(code=code, message="m", retry=code != "invalid_params", death=death, **how)
        self.move(
            "fail",
            job,
            lambda: rules.fail(job.state, self.now, fence, failure, max_attempts=MAX_ATTEMPTS),
            fence=fence,
            failure=failure,
        )

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), refused=st.booleans(), late=LATENESS)
    def hand_back(self, data: st.DataObject, refused: bool, late: int) -> None:
        job = self.pick(data, running=True)
        fence, pair = job.state.fence - late, self.pair(data, job)
        worker = pair["worker_id"] or data.draw(WORKERS)
        how = {"worker_id": worker, "incarnation": pair["incarnation"] or "i9", "refused": refused}
        old, before = job.state, job.given_up[worker]

        def handed_back() -> JobState:
            return rules.hand_back(old, self.now, fence, before=before, rest=50 * SECOND, **how)

        if self.move("hand_back", job, handed_back, fence=fence, rest=50, **how):
            new = job.state
            job.given_up[worker] += new.status is JobStatus.QUEUED
            assert counted(new) == counted(old), "what its donor's owner did counts against the job"
            assert (worker in new.excluded - old.excluded) <= (job.given_up[worker] >= rules.MAX_HAND_BACKS)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), late=LATENESS)
    def release(self, data: st.DataObject, late: int) -> None:
        job = self.pick(data, running=True)
        fence = job.state.fence - late
        self.move(
            "release", job, lambda: rules.release(job.state, self.now, fence, delay=50 * SECOND), fence=fence, delay=50
        )

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = self.pick(data)
        self.move("cancel", job, lambda: rules.cancel(job.state, self.now))

    @rule()
    def sweep(self) -> None:
        swept = 0
        for job in self.jobs:
            new = rules.sweep(job.state, self.now, max_wait=MAX_WAIT * SECOND)
            if new is not None:
                job.state = new
                swept += 1
        assert self.real("sweep", None, max_wait=MAX_WAIT) in (None, swept)

    @rule()
    def restart(self) -> None:
        """Nothing that matters is in memory."""
        self.real("restart", None)

    # -- helpers

    def pick(self, data: st.DataObject, *, running: bool = False) -> ModelJob:
        """A job; if wanted one that runs, most of the time."""
        candidates = [job for job in self.jobs if job.state.status is JobStatus.RUNNING] if running else []
        if not candidates or data.draw(LATENESS):
            candidates = self.jobs
        return data.draw(st.sampled_from(candidates))

    def pair(self, data: st.DataObject, job: ModelJob) -> dict[str, str | None]:
        """The process that runs it, or another one."""
        if data.draw(LATENESS):
            return {"worker_id": data.draw(WORKERS), "incarnation": data.draw(INCARNATIONS)}
        return {"worker_id": job.state.worker_id, "incarnation": job.state.incarnation}

    def move(self, operation: str, job: ModelJob, model: Callable[[], JobState], **how: Any) -> bool:
        """The rule and the real thing must both do it or both refuse."""
        try:
            new = model()
        except Stale:
            try:
                self.real(operation, job, **how)
            except Stale:
                return False
            assert type(self) is JobLife or not type(self).has_real, f"{operation} was stale, and was done"
            return False
        self.real(operation, job, **how)
        job.state = replace(new, outcome=None)
        return True

    has_real = False

    # -- laws

    @invariant()
    def laws(self) -> None:
        for job in self.jobs:
            state = job.state
            if job.ended is not None:
                assert state == job.ended, "a final state changed"
            elif state.status.final:
                job.ended = state
                assert state.completed_at is not None
            assert state.fence >= job.fences[-1], "a fence fell"
            job.fences.append(state.fence)
            assert len(job.results) == job.usage == (state.status is JobStatus.COMPLETED)
            assert (state.lease_until is not None) == (state.status is JobStatus.RUNNING)
            assert (state.status is JobStatus.FAILED) <= (state.error_code is not None)
            assert state.errors + state.deaths <= MAX_ATTEMPTS
            assert state.losses <= rules.MAX_LOSSES
            assert len(state.killed) <= rules.POISON_DEATHS
            if state.status is JobStatus.QUEUED:
                assert (state.worker_id, state.holder, state.started_at, state.deadline) == (None,) * 4
                assert not state.cancel_requested
            self.compare(job)

    def teardown(self) -> None:
        """Everything that was accepted can still reach its end, whatever happened to it."""
        for job in self.jobs:
            state, now = job.state, self.now
            for _ in range(3):
                now += 10_000 * SECOND
                state = rules.sweep(state, now, max_wait=MAX_WAIT * SECOND) or state
                state = rules.claim(state, now, holder="d", lease=SECOND) or state
            now += 10_000 * SECOND
            assert (rules.sweep(state, now, max_wait=MAX_WAIT * SECOND) or state).status.final


def counted(state: JobState) -> tuple[object, ...]:
    """What may end a job sooner."""
    return state.errors, state.deaths, state.losses, state.killed, state.error_code
