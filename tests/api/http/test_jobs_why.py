"""Why does this job wait? Where did it run?"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from jobs_service import EMBED, Says, Service, Worker, claim

from idlegrid.grid.store import Placement, Store, WorkerFacts
from idlegrid.grid.testimony import told

pytestmark = pytest.mark.slow

ROW = {"worker": "d-1", "name": "desk", "region": "europe-west", "detail": "", "retry_at": None, "score": None}
ACCEPTS = ROW | {"verdict": "accepted", "score": 80.0}
BUSY = ROW | {"worker": "d-2", "verdict": "concurrency", "detail": "runs 1 jobs, allows 1"}
ASLEEP = ROW | {"worker": "d-3", "verdict": "outside_working_hours", "retry_at": "2026-07-01T20:00:00+00:00"}


async def why(service: Service, worker: Worker | None = None, id_: str | None = None, **more: object) -> dict:
    async with service.client() as client:
        if id_ is None:
            id_ = (await client.post("/api/v1/jobs", json=EMBED | more)).json()["job_id"]
        answer = await client.get(f"/api/v1/jobs/{id_}/why")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_nobody_is_here(store: Store):
    told = await why(Service(store, oracle=Says()))
    assert (told["version"], told["status"], told["workers"]) == (1, "queued", [])
    assert told["summary"] == "waits: no worker is here"
    assert told["queue_position"] == 1


async def test_everybody_says_why_not(store: Store):
    told = await why(Service(store, oracle=Says(opinions=[BUSY, BUSY, ASLEEP])))
    assert told["summary"] == (
        "waits: nobody may take it now (2 × concurrency, 1 × outside_working_hours); "
        "time helps at 2026-07-01T20:00:00+00:00"
    )
    assert told["workers"][0] | {"path": "dask"} == told["workers"][0]
    assert told["workers"][0]["detail"] == "runs 1 jobs, allows 1"


async def test_somebody_may_take_it_and_others_go_first(store: Store):
    service = Service(store, oracle=Says(opinions=[BUSY, ACCEPTS]))
    told = await why(service)
    assert told["summary"] == "waits to be given to a worker: it is next"
    assert [row["verdict"] for row in told["workers"]] == ["accepted", "concurrency"], "the best first"
    assert (await why(service))["summary"] == "waits for its turn: 1 of its type go before it"


async def test_workers_that_ask_for_jobs_are_considered_too(store: Store):
    store.workers.upsert(WorkerFacts(id="p", name="p", region="oceania", supported_types=frozenset({"whisper"})))
    store.workers.upsert(WorkerFacts(id="q", name="q", region="oceania", supported_types=frozenset({"embedding"})))
    told = await why(Service(store, oracle=Says(opinions=[BUSY])))
    assert [(row["worker"], row["path"], row["verdict"]) for row in told["workers"]] == [
        ("q", "pull", "accepted"),
        ("d-2", "dask", "concurrency"),
        ("p", "pull", "type_not_supported"),
    ]
    assert told["workers"][2]["detail"] == "runs whisper; the work is embedding"


async def test_a_silent_scheduler_is_told(store: Store):
    told = await why(Service(store))
    assert told["unheard"] == "this service has no scheduler"
    assert told["summary"] == "waits: no worker is known, this service has no scheduler"


async def test_what_was_tried_is_told_and_who_failed_is_excluded(store: Store):
    oracle = Says(opinions=[ACCEPTS])
    service = Service(store, oracle=oracle)
    async with service.client() as client:
        id_ = (await client.post("/api/v1/jobs", json=EMBED)).json()["job_id"]
        worker = Worker(client, claim(store, id_))
        await worker.begin()
        told = await why(service, id_=id_)
        assert told["summary"] == "runs on w-1"
        await worker.fail("error")
        assert (await client.get(f"/api/v1/jobs/{id_}")).json()["error"] == "it broke", "while it waits again"
        told = await why(service, id_=id_)
        assert told["summary"].endswith("(tried before: 1 × failed)")
        assert told["ask"]["excluded"] == ["w-1"]
        assert oracle.asked[-1].excluded == frozenset({"w-1"})
        (attempt,) = told["attempts"]
        assert (attempt["worker_id"], attempt["outcome"], attempt["detail"]) == ("w-1", "failed", "error: it broke")
        second = Worker(client, claim(store, id_), id="w-2")
        await second.begin()
        await second.complete()
        assert (await client.get(f"/api/v1/jobs/{id_}")).json()["error"] is None
    told = await why(service, id_=id_)
    assert told["summary"] == "was completed by w-2 (tried before: 1 × failed)"
    assert (told["workers"], told["placed_at"]) == ([], None), "nobody is asked about what has ended"


async def test_what_was_said_when_it_was_placed_is_still_told_when_it_has_ended(store: Store):
    service = Service(store, oracle=Says(opinions=[ASLEEP]))
    async with service.client() as client:
        id_ = (await client.post("/api/v1/jobs", json=EMBED)).json()["job_id"]
        first, at = claim(store, id_), datetime(2026, 7, 1, 12, tzinfo=UTC)
        rows = [ACCEPTS, BUSY, *[ROW | {"worker": f"x-{n}", "verdict": "draining"} for n in range(500)]]
        store.jobs.keep_verdicts([Placement(id_, first.fence, told(rows, at, path="dask"))])
        said = await why(service, id_=id_)
        assert [row["worker"] for row in said["workers"]] == ["d-3"], "nobody began it: they are asked now"
        worker = Worker(client, first, id="d-1")
        await worker.begin()
        runs = await why(service, id_=id_)
        await worker.complete()
    ended = await why(service, id_=id_)
    for said in (runs, ended):
        assert said["placed_at"] == "2026-07-01T12:00:00Z"
        assert [(row["worker"], row["verdict"]) for row in said["workers"][:2]] == [
            ("d-1", "accepted"),
            ("d-2", "concurrency"),
        ]
        (attempt,) = said["attempts"]
        assert attempt["placement"]["workers"] == said["workers"]
        assert attempt["placement"]["others"] == {"draining": 502 - len(said["workers"])}


@pytest.mark.parametrize("cancelled_while", ["waiting", "running"])
async def test_cancelled_jobs(store: Store, cancelled_while):
    service = Service(store, oracle=Says())
    async with service.client() as client:
        id_ = (await client.post("/api/v1/jobs", json=EMBED)).json()["job_id"]
        if cancelled_while == "running":
            await Worker(client, claim(store, id_)).begin()
        await client.delete(f"/api/v1/jobs/{id_}")
    summary = (await why(service, id_=id_))["summary"]
    assert summary.startswith(
        "ended as cancelled" if cancelled_while == "waiting" else "runs on w-1, and is told to stop"
    )


async def test_the_ask_is_the_types_own(store: Store):
    told = await why(Service(store, oracle=Says()), region="oceania", allow_cross_region=False)
    assert told["ask"]["model"], "an embedding job always names its model"
    assert (told["ask"]["region"], told["ask"]["allow_cross_region"]) == ("oceania", False)
