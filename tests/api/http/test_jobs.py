"""Handing in, looking at, listing and cancelling jobs over HTTP, on a real store."""

from __future__ import annotations

import asyncio
import copy

import httpx
import pytest
from jobs_service import EMBED, RESULT, Service, Worker, claim, with_settings

from idlegrid.grid.jobs import JobStatus

JOBS = "/api/v1/jobs"


def job(**changes: object) -> dict:
    return copy.deepcopy(EMBED) | changes


async def submit(client: httpx.AsyncClient, key: str | None = None, **changes: object) -> dict:
    answer = await client.post(JOBS, json=job(**changes), headers={"Idempotency-Key": key} if key else {})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_job_is_on_disk_when_it_is_accepted(service: Service, jobs):
    answer = await jobs.post(JOBS, json=job(priority=5, timeout_seconds=10, region="oceania"))
    told = answer.json()
    assert (answer.status_code, told["status"], told["queue_position"]) == (201, "queued", 1)
    assert answer.headers["location"] == f"{JOBS}/{told['job_id']}"
    assert told["estimated_wait_seconds"] is None, "nobody is here and nothing was measured"
    kept = service.store.jobs.get(told["job_id"])
    assert kept is not None
    assert kept.params == EMBED["params"]
    assert (kept.type, kept.priority, kept.timeout_seconds, kept.region) == ("embedding", 5, 10.0, "oceania")
    assert kept.client_ip == "127.0.0.1"
    assert kept.trace_id == answer.headers["x-trace-id"]


async def test_the_document_of_a_job_from_its_beginning_to_its_end(service: Service, jobs):
    id_ = (await submit(jobs))["job_id"]
    worker = Worker(jobs, claim(service.store))
    await worker.begin()
    running = (await jobs.get(f"{JOBS}/{id_}")).json()
    assert (running["status"], running["worker_id"], running["attempts"], running["result"]) == (
        "running",
        "w-1",
        1,
        None,
    )
    assert (await worker.complete()).json() == {"status": "completed"}
    done = (await jobs.get(f"{JOBS}/{id_}")).json()
    assert (done["status"], done["result"], done["error"]) == ("completed", RESULT, None)
    assert done["created_at"] <= done["started_at"] <= done["completed_at"]
    secrets = {"client_ip", "fence", "holder", "incarnation", "params", "killed", "excluded", "client_id"}
    assert not secrets & done.keys(), "what is the grid's own stays inside"


# -- idempotency --------------------------------------------------------------------------------------------------


async def test_a_repeat_under_the_same_key_is_the_first_job(service: Service, jobs):
    first = await submit(jobs, key="k-1")
    again = await jobs.post(JOBS, json=job(), headers={"Idempotency-Key": "k-1"})
    assert (again.status_code, again.json()["job_id"]) == (200, first["job_id"])
    reordered = {"params": EMBED["params"], "priority": 0, "type": "embedding"}
    again = await jobs.post(JOBS, json=reordered, headers={"Idempotency-Key": "k-1"})
    assert (again.status_code, again.json()["job_id"]) == (200, first["job_id"]), "the same request, written otherwise"
    assert len(service.store.jobs.list().items) == 1


async def test_another_request_under_the_same_key_is_refused(jobs):
    await submit(jobs, key="k-1")
    for changes in ({"priority": 1}, {"params": {"texts": ["other"]}}, {"region": "oceania"}):
        answer = await jobs.post(JOBS, json=job(**changes), headers={"Idempotency-Key": "k-1"})
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")


async def test_two_clients_may_choose_the_same_key(store):
    service = Service(store, with_settings(api={"auth": True}))
    async with service.client(service.key()) as one, service.client(service.key()) as other:
        assert (await submit(one, key="k"))["job_id"] != (await submit(other, key="k"))["job_id"]


async def test_fifty_at_once_with_one_key_make_one_job(service: Service, jobs):
    answers = await asyncio.gather(
        *(jobs.post(JOBS, json=job(), headers={"Idempotency-Key": "once"}) for _ in range(50))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert len(service.store.jobs.list().items) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "é"])
async def test_a_key_has_its_bounds(jobs, key):
    answer = await jobs.post(JOBS, json=job(), headers={"Idempotency-Key": key.encode("latin-1")})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "idempotency-key")


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (job(params={"texts": ["x", 3]}), "params.texts.1"),
        (job(params={}), "params.texts"),
        (job(params={"texts": ["x"], "textz": 1}), "params.textz"),
        (job(params={"texts": ["x"], "dimensions": 0}), "params.dimensions"),
        (job(params=[]), "params"),
        (job(priority=101), "priority"),
        (job(priority=-101), "priority"),
        (job(timeout_seconds=0), "timeout_seconds"),
        (job(timeout_seconds=86_401), "timeout_seconds"),
        (job(region="asia"), "region"),
        (job(preferred_region="Mars"), "preferred_region"),
        (job(region="oceania", preferred_region="asia-east"), ""),
        (job(webhook="http://x"), "webhook"),
        ({"params": {}}, "type"),
        ([], ""),
    ],
)
async def test_what_is_wrong_is_told_with_its_field(jobs, body, field):
    answer = await jobs.post(JOBS, json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "urn:idlegrid:problem:invalid_request"
    assert [error["field"] for error in problem["errors"]] == [field]
    assert problem["errors"][0]["location"] == "body"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e999"])
async def test_numbers_that_are_no_json_are_refused(jobs, literal):
    body = f'{{"type": "llm", "params": {{"prompt": "x"}}, "timeout_seconds": {literal}}}'
    answer = await jobs.post(JOBS, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000"])
async def test_odd_texts_never_break_the_store(service: Service, jobs, text):
    body = f'{{"type": "embedding", "params": {{"texts": ["{text}"]}}}}'
    answer = await jobs.post(JOBS, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (201, 422)
    if answer.status_code == 201:
        kept = service.store.jobs.get(answer.json()["job_id"])
        assert kept is not None
        assert kept.params["texts"] == ["\0"]


async def test_an_unknown_type_is_told_with_the_nearest(jobs):
    answer = await jobs.post(JOBS, json=job(type="embeding"))
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_job_type")
    assert "Did you mean 'embedding'?" in answer.json()["detail"]


async def test_a_body_that_is_something_else(jobs):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await jobs.post(JOBS, content=b'{"type": "embedding"}', headers={"content-type": kind})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert (await jobs.post(JOBS)).status_code in (415, 422), "none at all"


async def test_a_torn_body_and_a_large_one(jobs):
    answer = await jobs.post(JOBS, content=b'{"type"', headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")
    answer = await jobs.post(JOBS, json=job(params={"texts": ["x" * 60_000]}))
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


async def test_a_full_queue_is_429(store):
    service = Service(store, with_settings(jobs={"max_queued": 2}))
    async with service.client() as client:
        for _ in range(2):
            await submit(client)
        answer = await client.post(JOBS, json=job())
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0


# -- order, region ------------------------------------------------------------------------------------------------


async def test_higher_priority_goes_first(service: Service, jobs):
    low, normal, high = [(await submit(jobs, priority=priority))["job_id"] for priority in (-1, 0, 1)]
    assert [claim(service.store).job.id for _ in range(3)] == [high, normal, low]


@pytest.mark.parametrize(
    ("address", "given", "region"),
    [
        ("203.0.113.9", {}, "oceania"),
        ("203.0.113.9", {"preferred_region": "asia-east"}, "asia-east"),
        ("8.8.8.8", {}, None),
    ],
)
async def test_the_region_follows_from_the_clients_address(store, address, given, region):
    settings = with_settings(regions={"networks": {"203.0.113.0/24": "oceania"}})
    async with Service(store, settings, client_address=address).client() as client:
        assert (await submit(client, **given))["region"] == region


@pytest.mark.parametrize(("trusted", "region"), [("127.0.0.0/8", "oceania"), ("10.0.0.0/8", None)])
async def test_a_proxy_is_believed_only_if_it_is_trusted(store, trusted, region):
    settings = with_settings(
        api={"trusted_proxies": trusted}, regions={"networks": {"203.0.113.0/24": "oceania", "6.6.6.6/32": "asia-east"}}
    )
    async with Service(store, settings).client() as client:
        client.headers["X-Forwarded-For"] = "6.6.6.6, 203.0.113.9"
        assert (await submit(client))["region"] == region


# -- lists, cancel, isolation -------------------------------------------------------------------------------------


async def test_pages_lead_through_all_jobs_newest_first(jobs):
    ids = [(await submit(jobs))["job_id"] for _ in range(7)]
    seen, cursor = [], None
    while True:
        page = (await jobs.get(JOBS, params={"limit": 3} | ({"cursor": cursor} if cursor else {}))).json()
        assert len(page["jobs"]) <= 3
        seen += [row["job_id"] for row in page["jobs"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == ids[::-1]


async def test_lists_by_status_and_type(service: Service, jobs):
    waits = (await submit(jobs, type="llm", params={"prompt": "x"}))["job_id"]
    cancelled = (await submit(jobs))["job_id"]
    await jobs.delete(f"{JOBS}/{cancelled}")
    for query, expected in [
        ({"status": "cancelled"}, [cancelled]),
        ({"type": "llm"}, [waits]),
        ({"type": "whisper"}, []),
    ]:
        assert [row["job_id"] for row in (await jobs.get(JOBS, params=query)).json()["jobs"]] == expected


@pytest.mark.parametrize(
    "query", [{"status": "done"}, {"limit": 0}, {"limit": 201}, {"cursor": "a page"}, {"cursor": "x"}, {"type": "\0"}]
)
async def test_a_list_that_makes_no_sense(jobs, query):
    answer = await jobs.get(JOBS, params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["location"] == "query"


async def test_cancel_waiting_running_and_ended(service: Service, jobs):
    waiting = (await submit(jobs))["job_id"]
    assert (await jobs.delete(f"{JOBS}/{waiting}")).json()["status"] == "cancelled"
    running = (await submit(jobs))["job_id"]
    worker = Worker(jobs, claim(service.store))
    assert (await worker.begin()).json()["cancel"] is False
    told = (await jobs.delete(f"{JOBS}/{running}")).json()
    assert (told["status"], told["cancel_requested"]) == ("running", True)
    assert (await worker.say("progress")).json()["cancel"] is True, "its worker hears of it"
    assert (await worker.fail("cancelled", retry=False)).json() == {"status": "cancelled"}
    assert (await jobs.delete(f"{JOBS}/{running}")).json()["status"] == "cancelled", "an ended job stays as it is"


@pytest.mark.parametrize("id_", ["0" * 32, "no-such-job", "%00", "a%2Fb", "x" * 500, "é"])
async def test_an_id_that_is_none_is_404(jobs, id_):
    for path in (f"{JOBS}/{id_}", f"{JOBS}/{id_}/events", f"{JOBS}/{id_}/why"):
        answer = await jobs.get(path)
        assert (answer.status_code, answer.json()["code"]) in [(404, "job_not_found"), (404, "unknown_url")]
    assert (await jobs.delete(f"{JOBS}/{id_}")).status_code == 404


async def test_a_stranger_sees_nothing_of_a_clients_jobs(store):
    service = Service(store, with_settings(api={"auth": True}))
    async with service.client(service.key()) as owner, service.client(service.key()) as stranger:
        id_ = (await submit(owner))["job_id"]
        routes = [
            (method.upper(), path)
            for path, methods in service.app().openapi()["paths"].items()
            for method in methods
            if "{job_id}" in path and "{worker_id}" not in path
        ]
        assert len(routes) >= 4
        for method, path in routes:
            answer = await stranger.request(method, path.replace("{job_id}", id_))
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found"), (method, path)
        assert (await stranger.get(JOBS)).json()["jobs"] == []
        assert (await owner.get(f"{JOBS}/{id_}")).json()["status"] == "queued"
        async with service.client(service.key("jobs", "admin")) as admin:
            assert (await admin.get(f"{JOBS}/{id_}")).json()["job_id"] == id_, "an administrator sees everybody's"


# -- several processes, and a store that is away ------------------------------------------------------------------


async def test_nothing_in_memory_matters(store):
    """Two services over one store are one service."""
    async with Service(store).client() as one, Service(store).client() as other:
        id_ = (await submit(one, key="k"))["job_id"]
        again = await other.post(JOBS, json=job(), headers={"Idempotency-Key": "k"})
        assert again.json()["job_id"] == id_
        worker = Worker(one, claim(store))
        await worker.begin()
        worker.client = other
        await worker.complete()
        assert (await one.get(f"{JOBS}/{id_}")).json()["status"] == JobStatus.COMPLETED


async def test_a_store_that_is_away_is_503_everywhere(store, tmp_path):
    service = Service(store, with_settings(database={"timeout": 0.2}))
    async with service.client() as client:
        id_ = (await submit(client))["job_id"]
        worker = Worker(client, claim(store))
        store.close()
        for file in tmp_path.glob("grid.db*"):
            file.unlink()
        (tmp_path / "grid.db").mkdir()  # whoever opens it now can't
        calls = [
            ("POST", JOBS, job()),
            ("POST", f"{JOBS}/sync", job()),
            ("GET", JOBS, None),
            ("GET", f"{JOBS}/{id_}", None),
        ]
        calls += [("DELETE", f"{JOBS}/{id_}", None), ("GET", f"{JOBS}/{id_}/events", None), ("GET", "/readyz", None)]
        calls += [
            ("GET", f"{JOBS}/{id_}/why", None),
            ("GET", "/api/v1/queue/stats?region=oceania", None),
            ("GET", "/api/v1/state", None),
        ]
        answers = [await client.request(method, path, json=body) for method, path, body in calls]
        answers += [await worker.begin(), await worker.complete()]
        for answer in answers:
            assert answer.status_code == 503, (answer.request.url, answer.text)
            assert int(answer.headers["retry-after"]) > 0
            assert "sqlite" not in answer.text.lower(), "nothing internal leaks"
