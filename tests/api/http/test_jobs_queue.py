"""What the queue looks like from outside, and whether the estimated wait is right."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from jobs_service import EMBED, Says, Service, Worker, claim, hand

from idlegrid.grid.regions import REGIONS
from idlegrid.grid.store import NewJob, Store, WorkerFacts

STATS = "/api/v1/queue/stats"
LLM = {"type": "llm", "params": {"prompt": "x"}}


async def test_an_empty_grid(jobs):
    told = (await jobs.get(STATS)).json()
    assert told == {
        "total_queued": 0,
        "available_workers": 0,
        "estimated_wait_seconds": 0.0,
        "oldest_queued_seconds": None,
        "by_type": {},
    }
    assert (await jobs.get("/api/v1/jobs/stats/queue")).json() == told


async def test_what_waits_runs_and_who_is_free(store: Store):
    workers = [hand("a", slots=2, running=1), hand("b", slots=1, running=1), hand("c", state="paused")]
    service = Service(store, oracle=Says(workers))
    store.workers.upsert(WorkerFacts(id="p", name="p", region="oceania", supported_types=frozenset({"llm"})))
    async with service.client() as client:
        for body in (EMBED, EMBED, LLM):
            await client.post("/api/v1/jobs", json=body)
        await Worker(client, claim(store)).begin()
    async with service.client() as client:
        told = (await client.get(STATS)).json()
        assert (told["total_queued"], told["available_workers"]) == (2, 2)
        counts = {name: (row["queued"], row["running"]) for name, row in told["by_type"].items()}
        assert counts == {"embedding": (1, 1), "llm": (1, 0)}
        assert told["by_type"]["llm"]["available_workers"] == 2, "one behind the scheduler, one that asks for jobs"
        there = (await client.get(STATS, params={"region": "oceania"})).json()
        assert (there["available_workers"], there["total_queued"]) == (1, 2)
        assert (await client.get(STATS, params={"region": "atlantis"})).status_code == 422


async def test_regions_with_their_workers_and_distances(store: Store):
    service = Service(
        store, oracle=Says([hand("a"), hand("b"), hand("c", region="oceania"), hand("d", state="paused")])
    )
    async with service.client() as client:
        told = (await client.get("/api/v1/regions")).json()
    assert {row["code"]: row["workers_online"] for row in told["regions"] if row["workers_online"]} == {
        "europe-west": 2,
        "oceania": 1,
    }
    assert [row["code"] for row in told["regions"]] == list(REGIONS)
    assert told["distances"]["oceania"]["oceania"] == 0
    assert all(0 <= far <= 1 for row in told["distances"].values() for far in row.values())


async def test_without_a_scheduler_what_runs_tells_how_much_runs_at_once(service: Service, jobs):
    store = service.store
    for _ in range(4):
        await jobs.post("/api/v1/jobs", json=EMBED)
    for _ in range(2):
        worker = Worker(jobs, claim(store))
        await worker.begin()
        await worker.complete()
    await Worker(jobs, claim(store)).begin()
    async with service.client() as client:
        row = (await client.get(STATS)).json()["by_type"]["embedding"]
    assert row["service_seconds"] > 0
    assert row["estimated_wait_seconds"] > row["service_seconds"], "one ahead, one running, one at a time"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("slots", [2, 6])
async def test_the_estimated_wait_is_right_within_a_factor_of_two(store: Store, slots: int):
    """A real queue and workers that take 0.1 to 0.3 s: what 16 clients were told against how long they waited."""
    chance = random.Random(slots)
    oracle = Says([hand(f"w-{number}") for number in range(slots)])
    service = Service(store, oracle=oracle)
    started: dict[str, float] = {}
    stop = asyncio.Event()

    async def work(name: str, client) -> None:
        while not stop.is_set():
            claimed = await asyncio.to_thread(
                store.jobs.claim, types=["embedding"], limit=1, lease=30, holder=name, bind=(name, "i")
            )
            if not claimed:
                await asyncio.sleep(0.005)
                continue
            started[claimed[0].job.id] = time.monotonic()
            await asyncio.sleep(chance.uniform(0.1, 0.3))
            await Worker(client, claimed[0], id=name, incarnation="i").complete()

    async with service.client() as client, asyncio.TaskGroup() as group:
        for number in range(slots):
            group.create_task(work(f"w-{number}", client))
        for _ in range(20):  # so that there is something measured
            store.jobs.accept(NewJob(type="embedding", params=EMBED["params"]))
        while len(started) < 20:  # noqa: ASYNC110 - workers write it
            await asyncio.sleep(0.01)
        for _ in range(12 * slots):  # and much to wait for
            await asyncio.to_thread(store.jobs.accept, NewJob(type="embedding", params=EMBED["params"]))
        told: dict[str, tuple[float, float]] = {}
        for _ in range(16):
            answer = (await client.post("/api/v1/jobs", json=EMBED)).json()
            told[answer["job_id"]] = (time.monotonic(), answer["estimated_wait_seconds"])
        while not started.keys() >= told.keys():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        stop.set()
    waits = [(started[id_] - at, guess) for id_, (at, guess) in told.items()]
    right = sum(truth / 2 <= guess <= truth * 2 for truth, guess in waits)
    assert right >= 0.9 * len(waits), waits
    assert min(truth for truth, _ in waits) > 0.3, "they did wait"
