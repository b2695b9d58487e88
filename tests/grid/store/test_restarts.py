"""R10: a worker process that is gone never keeps its job, also when its successor lives on under the same id, or when
nobody knows the worker any more."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from store_helpers import claim_one

from idlegrid.grid.store import Claim, NewJob, Stale, Store, WorkerFacts
from idlegrid.grid.store.donor_values import Beat

LEASE, MOST = 1.0, 2.0
"""Seconds: of a lease, and after it until the job is somebody else's."""
DEADLINE = 60.0

BY_WORKER = """
SELECT jobs.id FROM jobs JOIN workers ON workers.id = jobs.worker_id
WHERE jobs.status = 'running' AND workers.last_heartbeat < {now} - 30000000
"""
"""What others do, and the control: a job is stalled when its worker's row says that the worker is silent."""


def running(store: Store) -> Claim:
    """A job that process i1 of worker w runs."""
    store.workers.upsert(WorkerFacts(id="w", name="w", supported_types=frozenset({"noop"})))
    store.donors.heartbeat(Beat(worker_id="w", status="busy", incarnation="i1"))
    job = store.jobs.accept(NewJob(type="noop")).job
    claim = claim_one(store, job.id, lease=LEASE)
    store.jobs.begin(job.id, claim.fence, "w", "i1", LEASE)
    return claim


def restarted(store: Store) -> None:
    """Another process of the worker lives, and says so all the time."""
    store.donors.heartbeat(Beat(worker_id="w", status="online", incarnation="i2"))


def pruned(store: Store) -> None:
    """The worker's row is gone, with all that hangs on it."""
    with store._database.write() as session:
        session.run("DELETE FROM workers WHERE id = 'w'", {})


@pytest.mark.parametrize("gone", [restarted, pruned])
def test_a_job_of_a_process_that_is_gone_is_leased_anew(store: Store, gone):
    old = running(store)
    until = time.monotonic() + DEADLINE
    gone(store)
    stalled: list[str] = []
    while not (claims := store.jobs.claim(types=["noop"], limit=1, lease=LEASE, holder="next")):
        assert time.monotonic() < until
        if gone is restarted:
            restarted(store)
        with store._database.read() as session:
            stalled += [row["id"] for row in session.all(BY_WORKER, {})]
        time.sleep(0.02)
    [first, second] = store.jobs.attempts(old.job.id)
    assert claims[0].job.id == old.job.id
    assert (first.outcome, second.fence) == ("lost", old.fence + 1)
    began = first.begun_at
    assert began is not None
    assert second.claimed_at - began <= timedelta(seconds=LEASE + MOST)
    assert stalled == [], "the control: by its worker's row the job would never have been found"
    with pytest.raises(Stale):
        store.jobs.complete(old.job.id, old.fence, worker_id="w", incarnation="i1", result={}, usage=None, seconds=1.0)
    renewed = store.jobs.begin(old.job.id, second.fence, "w", "i2", LEASE)
    assert not renewed.cancel, "the new process of the same worker may have it"
