from __future__ import annotations

import asyncio

from idlegrid.api.http import models
from idlegrid.api.http.embedder import Readiness


async def test_the_list_and_each_model(client):
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [item["id"] for item in listed["data"]] == ["tests/hash-8", "tests/not-loaded-yet"]
    assert all(item.keys() == {"id", "object", "created", "owned_by"} for item in listed["data"])
    assert (await client.get("/v1/models/tests/hash-8")).json() == listed["data"][0]
    assert (await client.get("/v1/models/tests%2Fhash-8")).json() == listed["data"][0]
    assert (await client.get("/v1/models/hash")).json() == listed["data"][0]


async def test_ready_as_soon_as_a_worker_is_there(client, embedder):
    embedder.ready_answer = Readiness(False, "no worker has joined")
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "no worker has joined" in answer.json()["error"]["message"]
    assert (await client.get("/healthz")).status_code == 200
    embedder.ready_answer = Readiness(True)
    assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_a_yes_is_believed_for_a_second(embedder):
    now = 0.0
    served = models.Models(embedder, clock=lambda: now)
    asked = 0
    plain = embedder.ready

    async def counted(model_id=None):
        nonlocal asked
        asked += 1
        return await plain(model_id)

    embedder.ready = counted
    await asyncio.gather(*(served.check_ready("m") for _ in range(10)))
    assert asked == 1
    now = models.READY_FOR + 0.1
    await served.check_ready("m")
    assert asked == 2


async def test_a_grid_that_does_not_answer_is_not_ready(client, embedder, monkeypatch):
    async def never(model_id=None):
        await asyncio.Event().wait()

    embedder.ready = never
    monkeypatch.setattr(models, "PATIENCE", 0.01)
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "did not say" in answer.json()["error"]["message"]
