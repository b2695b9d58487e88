"""Streams of events: whole, resumable, alive, and at an end when the job is."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import pytest
import uvicorn
from jobs_service import EMBED, Patience, Service, Worker, claim

from idlegrid.api.http.jobs_door import JobDoor
from idlegrid.api.http.jobs_events import follow


def parsed(body: str) -> list[tuple[int, str, dict]]:
    """(id, event, data) of each event; fails on anything that is none."""
    found = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields.keys() == {"id", "event", "data"}:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
        else:
            assert fields.keys() <= {"retry"}, block
    return found


async def one_job(service: Service, client: httpx.AsyncClient) -> Worker:
    answer = await client.post("/api/v1/jobs", json=EMBED)
    return Worker(client, claim(service.store, answer.json()["job_id"]))


async def run(worker: Worker) -> None:
    await worker.begin()
    await worker.say("progress", progress={"done": 1, "of": 2})
    await worker.say("progress", text="Once upon")
    await worker.say("progress", tokens=[" a", " time"])
    await worker.complete()


async def test_everything_that_happens_in_order_and_then_the_end(service: Service, jobs):
    worker = await one_job(service, jobs)
    asked = asyncio.create_task(jobs.get(f"/api/v1/jobs/{worker.claim.job.id}/events"))
    await run(worker)
    async with asyncio.timeout(60):
        answer = await asked
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = parsed(answer.text)
    ids = [seq for seq, _, _ in events]
    assert ids == sorted(set(ids))
    statuses = [data["status"] for _, kind, data in events if kind == "status"]
    assert (statuses[0], statuses[-1]) == ("queued", "completed")
    assert events[-1][1] == "status", "nothing comes after the end"
    assert "".join(data["text"] for _, kind, data in events if kind == "tokens") == "Once upon a time"
    assert [data["done"] for _, kind, data in events if kind == "progress"] == [1]


async def test_who_comes_back_misses_nothing_and_hears_nothing_twice(service: Service, jobs):
    worker = await one_job(service, jobs)
    await run(worker)
    path = f"/api/v1/jobs/{worker.claim.job.id}/events"
    events = parsed((await jobs.get(path)).text)
    for number, (seq, _, _) in enumerate(events[:-1], start=1):
        again = await jobs.get(path, headers={"Last-Event-ID": str(seq)})
        assert parsed(again.text) == events[number:]
    done = await jobs.get(path, headers={"Last-Event-ID": str(events[-1][0])})
    assert (done.status_code, done.content) == (204, b""), "a browser must not come back for ever"
    for odd in ("none of ours", "-1", "9" * 30, "1e3"):
        assert parsed((await jobs.get(path, headers={"Last-Event-ID": odd})).text) == events


async def test_a_quiet_stream_shows_that_it_lives_and_ends_by_itself(store):
    service = Service(store, patience=Patience(heartbeat=0.02, stream=0.2))
    async with service.client() as client:
        worker = await one_job(service, client)
        text = (await client.get(f"/api/v1/jobs/{worker.claim.job.id}/events")).text
    assert text.startswith("retry: ")
    assert len(re.findall(r"^: still here$", text, re.MULTILINE)) >= 2
    assert [data["status"] for _, _, data in parsed(text)] == ["queued", "running"]


async def test_a_job_that_is_deleted_ends_its_stream(service: Service, jobs):
    worker = await one_job(service, jobs)
    asked = asyncio.create_task(jobs.get(f"/api/v1/jobs/{worker.claim.job.id}/events"))
    await asyncio.sleep(0)
    service.store.jobs.purge("local")
    async with asyncio.timeout(60):
        await asked


@pytest.mark.slow
async def test_events_come_while_the_job_runs_and_streams_go_with_their_clients(service: Service):
    """Over a real connection: the first token is there long before the job has ended."""
    server = uvicorn.Server(uvicorn.Config(service.app(), port=0, log_level="warning", ws="none"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            worker = await one_job(service, client)
            await worker.begin()
            async with client.stream("GET", f"/api/v1/jobs/{worker.claim.job.id}/events") as stream:
                async for line in stream.aiter_lines():
                    if line == "event: tokens":
                        break
                    if '"running"' in line:
                        await worker.say("progress", text="first")
            assert (await worker.complete()).status_code == 200, "who left disturbs nobody"
    finally:
        server.should_exit = True
        await serving


async def test_a_stream_goes_over_to_another_process(store):
    """The first one dies in mid-stream; a second one goes on behind the last event that came."""
    one, other = (JobDoor(store, Service(store).settings, secret=b"x" * 32, patience=Patience()) for _ in range(2))
    async with Service(store).client() as client:
        worker = await one_job(Service(store), client)
        first = follow(one, worker.claim.job.id, 0)
        seen = [await anext(first) for _ in range(2)]
        await first.aclose()
        (seq, _, _) = parsed(b"".join(seen).decode())[-1]
        await run(worker)
        rest = b"".join([chunk async for chunk in follow(other, worker.claim.job.id, seq)])
        whole = b"".join([chunk async for chunk in follow(other, worker.claim.job.id, 0)])
    assert parsed(b"".join(seen).decode()) + parsed(rest.decode()) == parsed(whole.decode())
