# ruff: noqa: F401, F811 - fixtures are imported
"""What must not harm a batch: files that go, disks that are full, stores and models that are away, others, zombies."""

import asyncio
import errno
from contextlib import suppress

import pytest
from batches_service import (
    COMPLETIONS,
    EMBEDDINGS,
    eventually,
    eventually_true,
    hasty,
    scene,
    texts,
    works,
)

from idlegrid.api.batches import runner as running
from idlegrid.api.batches import work as working
from idlegrid.api.batches.clearing import Clearing
from idlegrid.api.batches.embedding_lines import EmbeddingLines
from idlegrid.api.batches.finishing import Finisher
from idlegrid.api.batches.lines import Line, Survey
from idlegrid.api.batches.llm_lines import LlmLines
from idlegrid.api.http.embedder import Unavailable
from idlegrid.api.http.models import Models
from idlegrid.grid.batch_rules import BatchStatus
from idlegrid.grid.config import Settings
from idlegrid.grid.store import StoreUnavailable

DAY = 86_400.0


@pytest.fixture
async def run(scene):
    """Starts runners, and ends them."""
    made = []

    def start(**options):
        made.append(scene.runner(**options))
        made[-1].start()
        return made[-1]

    yield start
    for runner in made:
        await runner.close()


def names(lines):
    return [line["custom_id"] for line in lines]


# ---- files


async def test_an_input_that_is_deleted_in_mid_batch_is_computed_to_its_end(scene, run):
    made = await scene.batch(EMBEDDINGS, texts(60))
    scene.embedder.gate.clear()
    first = run()
    await scene.embedder.wait_for_calls(1)
    assert (await scene.client.delete(f"/v1/files/{made['input_file_id']}")).status_code == 200
    await first.close()
    scene.embedder.gate.set()
    run()
    done = await scene.until(made, "completed")
    assert done["request_counts"] == {"total": 60, "completed": 60, "failed": 0}
    assert names(await scene.content(done["output_file_id"])) == [f"r{n}" for n in range(60)]
    assert not list((scene.folder.root / "parts").iterdir())


async def test_an_input_that_another_process_does_not_see_is_not_called_deleted(scene, run):
    made = await scene.batch(EMBEDDINGS, texts(1))
    path = scene.folder.path(made["input_file_id"])
    hidden = path.rename(path.with_name("elsewhere"))
    run()
    await eventually_true(lambda: scene.store.batches.ended(made["id"]) is None)
    assert (await scene.get(made))["status"] == "validating"
    hidden.rename(path)


async def test_files_that_are_lost_end_a_batch_with_its_window(scene, run, monkeypatch):
    monkeypatch.setitem(__import__("idlegrid.api.http.batches", fromlist=["WINDOWS"]).WINDOWS, "24h", 0.5)
    monkeypatch.setattr(running, "FIRST_PAUSE", 0.05)
    made = await scene.batch(EMBEDDINGS, texts(3))
    scene.embedder.gate.clear()
    first = run()
    await scene.embedder.wait_for_calls(1)
    await first.close()
    scene.folder.clear(made["id"])
    run()
    failed = await scene.until(made, "failed")
    assert failed["errors"]["data"][0]["code"] == "files_lost"


async def test_a_batch_that_is_cancelled_before_it_began_counts_all_its_requests(scene, run):
    made = await scene.batch(EMBEDDINGS, texts(7))
    await scene.client.post(f"/v1/batches/{made['id']}/cancel")
    run()
    ended = await scene.until(made, "cancelled")
    assert ended["request_counts"] == {"total": 7, "completed": 0, "failed": 7}
    assert len(await scene.content(ended["error_file_id"])) == 7


# ---- what is away


@pytest.mark.parametrize("what", ["disk", "store"])
async def test_what_was_computed_is_kept_until_it_can_be_written(scene, run, monkeypatch, what):
    monkeypatch.setattr(working, "AGAIN", 0.02)
    owner, name, error = {
        "disk": (scene.folder, "write_part", OSError(errno.ENOSPC, "no space left on device")),
        "store": (scene.store.batches, "add_part", StoreUnavailable("away")),
    }[what]
    real, failures = getattr(owner, name), iter([error] * 3)

    def sometimes(*arguments):
        if (failure := next(failures, None)) is not None:
            raise failure
        return real(*arguments)

    monkeypatch.setattr(owner, name, sometimes)
    made = await scene.batch(EMBEDDINGS, texts(30))
    run()
    done = await scene.until(made, "completed")
    assert done["request_counts"]["completed"] == 30
    computed = [one for call in scene.embedder.calls for one in call]
    assert len(computed) == 30, "nothing was computed twice"


async def test_requests_for_a_model_that_is_away_leave_the_room_to_others():
    async def prepare(body, client_id):
        if body["model"] == "away":
            raise Unavailable("no replica")
        raise RuntimeError  # three times, then it is told

    lines = LlmLines(prepare, asyncio.Semaphore(1))
    waits = asyncio.create_task(lines.compute([Line(1, "a", {"model": "away"})] * 3))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        (outcome,) = await lines.compute([Line(1, "a", {"model": "here"})])
    assert outcome.status == 500
    assert not waits.done()
    waits.cancel()
    with suppress(asyncio.CancelledError):
        await waits


async def test_inputs_wait_together_for_a_grid_that_is_away(works):
    failures = iter([Unavailable("nobody is here")] * 3)
    embed = works.embedder.embed

    async def sometimes(*arguments, **more):
        if (failure := next(failures, None)) is not None:
            raise failure
        return await embed(*arguments, **more)

    works.embedder.embed = sometimes
    await works.until(await works.batch(EMBEDDINGS, texts(10)), "completed")
    assert [len(call) for call in works.embedder.calls] == [10]


async def test_who_may_not_run_any_more_gives_its_batches_back(scene, run):
    made = await scene.batch(EMBEDDINGS, texts(25))
    scene.embedder.gate.clear()
    may = True
    run(may_run=lambda: may)
    await scene.embedder.wait_for_calls(1)
    may = False
    run()
    await eventually_true(lambda: scene.embedder.cancelled)
    scene.embedder.gate.set()
    assert (await scene.until(made, "completed"))["request_counts"]["completed"] == 25


# ---- others


async def test_a_long_batch_gives_way_to_another_clients(scene, run, monkeypatch):
    monkeypatch.setattr(running, "AT_ONCE", 1)
    monkeypatch.setattr(running, "TURN", 0.0)
    scene.endpoints[EMBEDDINGS].parts_at_once = 1
    embed, long = scene.embedder.embed, await scene.batch(EMBEDDINGS, texts(100))

    async def slow(*arguments, **more):
        await asyncio.sleep(0.02)
        return await embed(*arguments, **more)

    scene.embedder.embed = slow
    run()
    await scene.embedder.wait_for_calls(1)
    content = scene.folder.path(long["input_file_id"]).read_bytes().splitlines(keepends=True)[:3]
    scene.folder.write("file-of-bob", content)
    short = scene.store.batches.create("bob", EMBEDDINGS, "file-of-bob", window=DAY)
    await eventually_true(lambda: scene.store.batches.get(short.id, "bob").status is BatchStatus.COMPLETED)
    assert (await scene.get(long))["status"] == "in_progress"
    done = await scene.until(long, "completed")
    assert done["request_counts"]["completed"] == 100
    assert len([one for call in scene.embedder.calls for one in call]) == 103, "giving way costs nothing"


async def test_the_loop_serves_others_while_requests_are_checked(scene):
    turns = 0

    async def others():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    scene.embedder.gate.clear()
    endpoint = EmbeddingLines(scene.embedder, Models(scene.embedder), Settings().api)
    served = asyncio.create_task(others())
    work = asyncio.create_task(endpoint.compute([Line(n, str(n), body) for n, body in enumerate(texts(1024))]))
    await scene.embedder.wait_for_calls(1)
    assert turns >= 1024 // 32
    for task in (served, work):
        task.cancel()
    await asyncio.gather(served, work, return_exceptions=True)


async def test_no_client_has_more_than_so_many_open_batches(scene, monkeypatch):
    monkeypatch.setattr("idlegrid.api.http.batches.MOST_OPEN", 1)
    made = await scene.batch(EMBEDDINGS, texts(1))
    asked = {"input_file_id": made["input_file_id"], "endpoint": EMBEDDINGS, "completion_window": "24h"}
    full = await scene.client.post("/v1/batches", json=asked)
    assert (full.status_code, full.json()["error"]["code"]) == (429, "too_many_batches")


# ---- zombies, and what they leave


async def test_a_zombie_that_finishes_late_changes_nothing(scene, run):
    made = await scene.batch(EMBEDDINGS, texts(12))
    zombie = scene.store.batches.claim("zombie", 0.0)
    run()
    done = await scene.until(made, "completed")
    before = await scene.content(done["output_file_id"])
    files = set(scene.folder.root.iterdir())
    late = Finisher(scene.store, scene.folder, 3600.0)
    with suppress(FileNotFoundError):
        assert not await late.finish(zombie, BatchStatus.EXPIRED, Survey(offsets=[0], lines=12))
    assert await scene.content(done["output_file_id"]) == before
    assert set(scene.folder.root.iterdir()) == files


async def test_what_a_killed_process_left_is_cleared(scene, run):
    made = await scene.batch(EMBEDDINGS, texts(12))
    runner = run()
    done = await scene.until(made, "completed")
    await runner.close()
    scene.folder.write(f"file-{made['id'].removeprefix('batch_')}-7-out", [b"of who lost its lease\n"])
    left = scene.folder.root / "parts" / made["id"]
    left.mkdir()
    (left / "000000.1.out").write_bytes(b"x")
    strange = scene.folder.root / "parts" / "batch_of-another-grid"
    strange.mkdir()
    Clearing(scene.store, scene.folder, DAY).look(0.0)
    assert not left.exists()
    assert strange.exists()
    kept = {path.name for path in scene.folder.root.iterdir() if path.is_file()}
    assert kept == {made["input_file_id"], done["output_file_id"]}


async def test_nothing_is_kept_of_a_client_that_is_purged(scene, run):
    ended = await scene.batch(EMBEDDINGS, texts(3))
    run()
    await scene.until(ended, "completed")
    scene.embedder.gate.clear()
    await scene.batch(EMBEDDINGS, texts(3))
    await scene.embedder.wait_for_calls(2)
    purged = scene.store.jobs.purge("local")
    assert (purged.files, purged.batches) == (3, 2)
    await eventually_true(lambda: scene.embedder.cancelled)
    assert (await scene.client.get("/v1/files")).json()["data"] == []
    assert (await scene.client.get("/v1/batches")).json()["data"] == []

    async def left():
        await asyncio.to_thread(Clearing(scene.store, scene.folder, DAY).look, 0.0)
        return [path for path in scene.folder.root.rglob("*") if path.is_file()]

    await eventually(left, lambda found: not found)


async def test_batches_are_forgotten_after_their_time(scene, run):
    made = await scene.batch(EMBEDDINGS, texts(1))
    run()
    await scene.until(made, "completed")
    assert scene.store.batches.expire(0.0) == 0
    assert scene.store.batches.expire(-2 * DAY) == 1
    assert (await scene.client.get(f"/v1/batches/{made['id']}")).status_code == 404


async def test_requests_of_a_door_that_is_not_here_are_left_to_others(scene, run):
    made = await scene.batch(COMPLETIONS, [{"model": "script", "prompt": "Hi"}])
    fine = await scene.batch(EMBEDDINGS, texts(1))
    del scene.endpoints[COMPLETIONS]
    run()
    await scene.until(fine, "completed")
    assert (await scene.get(made))["status"] == "validating"
