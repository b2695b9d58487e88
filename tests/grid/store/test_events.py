"""Events are in order, and who waits for one is told, whichever process wrote it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from store_helpers import claim_one, pass_time

from idlegrid.grid.store import NewJob, Store, open_store


def test_only_a_running_job_has_news(store: Store):
    job_id = store.jobs.accept(NewJob(type="noop")).job.id
    assert store.events.append(job_id, "tokens", {"text": "a"}) is None
    claim_one(store, job_id)
    first = store.events.append(job_id, "tokens", {"text": "a"}, fence=1)
    assert store.events.append(job_id, "tokens", {"text": "b"}, fence=0) is None
    second = store.events.append(job_id, "progress", {"done": 1})
    store.jobs.release(job_id, 1)
    assert store.events.append(job_id, "tokens", {"text": "c"}) is None
    events = store.events.after(job_id, 0)
    assert [event.kind for event in events] == ["status", "status", "tokens", "progress", "status"]
    assert [event.seq for event in events] == sorted(event.seq for event in events)
    assert [event.seq for event in events[2:4]] == [first, second]
    assert store.events.after(job_id, first, limit=1) == [events[3]]
    assert {event.job_id for event in events} == {job_id}


def test_waiting(store: Store, store_url: str):
    job_id = store.jobs.accept(NewJob(type="noop")).job.id
    assert store.events.wait(job_id, 0, 0)
    [queued] = store.events.after(job_id, 0)
    assert not store.events.wait(job_id, queued.seq, 0.05)
    with open_store(store_url, timeout=30) as other, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.events.wait, job_id, queued.seq, 60)
        claim_one(other, job_id)
        assert waiting.result(60)


def test_many_wait_with_one_thread(store: Store):
    ids = [store.jobs.accept(NewJob(type="noop")).job.id for _ in range(20)]
    seen = {id_: store.events.after(id_, 0)[-1].seq for id_ in ids}
    with ThreadPoolExecutor(21) as pool:
        waiting = [pool.submit(store.events.wait, id_, seen[id_], 60) for id_ in ids]
        never = pool.submit(store.events.wait, ids[0], 10**9, 0.5)
        for id_ in ids:
            store.jobs.cancel(id_)
        assert all(one.result(60) for one in waiting)
        assert sum(thread.name == "idlegrid-events" for thread in threading.enumerate()) <= 1
        assert not never.result(60)


def test_a_look_that_fails_is_not_the_last(store: Store, store_url: str, monkeypatch, caplog):
    job_id = store.jobs.accept(NewJob(type="noop")).job.id
    [queued] = store.events.after(job_id, 0)
    look, failed = store.events._watcher._news, threading.Event()

    def sick(waiters):
        if threading.current_thread().name == "idlegrid-events" and not failed.is_set():
            failed.set()
            raise RuntimeError("nobody foresaw it")
        return look(waiters)

    monkeypatch.setattr(store.events._watcher, "_news", sick)
    with open_store(store_url, timeout=30) as other, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.events.wait, job_id, queued.seq, 60)
        assert failed.wait(60)
        claim_one(other, job_id)
        assert waiting.result(90), "it would have waited for its whole time"
    assert "nobody foresaw it" in caplog.text


def test_closing_ends_the_wait(store: Store):
    job_id = store.jobs.accept(NewJob(type="noop")).job.id
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.events.wait, job_id, 10**9, 60)
        while not store.events._watcher._waiters:
            assert not waiting.done()
        store.events.close()
        assert waiting.result(30) is False


def test_what_the_sweep_ends_is_told(store: Store):
    job_id = store.jobs.accept(NewJob(type="noop")).job.id
    pass_time(store, 100)
    store.jobs.sweep(max_wait=10)
    assert [event.data for event in store.events.after(job_id, 0)] == [
        {"status": "queued"},
        {"status": "timeout", "error_code": "queue_timeout"},
    ]
