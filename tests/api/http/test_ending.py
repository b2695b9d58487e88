"""A service that ends answers whoever waits: for work, for a job's end, for events. Each would wait for a minute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from donors_service import join
from hash_embedder import HashEmbedder
from jobs_service import BASE, EMBED, SECRET, WORKER_TOKEN, Service

from idlegrid.api.http import create_app
from idlegrid.api.http.jobs_door import JobDoor, Patience

pytestmark = pytest.mark.slow

PATIENCE = Patience(sync=60, pull=60, heartbeat=60)
DEADLINE = 30.0
PULL = {"X-Worker-Token": WORKER_TOKEN}


@pytest.fixture
def door(service: Service) -> JobDoor:
    return JobDoor(service.store, service.settings, secret=SECRET, patience=PATIENCE)


@pytest.fixture
async def client(door: JobDoor) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(HashEmbedder(), door.settings, jobs=door))
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
        yield client


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - a thread writes it
            await asyncio.sleep(0.01)


async def test_whoever_waits_is_answered(service: Service, door: JobDoor, client: httpx.AsyncClient, tmp_path: Path):
    paused = await join(client, service.store, tmp_path)
    await paused.beat(status="paused")
    body = EMBED | {"region": "oceania", "allow_cross_region": False}
    job_id = (await client.post("/api/v1/jobs", json=body)).json()["job_id"]
    questions = {
        "work": client.get("/api/v1/workers/p-1/next-job?wait=60&types=llm", headers=PULL),
        "work, of one that pauses": paused.say("next-job?wait=60", method="GET"),
        "an end": client.post("/api/v1/jobs/sync?timeout=60", json=body),
        "events": client.get(f"/api/v1/jobs/{job_id}/events"),
    }
    asked = {what: asyncio.create_task(question) for what, question in questions.items()}
    await until(lambda: len(service.store.workers.list()) == 2 and len(service.store.jobs.list().items) == 2)
    done, _ = await asyncio.wait(asked.values(), timeout=0.3)
    assert not done, "they wait: the control"

    door.end_waits()
    async with asyncio.timeout(DEADLINE):
        answers = {what: await task for what, task in asked.items()}
        late = await client.get("/api/v1/workers/p-1/next-job?wait=60&types=llm", headers=PULL)
    codes = {what: answer.status_code for what, answer in answers.items()}
    assert codes == {"work": 204, "work, of one that pauses": 204, "an end": 504, "events": 200}
    assert late.status_code == 204
    assert answers["an end"].json()["code"] == "still_running"
