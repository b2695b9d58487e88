"""Workers and what their attempts say of them."""

from __future__ import annotations

import pytest
from store_helpers import claim_one

from idlegrid.grid.store import NewJob, Store, WorkerFacts


def test_what_a_worker_says_is_kept(store: Store):
    facts = WorkerFacts(
        id="w",
        name="n",
        region="oceania",
        gpu_model="T4",
        gpu_memory_gb=16,
        supported_types=frozenset({"llm", "embedding"}),
    )
    first = store.workers.upsert(facts)
    again = store.workers.upsert(WorkerFacts(id="w", name="new", status="draining"))
    assert first.facts == facts
    assert (first.total_jobs, first.success_rate, first.avg_latency_ms) == (0, None, None)
    assert (again.facts.name, again.facts.status, again.registered_at) == ("new", "draining", first.registered_at)
    assert store.workers.heartbeat("w", "busy")
    assert not store.workers.heartbeat("x")
    assert store.workers.get("x") is None
    assert store.workers.get("w").facts.status == "busy"
    [listed] = store.workers.list()
    assert listed.facts.status == "busy"
    assert listed.last_heartbeat >= again.last_heartbeat


def test_its_record_comes_from_its_attempts(store: Store):
    store.workers.upsert(WorkerFacts(id="w", name="n"))
    for good in (True, True, True, False):
        job_id = store.jobs.accept(NewJob(type="noop")).job.id
        claim_one(store, job_id)
        store.jobs.begin(job_id, 1, "w", "i", 30)
        pair = {"worker_id": "w", "incarnation": "i"}
        if good:
            store.jobs.complete(job_id, 1, **pair, result={}, usage=None, seconds=1)
        else:
            store.jobs.fail(job_id, 1, code="error", message="", retry=True, **pair)
    [record] = store.workers.list()
    assert record.total_jobs == 3
    assert record.success_rate == pytest.approx(0.75)
    assert record.avg_latency_ms > 0
