"""The grid as one document."""

from __future__ import annotations

from jobs_service import EMBED, Says, Service, hand

from idlegrid.grid.store import Store, WorkerFacts


async def test_queue_scheduler_and_workers_in_one_document(store: Store):
    store.workers.upsert(WorkerFacts(id="p", name="p", region="oceania", supported_types=frozenset({"llm"})))
    async with Service(store, oracle=Says([hand("d")])).client() as client:
        await client.post("/api/v1/jobs", json=EMBED)
        told = (await client.get("/api/v1/state")).json()
    assert told["version"] == 1
    assert told["queue"]["total_queued"] == 1
    assert told["scheduler"]["workers"][0]["id"] == "d"
    assert told["silent"] is None
    assert [(row["id"], row["status"], row["supported_types"]) for row in told["workers"]] == [("p", "online", ["llm"])]


async def test_a_silent_scheduler_does_not_silence_the_rest(jobs):
    told = (await jobs.get("/api/v1/state")).json()
    assert (told["scheduler"], told["silent"]) == (None, "this service has no scheduler")
    assert told["queue"]["total_queued"] == 0
