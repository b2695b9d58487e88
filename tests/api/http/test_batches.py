# ruff: noqa: F401, F811 - fixtures are imported
"""Batches from the door to the output file: over a real store and a real folder, with models that need no time."""

import asyncio
import json

import numpy as np
import pytest
from batches_service import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    eventually,
    eventually_true,
    hasty,
    scene,
    texts,
    works,
)
from script_engine import TEXT

from idlegrid.api.http.embedder import Unavailable
from idlegrid.grid.batch_rules import BatchStatus


async def test_embeddings_of_a_batch_are_those_of_the_door(works):
    made = await works.batch(EMBEDDINGS, texts(25), metadata={"job": "nightly"})
    assert (made["status"], made["metadata"], made["completion_window"]) == ("validating", {"job": "nightly"}, "24h")
    done = await works.until(made, "completed")
    assert done["request_counts"] == {"total": 25, "completed": 25, "failed": 0}
    assert done["error_file_id"] is None
    assert done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
    lines = await works.content(done["output_file_id"])
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(25)]
    whole = lines[7]["response"]["body"]
    alone = (await works.client.post(EMBEDDINGS, json={"model": "hash", "input": "text 7"})).json()
    assert whole == alone
    assert lines[7]["response"]["status_code"] == 200


async def test_requests_of_every_kind_in_one_batch(works):
    bodies = [
        {"model": "hash", "input": ["a", "b"]},
        {"model": "hash", "input": [1, 2, 3], "dimensions": 4},
        {"model": "hash", "input": "c", "encoding_format": "base64"},
        {"model": "nothing", "input": "c"},
        {"model": "hash", "input": "long text"},
        {"model": "hash", "input": "crash"},
        {"model": "hash"},
        {"model": "hash", "input": []},
        {"model": "hash", "input": "d", "surprise": 1},
    ]
    done = await works.until(await works.batch(EMBEDDINGS, bodies), "completed")
    assert done["request_counts"] == {"total": 9, "completed": 3, "failed": 6}
    good = {line["custom_id"]: line["response"]["body"] for line in await works.content(done["output_file_id"])}
    assert list(good) == ["r0", "r1", "r2"]
    assert [len(item["embedding"]) for item in good["r0"]["data"]] == [8, 8]
    assert np.isclose(np.linalg.norm(good["r1"]["data"][0]["embedding"]), 1, atol=1e-6)
    assert isinstance(good["r2"]["data"][0]["embedding"], str)
    bad = {line["custom_id"]: line["response"] for line in await works.content(done["error_file_id"])}
    assert {name: response["status_code"] for name, response in bad.items()} == {
        "r3": 404, "r4": 400, "r5": 500, "r6": 400, "r7": 400, "r8": 400,
    }  # fmt: skip
    assert "machine room" not in json.dumps(bad)


async def test_chat_and_completions_in_the_background(works):
    message = [{"role": "user", "content": "Hi"}]
    chat = await works.until(await works.batch(CHAT, [{"model": "script", "messages": message}] * 3), "completed")
    (first, *_) = await works.content(chat["output_file_id"])
    assert first["response"]["body"]["choices"][0]["message"]["content"] == TEXT
    assert all(request.background for request in works.engine.requests)
    bodies = [{"model": "script", "prompt": "Hi", "max_tokens": 5}, {"model": "script", "prompt": "refuse"}]
    told = await works.until(await works.batch(COMPLETIONS, bodies), "completed")
    assert told["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (error,) = await works.content(told["error_file_id"])
    assert error["response"]["status_code"] == 400


@pytest.mark.parametrize(
    ("text", "codes"),
    [("{\n", [("invalid_json_line", 1)]), ("\n\n", [("empty_file", 0)])],
)
async def test_an_input_that_can_not_be_used(works, text, codes):
    failed = await works.until(await works.batch_of(text), "failed")
    assert [(problem["code"], problem["line"]) for problem in failed["errors"]["data"]] == codes
    assert failed["failed_at"] is not None


async def test_an_input_that_was_deleted(scene):
    made = await scene.batch(EMBEDDINGS, texts(3))
    await scene.client.delete(f"/v1/files/{made['input_file_id']}")
    runner = scene.runner()
    runner.start()
    failed = await scene.until(made, "failed")
    assert failed["errors"]["data"][0]["code"] == "file_not_found"
    await runner.close()


async def test_a_cancelled_batch_keeps_what_was_computed(works):
    works.engine.pause_after = 2
    works.engine.gate.clear()
    bodies = [{"model": "script", "prompt": "Hi"}] * 70
    made = await works.batch(COMPLETIONS, bodies)
    await works.until(made, "in_progress")
    await eventually_true(lambda: works.engine.requests)
    answer = await works.client.post(f"/v1/batches/{made['id']}/cancel")
    assert answer.json()["status"] in ("cancelling", "cancelled")
    ended = await works.until(made, "cancelled")
    await eventually_true(lambda: len(works.engine.aborted) == len(works.engine.requests))
    errors = await works.content(ended["error_file_id"])
    assert len(errors) == 70
    assert errors[0]["error"]["code"] == "batch_cancelled"
    assert (await works.client.post(f"/v1/batches/{made['id']}/cancel")).json()["status"] == "cancelled"


async def test_a_batch_whose_window_ends(works, monkeypatch):
    monkeypatch.setitem(__import__("idlegrid.api.http.batches", fromlist=["WINDOWS"]).WINDOWS, "24h", 0.3)
    works.embedder.gate.clear()
    ended = await works.until(await works.batch(EMBEDDINGS, texts(3)), "expired")
    assert ended["request_counts"] == {"total": 3, "completed": 0, "failed": 3}
    assert {line["error"]["code"] for line in await works.content(ended["error_file_id"])} == {"batch_expired"}


async def test_a_grid_that_is_away_is_waited_for(works):
    failures = iter([Unavailable("nobody is here"), Unavailable("nobody is here")])
    embed = works.embedder.embed

    async def sometimes(*arguments, **more):
        if (failure := next(failures, None)) is not None:
            raise failure
        return await embed(*arguments, **more)

    works.embedder.embed = sometimes
    done = await works.until(await works.batch(EMBEDDINGS, texts(2)), "completed")
    assert done["request_counts"]["completed"] == 2


async def test_another_process_goes_on_where_the_first_was(scene):
    """The first one is stopped in the middle; what it had computed is not computed again."""
    made = await scene.batch(EMBEDDINGS, texts(60))
    calls = 0
    embed = scene.embedder.embed

    async def counted(*arguments, **more):
        nonlocal calls
        calls += 1
        if calls == 3:
            scene.embedder.gate.clear()
        return await embed(*arguments, **more)

    scene.embedder.embed = counted
    first = scene.runner()
    first.start()
    await eventually(lambda: scene.get(made), lambda now: now["request_counts"]["completed"] >= 20)
    await first.close()
    computed = {one for call in scene.embedder.calls[:2] for one in call}
    scene.embedder.calls.clear()
    scene.embedder.gate.set()
    second = scene.runner()
    second.start()
    done = await scene.until(made, "completed")
    await second.close()
    again = [one for call in scene.embedder.calls for one in call]
    assert not computed & set(again)
    assert len(again) == 40
    assert [line["custom_id"] for line in await scene.content(done["output_file_id"])] == [f"r{n}" for n in range(60)]
    assert not list((scene.folder.root / "parts").iterdir())


async def test_who_may_not_run_leaves_batches_alone(scene):
    made = await scene.batch(EMBEDDINGS, texts(1))
    runner = scene.runner(may_run=lambda: False)
    runner.start()
    await asyncio.sleep(0.1)
    assert (await scene.get(made))["status"] == "validating"
    await runner.close()
    assert scene.store.batches.claim("anybody", 1) is not None


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"endpoint": "/v1/images/generations"}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"input_file_id": "file-nobody"}, 404, "input_file_id"),
        ({"metadata": {"a": "x" * 600}}, 400, "metadata"),
    ],
)
async def test_what_is_no_batch(scene, change, status, param):
    made = await scene.batch(EMBEDDINGS, texts(1))
    asked = {"input_file_id": made["input_file_id"], "endpoint": EMBEDDINGS, "completion_window": "24h"} | change
    answer = await scene.client.post("/v1/batches", json=asked)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


async def test_batches_are_listed_and_nobody_elses(scene):
    made = [await scene.batch(EMBEDDINGS, texts(1)) for _ in range(3)]
    listed = (await scene.client.get("/v1/batches", params={"limit": 2})).json()
    assert [one["id"] for one in listed["data"]] == [made[2]["id"], made[1]["id"]]
    assert listed["has_more"]
    scene.store.batches.create("somebody", EMBEDDINGS, "file-1", window=10)
    assert len((await scene.client.get("/v1/batches")).json()["data"]) == 3
    nobody = await scene.client.get("/v1/batches/batch_nobody")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "batch_not_found")
    cancelled = await scene.client.post("/v1/batches/batch_nobody/cancel")
    assert cancelled.status_code == 404
    assert made[0]["status"] == BatchStatus.VALIDATING
