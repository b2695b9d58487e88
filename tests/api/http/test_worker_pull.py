"""Work for workers that ask for it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import Request
from jobs_service import EMBED, SECRET, WORKER_TOKEN, Service, Worker, claim

from idlegrid.grid.capability import check
from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.pulling import PATIENCE
from idlegrid.grid.reliability import History
from idlegrid.grid.store import By, WorkerFacts
from idlegrid.grid.tenants import Salts

pytestmark = pytest.mark.slow

LLM = {"type": "llm", "params": {"prompt": "x"}}


async def ask(client: httpx.AsyncClient, id_: str = "p-1", **query: object) -> httpx.Response:
    query = {"wait": 0, "types": "embedding", "region": "europe-west"} | query
    given = {name: value for name, value in query.items() if value is not None}
    headers = {"X-Worker-Token": WORKER_TOKEN}
    return await client.get(f"/api/v1/workers/{id_}/next-job", params=given, headers=headers)


async def submit(client: httpx.AsyncClient, body: dict | None = None, **more: object) -> str:
    answer = await client.post("/api/v1/jobs", json=(body or EMBED) | more)
    return answer.json()["job_id"]


async def test_a_job_from_the_question_to_its_end(service: Service, jobs):
    id_ = await submit(jobs, timeout_seconds=7)
    told = (await ask(jobs)).json()
    assert (told["job_id"], told["type"], told["params"]) == (id_, "embedding", EMBED["params"])
    assert (told["timeout_seconds"], told["lease_seconds"], told["fence"]) == (7.0, service.settings.jobs.lease, 1)
    assert told["max_result_bytes"] == service.settings.jobs.max_result_mb * 1_000_000
    job = service.store.jobs.get(id_)
    assert job is not None
    assert told["salt"] == Salts(SECRET).of(job.client_id)
    worker = Worker(jobs, type("C", (), {"job": job, "fence": told["fence"]}), id="p-1", token=told["attempt_token"])
    assert (await worker.begin()).status_code == 200
    assert (await worker.complete()).json() == {"status": "completed"}
    assert (await jobs.get(f"/api/v1/jobs/{id_}")).json()["worker_id"] == "p-1"


async def test_nothing_to_do_is_204(jobs):
    answer = await ask(jobs)
    assert (answer.status_code, answer.content) == (204, b"")


async def test_who_waits_gets_what_comes(service: Service, jobs):
    waiting = asyncio.create_task(ask(jobs, wait=60))
    while not service.store.workers.list():  # noqa: ASYNC110 - a thread writes it
        await asyncio.sleep(0.005)
    id_ = await submit(jobs)
    assert (await waiting).json()["job_id"] == id_


async def test_the_rules_decide(service: Service, jobs):
    await submit(jobs, LLM)
    assert (await ask(jobs)).status_code == 204, "another type"
    await submit(jobs, region="oceania", allow_cross_region=False)
    assert (await ask(jobs)).status_code == 204, "it must stay in its region"
    failed = await submit(jobs, priority=9)
    first = Worker(jobs, claim(service.store, failed), id="p-1")
    await first.begin()
    await first.fail()
    assert (await ask(jobs, "p-1")).status_code == 204, "it failed here already"
    assert (await ask(jobs, "p-2")).json()["job_id"] == failed


async def test_many_that_ask_at_once_get_different_jobs(jobs):
    ids = {await submit(jobs) for _ in range(6)}
    answers = await asyncio.gather(*(ask(jobs, f"p-{number}", wait=60) for number in range(6)))
    assert {answer.json()["job_id"] for answer in answers} == ids
    assert (await ask(jobs, "p-9")).status_code == 204


async def test_a_job_waits_a_moment_for_the_nearer_of_two_that_ask(service: Service, jobs):
    await ask(jobs, "near", region="oceania")
    id_ = await submit(jobs, region="oceania")
    assert (await ask(jobs, "far", region="europe-west")).status_code == 204
    assert (await ask(jobs, "near", region="oceania")).json()["job_id"] == id_
    other = await submit(jobs, region="oceania")
    service.store.workers.heartbeat("near", "online")  # it asks no more: the job does not wait for it for ever
    answer = await ask(jobs, "far", wait=60)
    if answer.status_code == 204:
        answer = await ask(jobs, "far", wait=PATIENCE)
    assert answer.json()["job_id"] == other


async def test_why_it_went_to_who_asked_is_kept(service: Service, jobs):
    store = service.store
    for id_, region, types in (("far", "oceania", "embedding"), ("deaf", "europe-west", "whisper")):
        store.workers.upsert(WorkerFacts(id=id_, name=id_, region=region, supported_types=frozenset({types})))
    store.workers.upsert(WorkerFacts(id="busy", name="busy", supported_types=frozenset({"embedding"}), status="busy"))
    id_ = await submit(jobs, region="europe-west")
    assert (await ask(jobs)).json()["job_id"] == id_
    (attempt,) = store.jobs.attempts(id_)
    said = {row["worker"]: row["verdict"] for row in attempt.verdicts["workers"]}
    assert said == {"p-1": "accepted", "far": "accepted", "busy": "concurrency", "deaf": "type_not_supported"}
    assert {row["path"] for row in attempt.verdicts["workers"]} == {"pull"}


async def test_who_hung_up_while_a_job_was_found_for_it_holds_nobody_up(service: Service, jobs, monkeypatch):
    id_ = await submit(jobs)
    monkeypatch.setattr(Request, "is_disconnected", gone)
    assert (await ask(jobs)).status_code == 204
    assert service.store.jobs.get(id_).status is JobStatus.QUEUED, "not when the lease ends: now"
    assert [attempt.outcome for attempt in service.store.jobs.attempts(id_)] == ["released"]


async def gone(_: Request) -> bool:
    return True


async def test_a_worker_is_remembered_with_what_it_said(service: Service, jobs):
    assert (await ask(jobs, types=None)).status_code == 422, "nobody knows what it runs"
    await ask(jobs, types="embedding,llm")
    (row,) = service.store.workers.list()
    assert (row.facts.supported_types, row.facts.region) == (frozenset({"embedding", "llm"}), "europe-west")
    id_ = await submit(jobs, LLM)
    told = (await ask(jobs, types=None, region=None)).json()
    assert told["job_id"] == id_
    assert service.store.workers.list()[0].facts.status == "busy"


async def test_the_token_outlives_the_attempt_so_that_a_kept_result_is_still_taken(jobs):
    from datetime import UTC, datetime, timedelta

    from jobs_service import SECRET

    await submit(jobs, timeout_seconds=100)
    token = (await ask(jobs)).json()["attempt_token"]
    assert check(SECRET, token, datetime.now(UTC) + timedelta(seconds=100 + 3500)).fence == 1


async def test_questions_that_make_no_sense(jobs):
    for query in ({"wait": -1}, {"wait": 61}, {"wait": "nan"}, {"types": "a b"}, {"region": "atlantis"}):
        assert (await ask(jobs, **query)).status_code == 422, query
    assert (await ask(jobs, "a%20b")).status_code == 422


def closing_in(minutes: int) -> dict[str, str]:
    """Load control of a donor whose window closes so soon."""
    now = datetime.now(UTC)
    start, end = now - timedelta(hours=1), now + timedelta(minutes=minutes)
    return {"schedule": f"daily {start:%H:%M}-{end:%H:%M}", "time_zone": "UTC"}


def took(service: Service, seconds: float) -> None:
    """Embeddings took so long lately."""
    with service.store._database.write() as session:
        session.run(
            "INSERT INTO usage (job_id, client_id, type, worker_id, seconds, held_us, at) "
            "VALUES ('old', 'c', 'embedding', 'w', 1, :us, 1)",
            {"us": round(seconds * 1e6)},
        )


@pytest.mark.parametrize("known", [True, False], ids=["known to take long", "control: of unknown length"])
async def test_no_job_is_given_that_would_not_end_before_the_window_closes(service: Service, jobs, known):
    if known:
        took(service, 1000)
    service.store.workers.upsert(WorkerFacts(id="p-1", name="p", supported_types=frozenset({"embedding"})))
    assert service.store.donors.set_config("p-1", closing_in(10), By("tests")) is not None
    id_ = await submit(jobs)
    told = (await jobs.get(f"/api/v1/jobs/{id_}/why")).json()
    assert [row["verdict"] for row in told["workers"]] == ["window_closes" if known else "accepted"]
    assert (await ask(jobs)).status_code == (204 if known else 200)
    if known:
        assert service.store.donors.set_config("p-1", closing_in(30), By("tests")) is not None
        assert (await ask(jobs)).status_code == 200, "long enough"


@pytest.mark.parametrize("scored", [True, False], ids=["scored", "control: no score"])
async def test_who_is_relied_on_gets_the_job_first(service: Service, jobs, scored):
    for id_ in ("p-1", "p-2"):
        service.store.workers.upsert(
            WorkerFacts(id=id_, name=id_, region="europe-west", supported_types=frozenset({"embedding"}))
        )
    past = {"p-1": History(jobs_failed=30, recent_failed=30.0), "p-2": History(jobs_done=30, recent_done=30.0)}
    service.store.sessions.rate(past if scored else {}, datetime.now(UTC))
    await submit(jobs)
    assert (await ask(jobs, "p-1")).status_code == (204 if scored else 200)
    assert (await ask(jobs, "p-2")).status_code == (200 if scored else 204)
