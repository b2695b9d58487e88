"""Both clients against the real service over a real store."""

from __future__ import annotations

import asyncio
import threading

import pytest
from jobs_service import Service, with_settings
from live_service import RESULT, claim, complete, proxied, serving

from idlegrid.api.client import JobFailed, Refused, WaitTimedOut
from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.store import open_store

pytestmark = pytest.mark.slow
TEXTS = [f"word {number}\u2028é " for number in range(60)]
PARAMS = {"texts": ["a lease", "a fence"]}


@pytest.fixture
def store(sqlite_url):
    with open_store(sqlite_url) as store:
        yield store


@pytest.fixture
def url(store):
    with serving(Service(store)) as url:
        yield url


@pytest.fixture
def worker(store):
    """Does every job that comes, until the test is over."""
    over = threading.Event()

    def work():
        while not over.wait(0.01):
            for claimed in store.jobs.claim(types=["embedding"], limit=4, lease=60, holder="tests"):
                store.jobs.begin(claimed.job.id, claimed.fence, "w-1", "i-1", 60)
                complete(store, claimed)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()


async def test_from_submission_to_result(connect, url, worker):
    grid = connect(url)
    found = await grid.call("embed", ["a lease"])
    assert (found.embeddings, found.dimensions, found.usage.total_tokens) == ([[0.6, 0.8]], 2, 4)
    job = await grid.call("submit", "embedding", PARAMS, priority=3)
    done = await grid.call("wait", job, timeout=60)
    assert (done.status, done.result, done.worker_id, done.attempts) == (JobStatus.COMPLETED, RESULT, "w-1", 1)
    assert done.created_at <= done.started_at <= done.completed_at
    kinds = [event.data["status"] for event in await grid.take(None, job)]
    assert kinds == ["queued", "running", "completed"]
    assert await grid.take(None, job, after=10**9) == []


async def test_a_job_that_waits(connect, url):
    grid = connect(url)
    job = await grid.call("submit", "embedding", PARAMS)
    assert (job.status, job.queue_position) == (JobStatus.QUEUED, 1)
    with pytest.raises(WaitTimedOut):
        await grid.call("wait", job, timeout=0.3)
    assert (await grid.call("queue")).total_queued == 1
    why = await grid.call("why", job)
    assert (why.job_id, why.status) == (job.id, JobStatus.QUEUED)
    assert why.summary
    page = await grid.call("jobs", status="queued", type="embedding")
    assert ([it.id for it in page.jobs], page.next_cursor) == ([job.id], None)
    assert (await grid.call("cancel", job)).status is JobStatus.CANCELLED
    assert (await grid.call("wait", job)).status is JobStatus.CANCELLED


async def test_a_job_that_fails(connect, url, store):
    grid = connect(url)
    waiting = asyncio.create_task(grid.call("embed", "a lease", idempotency_key="one"))
    while not (queued := store.jobs.list(status=JobStatus.QUEUED).items):  # noqa: ASYNC110 - another thread's doing
        await asyncio.sleep(0.01)
    claimed = claim(store, queued[0].id)
    store.jobs.fail(
        claimed.job.id,
        claimed.fence,
        code="invalid_params",
        message="too long",
        retry=False,
        worker_id="w-1",
        incarnation="i-1",
    )
    with pytest.raises(JobFailed, match="too long") as failure:
        await asyncio.wait_for(waiting, 60)
    assert failure.value.job.error_code == "invalid_params"


async def test_what_the_service_refuses(connect, url):
    grid = connect(url)
    for call, arguments, code in [
        ("submit", ["embeding", {}], "unknown_job_type"),
        ("submit", ["embedding", {"texts": []}], "invalid_request"),
        ("job", ["0" * 32], "job_not_found"),
        ("stream", ["0" * 32], "job_not_found"),
    ]:
        with pytest.raises(Refused) as refusal:
            await (grid.take(None, *arguments) if call == "stream" else grid.call(call, *arguments))
        assert refusal.value.code == code
    await grid.call("submit", "embedding", PARAMS, idempotency_key="k")
    with pytest.raises(Refused) as refusal:
        await grid.call("submit", "embedding", {"texts": ["other"]}, idempotency_key="k")
    assert refusal.value.code == "idempotency_conflict"


async def test_an_api_key(connect, store):
    service = Service(store, with_settings(api={"auth": True}))
    with serving(service) as url:
        with pytest.raises(Refused, match="api_key_required"):
            await connect(url).call("jobs")
        with pytest.raises(Refused, match="scope_missing"):
            await connect(url, service.key("nodes")).call("jobs")
        assert (await connect(url, service.key("jobs")).call("jobs")).jobs == ()


async def test_lost_answers_make_no_second_job(connect, url, store):
    with proxied(url) as proxy:
        proxy.lose_answers = 3
        job = await connect(proxy.url).call("submit", "embedding", PARAMS)
        assert proxy.broken == 3
    assert [it.id for it in store.jobs.list().items] == [job.id]


async def test_a_stream_whose_connection_breaks_at_the_17th_event(connect, url, store):
    """S5: no gap and no repeat, while the events are still being made."""
    with proxied(url) as proxy:
        grid = connect(proxy.url)
        job = await grid.call("submit", "embedding", PARAMS)
        proxy.break_at_event = [17, 1, 17]

        def work():
            claimed = claim(store, job.id)
            for text in TEXTS:
                store.events.append(job.id, "tokens", {"text": text})
            complete(store, claimed)

        worker = asyncio.create_task(asyncio.to_thread(work))
        events = await asyncio.wait_for(grid.take(None, job), 60)
        await worker
        assert proxy.broken == 3
    assert [event.text for event in events if event.kind == "tokens"] == TEXTS
    assert [event.data["status"] for event in events if event.kind == "status"] == ["queued", "running", "completed"]
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert [event.seq for event in events] == [event.seq for event in store.events.after(job.id, 0)]


async def test_without_last_event_id_the_same_break_repeats_events(connect, url, store, monkeypatch):
    """The control of the test before: with the client's memory off, what it saw comes again."""
    from idlegrid.api.client.calls import Calls

    honest = Calls._connection
    monkeypatch.setattr(Calls, "_connection", lambda self, job_id, after, course: honest(self, job_id, 0, course))
    with proxied(url) as proxy:
        grid = connect(proxy.url)
        job = await grid.call("submit", "embedding", PARAMS)
        complete(store, claim(store, job.id))
        proxy.break_at_event = [3]
        events = await asyncio.wait_for(grid.take(None, job), 60)
    assert len(events) > len({event.seq for event in events})
