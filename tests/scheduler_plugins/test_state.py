"""The grid as one document, and the words for what a donor does."""

import json

import dask
import pytest
from distributed import Event
from small_cluster import annotation, cluster, donor, until
from small_tasks import hold, where

from idlegrid.grid.reliability import NEUTRAL
from idlegrid.scheduler_plugins.state import VERSION, grid_state


async def test_the_document_of_a_grid_at_work():
    donors = [
        donor("b", region="europe-west", gpu_model="RTX 4090", gpu_memory_gb=24.0, gpu_count=1, max_concurrent_jobs=2),
        donor("a", max_jobs_per_hour=10),
        None,
    ]
    async with cluster(*donors) as c:
        c.plugin("b").loaded("m")
        await until(lambda: c.load("b").loaded)
        with dask.annotate(**annotation()):
            held = c.client.map(hold, ["state"] * 3, pure=False)
        with dask.annotate(**annotation(type="llm", region="oceania")):
            waiting = c.client.map(where, range(2), pure=False)
        await until(lambda: c.load("b").running == 2 and len(c.scheduler.grid.lanes) == 2)
        state = await c.client.scheduler.grid_state()
        assert json.loads(json.dumps(state)) == state
        assert (state["version"], state["problem"], state["without_facts"]) == (VERSION, None, ["stock"])
        assert state["running_by_type"] == {"embedding": 3}
        assert state["waiting_by_type"] == {"llm": 2}
        assert [row["id"] for row in state["workers"]] == ["a", "b"], "by region, then by name"
        first, second = state["workers"]
        assert (first["state"], first["reason"], first["started_last_hour"]) == ("busy", "runs 1 jobs, allows 1", 1)
        assert (second["running"], second["waiting"], second["loaded"]) == (2, 1, ["m"])
        assert second["gpu_model"] == "RTX 4090"
        assert (
            first["score"] == NEUTRAL == sum(first["terms"][term] * state["weights"][term] for term in first["terms"])
        )
        assert state["regions"]["europe-west"] | {"name": ""} == {
            "name": "", "workers": 1, "online": 0, "busy": 1, "paused": 0, "draining": 0, "running": 2, "slots": 2,
            "waiting": 0,
        }  # fmt: skip
        assert state["regions"]["oceania"]["waiting"] == len(waiting)
        await Event("state", client=c.client).set()
        await c.client.gather(held)


async def test_an_empty_grid_has_a_document_too():
    async with cluster() as c:
        state = grid_state(c.scheduler.grid)
        assert (state["workers"], state["regions"], state["running_by_type"], state["waiting_by_type"]) == (
            [],
            {},
            {},
            {},
        )


@pytest.mark.parametrize(
    ("action", "state", "reason"), [("pause", "paused", "owner"), ("drain", "draining", "finishes")]
)
async def test_an_order_is_true_when_the_answer_comes(action, state, reason):
    async with cluster(donor("a")) as c:
        row = await c.client.scheduler.grid_control(donor="a", action=action)
        assert row["state"] == state
        assert reason in row["reason"]
        assert c.plugin("a").report.paused or c.plugin("a").report.draining
        row = await c.client.scheduler.grid_control(donor="a", action="resume")
        assert (row["state"], row["reason"]) == ("online", None)


async def test_orders_that_make_no_sense():
    async with cluster(donor("alpha")) as c:
        with pytest.raises(LookupError, match="did you mean 'alpha'"):
            await c.client.scheduler.grid_control(donor="alhpa", action="pause")
        with pytest.raises(ValueError, match="unknown action 'stop': one of pause, resume, drain"):
            await c.client.scheduler.grid_control(donor="alpha", action="stop")


async def test_dasks_own_pause_is_told_from_the_owners():
    async with cluster(donor("a")) as c:
        ws = c.scheduler.workers[c.workers["a"].address]
        c.scheduler.handle_worker_status_change("paused", ws, "test")
        (row,) = grid_state(c.scheduler.grid)["workers"]
        assert (row["state"], row["reason"]) == ("paused", "its Dask worker is paused")
        c.scheduler.handle_worker_status_change("running", ws, "test")
        assert grid_state(c.scheduler.grid)["workers"][0]["state"] == "online"
