"""Why is this task waiting? Answered for any key, with what every donor says."""

from datetime import UTC, datetime
from itertools import count

import dask
from distributed import Event
from small_cluster import HandClock, annotation, cluster, donor, until
from small_tasks import fail, hold, where

from idlegrid.scheduler_plugins import why as why_module
from idlegrid.scheduler_plugins.placer import lot


async def why(c, future):
    return await c.client.scheduler.grid_why(key=future.key)


def verdicts(answer):
    return {row["worker"]: row["verdict"] for row in answer["candidates"]}


async def test_every_donor_says_why_not():
    clock = HandClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    donors = [
        donor("busy"),
        donor("closed", working_hours_start=22, working_hours_end=6, time_zone="Europe/Berlin"),
        donor("llm", types=["llm"]),
        donor("paused"),
        donor("small", gpu_model="T4", gpu_memory_gb=8.0),
        donor("there", region="oceania"),
        donor("excluded"),
        None,
    ]
    async with cluster(*donors, clock=clock) as c:
        c.plugin("paused").pause()
        await until(lambda: c.load("paused").paused)
        with dask.annotate(**annotation()):
            held = c.client.submit(hold, "why", workers=["busy"], pure=False)
        await until(lambda: c.state(held) == "processing")
        asked = {"gpu_memory_gb": 16.0, "region": "asia-east", "allow_cross_region": False, "excluded": {"excluded"}}
        with dask.annotate(**annotation(**{**asked, "excluded": frozenset(asked["excluded"])})):
            future = c.client.submit(where, pure=False)
        await until(lambda: c.state(future) == "no-worker")
        answer = await why(c, future)
        stock = answer["candidates"][-1]
        assert verdicts(answer) == {
            "busy": "concurrency",
            "closed": "outside_working_hours",
            "llm": "type_not_supported",
            "paused": "paused",
            "small": "gpu_memory",
            "there": "wrong_region",
            "excluded": "excluded",
            stock["worker"]: "no_facts",
        }
        assert stock["name"] == "stock"
        (closed,) = [row for row in answer["candidates"] if row["worker"] == "closed"]
        assert closed["retry_at"] == "2026-03-01T21:00:00+00:00"
        assert "Europe/Berlin" in closed["detail"]
        assert (answer["version"], answer["key"], answer["state"]) == (1, future.key, "no-worker")
        assert answer["since"].startswith("2026-03-01T12:")
        assert answer["ask"]["type"] == "embedding"
        assert "nobody may take it now" in answer["summary"]
        assert "time helps at 2026-03-01T21:00" in answer["summary"]
        await Event("why", client=c.client).set()


async def test_running_finished_failed_and_unknown_tasks():
    async with cluster(donor("a")) as c:
        with dask.annotate(**annotation()):
            running = c.client.submit(hold, "answers", pure=False)
            await until(lambda: c.state(running) == "processing")
            behind = c.client.submit(where, pure=False)
            later = c.client.submit(where, pure=False)
            after = c.client.submit(where, running, pure=False)
        await until(lambda: c.state(later) == "no-worker" and c.state(after) == "waiting")
        answer = await why(c, running)
        assert (answer["state"], answer["summary"]) == ("processing", "is with a")
        assert "nobody may take it now (1 × concurrency)" in (await why(c, behind))["summary"]
        answer = await why(c, after)
        assert answer["state"] == "waiting"
        assert "waits for 1 other task (hold-" in answer["summary"]
        await Event("answers", client=c.client).set()
        await c.client.gather([running, behind, later, after])
        assert (await why(c, running))["summary"] == "finished"
        with dask.annotate(**annotation()):
            failing = c.client.submit(fail, pure=False)
        await until(lambda: failing.status == "error")
        assert "always fails" in (await why(c, failing))["summary"]
        answer = await c.client.scheduler.grid_why(key="never-heard-of")
        assert (answer["state"], answer["candidates"]) == ("unknown", [])


async def test_a_task_behind_others_and_one_for_named_workers():
    async with cluster(donor("a"), donor("b", acceptance_rate=0.1), offer_every=1e6) as c:
        c.plugin("a").pause()
        await until(lambda: c.load("a").paused)
        with dask.annotate(**annotation()):
            futures = [c.client.submit(where, key=f"key-{number}") for number in range(80)]
            drawn = next(n for n in count() if lot(f"pinned-{n}", "b", c.scheduler.grid.now, 1e6) < 0.1)
            pinned = c.client.submit(where, key=f"pinned-{drawn}", workers=["a"])
        await until(lambda: c.state(pinned) == "no-worker")
        await until(lambda: c.scheduler.grid.offers._soon is None)
        waiting = [future for future in futures if c.state(future) == "no-worker"]
        told = [await why(c, future) for future in waiting]
        assert {row["verdict"] for answer in told for row in answer["candidates"]} >= {"acceptance_rate", "paused"}
        behind = [answer["summary"] for answer in told if "waits for its turn" in answer["summary"]]
        assert behind, "those whose lot is good stand behind one whose lot isn't"
        assert verdicts(await why(c, pinned)) == {"a": "paused", "b": "excluded"}, "b's lot is good, and yet"


async def test_stock_tasks_are_named_as_such():
    async with cluster(donor("a")) as c:
        future = c.client.submit(hold, "stock answer", pure=False)
        await until(lambda: c.state(future) == "processing")
        answer = await why(c, future)
        assert "stock Dask" in answer["summary"]
        assert answer["candidates"] == []
        await Event("stock answer", client=c.client).set()


async def test_keys_that_are_tuples_come_as_lists_from_elsewhere():
    async with cluster(donor("a")) as c:
        assert why_module.grid_why(c.scheduler.grid, ["part", 0])["key"] == ("part", 0)


async def test_a_rule_that_fails_is_told_as_such(monkeypatch):
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError("a bug")

    async with cluster(donor("a", types=["llm"])) as c:
        with dask.annotate(**annotation()):
            future = c.client.submit(where, pure=False)
        await until(lambda: c.state(future) == "no-worker")
        monkeypatch.setattr(why_module, "explain", broken)
        assert verdicts(await why(c, future)) == {"a": "policy_error"}


async def test_what_is_no_task_yet_is_answered_too():
    async with cluster(donor("here"), donor("llm", types=["llm"])) as c:
        ask = annotation(model="m")["grid"]
        answer = await c.client.scheduler.grid_explain(ask=ask, key="a job")
        assert verdicts(answer) == {"here": "accepted", "llm": "type_not_supported"}
        assert not c.scheduler.tasks
