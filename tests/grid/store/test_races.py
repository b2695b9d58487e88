"""Moves that race each other, on both databases: exactly one wins."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.store import NewJob, Stale, Store, completing, postgres, sqlite

PAIR = {"worker_id": "w", "incarnation": "i"}
RACES = 500


@pytest.mark.slow
def test_cancel_against_completion(store: Store):
    """R11: 500 jobs, each cancelled, completed and its cancellation confirmed at once."""
    ids = [store.jobs.accept(NewJob(type="noop")).job.id for _ in range(RACES)]
    for _ in range(RACES // 50):
        store.jobs.claim(types=["noop"], limit=50, lease=600, holder="d", bind=("w", "i"))
    gate = threading.Barrier(2)
    both = neither = 0

    def complete() -> list[bool]:
        won = []
        for id_ in ids:
            gate.wait(60)
            try:
                store.jobs.complete(id_, 1, **PAIR, result={}, usage={}, seconds=1)
                won.append(True)
            except Stale:
                won.append(False)
        return won

    def cancel() -> list[bool]:
        won = []
        for id_ in ids:
            gate.wait(60)
            store.jobs.cancel(id_)
            try:
                ended = store.jobs.fail(id_, 1, code="cancelled", message="", retry=False, **PAIR)
                won.append(ended.status is JobStatus.CANCELLED)
            except Stale:
                won.append(False)
        return won

    with ThreadPoolExecutor(2) as pool:
        completed, cancelled = pool.submit(complete), pool.submit(cancel)
        for id_, done, stopped in zip(ids, completed.result(), cancelled.result(), strict=True):
            both += done and stopped
            neither += not (done or stopped)
            job = store.jobs.get(id_, with_result=True)
            assert job.status is (JobStatus.COMPLETED if done else JobStatus.CANCELLED)
            assert (job.result is not None) == done
    assert (both, neither) == (0, 0)


def race_two_attempts(store: Store, *, at_once: bool) -> tuple[bool, bool, str]:
    """A frozen worker wakes up when another has the job; both complete it, at once or the old one first.

    Did the old one, did the new one, and whose result is there?
    """
    job_id = store.jobs.accept(NewJob(type="noop")).job.id
    store.jobs.claim(types=["noop"], limit=1, lease=-1, holder="d", bind=("old", "i"))
    store.jobs.claim(types=["noop"], limit=1, lease=60, holder="d", bind=("new", "i"))
    woken = threading.Barrier(2 if at_once else 1)

    def complete(fence: int, worker: str) -> bool:
        woken.wait(60)
        try:
            store.jobs.complete(
                job_id, fence, worker_id=worker, incarnation="i", result={"by": worker}, usage={}, seconds=1
            )
        except Stale:
            return False
        return True

    with ThreadPoolExecutor(2 if at_once else 1) as pool:
        old, new = pool.submit(complete, 1, "old"), pool.submit(complete, 2, "new")
        return old.result(), new.result(), store.jobs.result(job_id)["by"]


def test_only_the_attempt_under_the_fence_counts(store: Store):
    assert {race_two_attempts(store, at_once=number % 2 == 0) for number in range(20)} == {(False, True, "new")}


def test_without_the_fence_the_zombie_wins(store: Store, monkeypatch: pytest.MonkeyPatch):
    """The control: the same with the compare taken out of the compare-and-set."""
    fenced = "JOIN input USING (id, fence, worker_id, incarnation)"
    assert fenced in postgres.COMPLETE
    monkeypatch.setattr(postgres, "COMPLETE", postgres.COMPLETE.replace(fenced, "JOIN input USING (id)"))
    bare = "UPDATE jobs SET status = 'completed', completed_at = {now} WHERE id = :id AND status = 'running' "
    bare += " RETURNING *"
    monkeypatch.setattr(sqlite, "COMPLETE", bare)
    monkeypatch.setattr(completing, "_made", lambda *_: True)
    assert race_two_attempts(store, at_once=False)[2] == "old"


def test_of_many_processes_one_begins(store: Store):
    for _ in range(5):
        job_id = store.jobs.accept(NewJob(type="noop")).job.id
        store.jobs.claim(types=["noop"], limit=1, lease=60, holder="d")
        gate = threading.Barrier(10)

        def begin(number: int, job_id: str = job_id, gate: threading.Barrier = gate) -> int | None:
            gate.wait(60)
            try:
                store.jobs.begin(job_id, 1, "w", f"i{number // 2}", 60)
            except Stale:
                return None
            return number // 2

        with ThreadPoolExecutor(10) as pool:
            winners = [number for number in pool.map(begin, range(10)) if number is not None]
        assert len(winners) == 2
        assert store.jobs.get(job_id).incarnation == f"i{winners[0]}" == f"i{winners[1]}"
        assert store.jobs.get(job_id).attempts == 1
