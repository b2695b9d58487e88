"""Handing in a job and waiting for its end."""

from __future__ import annotations

import asyncio

import httpx
from jobs_service import EMBED, RESULT, Patience, Says, Service, Worker, claim

SYNC = "/api/v1/jobs/sync"


async def claimed(service: Service, client: httpx.AsyncClient) -> Worker:
    """A worker with the job that somebody is about to hand in."""
    async with asyncio.timeout(30):
        while not service.store.jobs.peek(types=["embedding"], limit=1):  # noqa: ASYNC110 - a thread writes it
            await asyncio.sleep(0.005)
    worker = Worker(client, claim(service.store))
    await worker.begin()
    return worker


async def test_it_answers_with_the_end_of_the_job(service: Service, jobs):
    asked = asyncio.create_task(jobs.post(SYNC, json=EMBED, params={"timeout": 60}))
    await (await claimed(service, jobs)).complete()
    answer = await asked
    assert (answer.status_code, answer.json()["status"], answer.json()["result"]) == (200, "completed", RESULT)
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['job_id']}"


async def test_a_failure_is_an_end_too(service: Service, jobs):
    asked = asyncio.create_task(jobs.post(SYNC, json=EMBED))
    await (await claimed(service, jobs)).fail("invalid_params", retry=False)
    told = (await asked).json()
    assert (told["status"], told["error_code"], told["error"]) == ("failed", "invalid_params", "it broke")


async def test_when_time_runs_out_the_job_lives_on(service: Service, jobs):
    answer = await jobs.post(SYNC, json=EMBED, params={"timeout": 0.05})
    assert (answer.status_code, answer.json()["code"]) == (504, "still_running")
    id_ = answer.json()["job_id"]
    worker = Worker(jobs, claim(service.store, id_))
    await worker.begin()
    await worker.complete()
    assert (await jobs.get(f"/api/v1/jobs/{id_}")).json()["status"] == "completed"


async def test_the_service_has_its_own_limit(store):
    async with Service(store, patience=Patience(sync=0.05)).client() as client:
        assert (await client.post(SYNC, json=EMBED, params={"timeout": 3600})).status_code == 504


async def test_a_repeat_waits_for_the_first_job(service: Service, jobs):
    headers = {"Idempotency-Key": "k"}
    asked = [asyncio.create_task(jobs.post(SYNC, json=EMBED, headers=headers)) for _ in range(3)]
    await (await claimed(service, jobs)).complete()
    answers = await asyncio.gather(*asked)
    assert {answer.json()["status"] for answer in answers} == {"completed"}
    assert len({answer.json()["job_id"] for answer in answers}) == 1


async def test_without_waiting_for_a_worker(store):
    verdicts = ["accepted", "concurrency"]
    for verdict in verdicts:
        row = {"worker": "d", "name": "d", "region": None, "verdict": verdict, "detail": "", "score": 1.0}
        service = Service(store, oracle=Says(opinions=[row]))
        async with service.client() as client:
            answer = await client.post(SYNC, json=EMBED, params={"wait_for_worker": False, "timeout": 0.05})
            expected = {"accepted": (504, "still_running"), "concurrency": (503, "no_worker")}[verdict]
            assert (answer.status_code, answer.json()["code"]) == expected
    assert len(store.jobs.list().items) == 1, "who was refused left no job behind"


async def test_what_is_refused_is_refused_at_once(jobs):
    assert (await jobs.post(SYNC, json={"type": "embeding", "params": {}})).json()["code"] == "unknown_job_type"
    assert (await jobs.post(SYNC, json=EMBED, params={"timeout": "nan"})).status_code == 422
