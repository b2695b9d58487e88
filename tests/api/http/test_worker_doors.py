"""The fenced doors: whoever speaks too late, twice or out of turn changes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from jobs_service import EMBED, RESULT, Service, Worker, claim, token, with_settings

from idlegrid.grid.capability import HEADER
from idlegrid.grid.jobs import JobStatus


async def attempt(service: Service, client, id_: str = "w-1") -> Worker:
    """A claimed job, not begun."""
    answer = await client.post("/api/v1/jobs", json=EMBED)
    return Worker(client, claim(service.store, answer.json()["job_id"]), id=id_)


def status(service: Service, worker: Worker) -> JobStatus:
    job = service.store.jobs.get(worker.claim.job.id)
    assert job is not None
    return job.status


async def test_begin_renew_complete(service: Service, jobs):
    worker = await attempt(service, jobs)
    lease = service.settings.jobs.lease
    assert (await worker.begin()).json() == {"lease_seconds": lease, "cancel": False}
    assert (await worker.begin()).status_code == 200, "the same process may say it again"
    assert (await worker.say("progress", progress={"done": 3})).status_code == 200
    assert (await jobs.get(f"/api/v1/jobs/{worker.claim.job.id}")).json()["progress"] == {"done": 3}
    assert (await worker.complete(usage=RESULT["usage"])).json() == {"status": "completed"}
    assert (await worker.complete()).json() == {"status": "completed"}, "a lost answer is asked for again"
    late = await worker.say("progress")
    assert (late.status_code, late.json()["code"]) == (409, "stale")


async def test_another_process_can_not_speak_for_an_attempt(service: Service, jobs):
    worker = await attempt(service, jobs)
    twin = Worker(jobs, worker.claim, incarnation="i-2")
    assert (await worker.begin()).status_code == 200
    for answer in (await twin.begin(), await twin.say("progress"), await twin.complete(), await twin.fail()):
        assert (answer.status_code, answer.json()["code"]) == (409, "stale")
    assert status(service, worker) is JobStatus.RUNNING


async def test_who_lost_the_lease_is_refused(service: Service, jobs):
    answer = await jobs.post("/api/v1/jobs", json=EMBED)
    id_ = answer.json()["job_id"]
    frozen = Worker(jobs, claim(service.store, id_, lease=0.0), id="frozen")
    second = Worker(jobs, claim(service.store, id_), id="second")
    assert second.claim.fence == frozen.claim.fence + 1
    await second.begin()
    assert (await frozen.complete()).status_code == 409
    assert (await second.complete()).status_code == 200
    assert (await frozen.complete()).status_code == 409
    job = service.store.jobs.get(id_)
    assert job is not None
    assert job.worker_id == "second"


async def test_a_token_is_for_one_attempt_at_one_job(service: Service, jobs):
    one, other = await attempt(service, jobs), await attempt(service, jobs)
    for wrong in (other.token, token(one.claim.job.id, one.claim.fence + 1), token(one.claim.job.id, 1, -1), "", "x"):
        thief = Worker(jobs, one.claim, token=wrong or " ")
        for answer in (await thief.begin(), await thief.complete()):
            assert (answer.status_code, answer.json()["code"]) == (401, "invalid_attempt_token")
    assert (await one.begin()).status_code == 200


async def test_what_a_donor_gives_up_waits_again_and_counts_for_nothing(service: Service, jobs):
    worker = await attempt(service, jobs, "w-1")
    id_ = worker.claim.job.id
    for number in range(6):  # more often than a job may fail
        owner = f"w-{number % 3}"
        worker = Worker(jobs, worker.claim if number == 0 else claim(service.store, id_), id=owner)
        assert (await worker.begin()).status_code == 200
        assert (await worker.fail("handed_back")).json() == {"status": "queued"}
        assert (await worker.fail("handed_back")).status_code == 409, "once an attempt"
    job = service.store.jobs.get(id_)
    assert job is not None
    assert (job.errors, job.deaths, job.losses, job.excluded) == (0, 0, 0, frozenset())
    third = Worker(jobs, claim(service.store, id_), id="w-1")
    await third.begin()
    await third.fail("handed_back")
    job, tried = service.store.jobs.get(id_), service.store.jobs.attempts(id_)
    assert job is not None
    assert job.excluded == {"w-1"}, "who gave it up three times is avoided"
    assert {(one.outcome, one.detail) for one in tried} == {("handed_back", "it broke")}
    assert [one.worker_id for one in tried] == ["w-0", "w-1", "w-2", "w-0", "w-1", "w-2", "w-1"]


async def test_a_donor_refuses_what_it_never_began(service: Service, jobs):
    worker = await attempt(service, jobs, "w-1")
    answer = await worker.fail("refused_by_donor", message="outside the working hours")
    assert answer.json() == {"status": "queued"}
    job = service.store.jobs.get(worker.claim.job.id)
    assert job is not None
    assert job.not_before > datetime.now(UTC), "who is alone here is not asked again at once"
    (tried,) = service.store.jobs.attempts(job.id)
    told = (tried.outcome, tried.worker_id, tried.detail)
    assert told == ("refused_by_donor", "w-1", "outside the working hours")


async def test_failures_go_to_another_worker_until_they_are_too_many(service: Service, jobs):
    worker = await attempt(service, jobs, "w-1")
    id_ = worker.claim.job.id
    for number in (1, 2, 3):
        worker = worker if number == 1 else Worker(jobs, claim(service.store, id_), id=f"w-{number}")
        await worker.begin()
        told = (await worker.fail("error")).json()
        assert told == {"status": "failed" if number == 3 else "queued"}
    assert (await jobs.get(f"/api/v1/jobs/{id_}")).json()["attempts"] == 3


async def test_bad_parameters_are_not_tried_again(service: Service, jobs):
    worker = await attempt(service, jobs)
    await worker.begin()
    assert (await worker.fail("invalid_params", retry=False)).json() == {"status": "failed"}


@pytest.mark.parametrize(
    "result",
    [
        {},
        {**RESULT, "dimensions": "many"},
        {**RESULT, "embeddings": [["x"]]},
        {**RESULT, "embeddings": RESULT["embeddings"][:1]},
        {**RESULT, "embeddings": [[0.6, 0.8], [0.6]]},
        {**RESULT, "dimensions": 3},
        {**RESULT, "usage": None},
    ],
)
async def test_a_result_that_does_not_fit_fails_the_attempt(service: Service, jobs, result):
    worker = await attempt(service, jobs)
    await worker.begin()
    answer = await worker.complete(result=result)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_result")
    assert status(service, worker) is JobStatus.QUEUED, "another worker tries"
    record = service.store.jobs.get(worker.claim.job.id)
    assert record is not None
    assert "w-1" in record.excluded
    assert (service.store.jobs.attempts(record.id)[0].detail or "").startswith("invalid_result: ")


async def test_what_a_result_has_too_much_is_left_out(service: Service, jobs):
    worker = await attempt(service, jobs)
    await worker.begin()
    await worker.complete(result={**RESULT, "__proto__": {"admin": True}})
    assert (await jobs.get(f"/api/v1/jobs/{worker.claim.job.id}")).json()["result"] == RESULT


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e999", '"\\ud800"'])
async def test_what_is_no_json_is_no_result(service: Service, jobs, literal):
    worker = await attempt(service, jobs)
    await worker.begin()
    text = json.dumps(
        {"fence": 1, "incarnation": "i-1", "success": True, "result": {**RESULT, "embeddings": [["here"]]}}
    ).replace('"here"', literal)
    path = f"/api/v1/workers/w-1/jobs/{worker.claim.job.id}/complete"
    answer = await jobs.post(path, content=text, headers={HEADER: worker.token})
    assert answer.status_code in (400, 422), answer.text
    assert status(service, worker) is not JobStatus.COMPLETED


@pytest.mark.parametrize(
    "body",
    [
        {"success": True},
        {"success": False},
        {"success": False, "error": {"code": "Not A Code"}},
        {"success": False, "error": {"code": "error"}, "result": {}},
        {"success": True, "result": {}, "processing_time": -1},
        {"success": True, "result": {}, "more": 1},
    ],
)
async def test_words_that_make_no_sense_change_nothing(service: Service, jobs, body):
    worker = await attempt(service, jobs)
    await worker.begin()
    answer = await worker.say("complete", **body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert status(service, worker) is JobStatus.RUNNING


async def test_results_may_be_larger_than_requests_and_not_without_bound(store):
    service = Service(store, with_settings(jobs={"max_result_mb": 0.2}))
    async with service.client() as client:
        worker = await attempt(service, client)
        await worker.begin()
        huge = {**RESULT, "embeddings": [[0.25] * 40_000] * 2, "dimensions": 40_000}
        assert (await worker.complete(result=huge)).status_code == 413
        assert (await worker.say("progress", text="x" * 60_000)).status_code == 413, "only results"
        large = {**RESULT, "embeddings": [[0.25] * 10_000] * 2, "dimensions": 10_000}
        assert (await worker.complete(result=large)).status_code == 200


async def test_a_deleted_job_is_stale(service: Service, jobs):
    worker = await attempt(service, jobs)
    await worker.begin()
    service.store.jobs.purge("local")
    for answer in (await worker.say("progress", text="x"), await worker.complete(), await worker.fail()):
        assert (answer.status_code, answer.json()["code"]) == (409, "stale")
