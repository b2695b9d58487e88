"""The rules where Dask decides: exclusions, score, caps, and what happens when a rule fails."""

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime

import dask
import pytest
from distributed import Event, Scheduler, get_worker, worker_client
from small_cluster import DEADLINE, EMBED, HandClock, annotation, cluster, donor, until
from small_tasks import Gauge, fail, gauges, hold, measured, where

from idlegrid.scheduler_plugins import placer
from idlegrid.scheduler_plugins.offers import UnreadableAnnotationError
from idlegrid.scheduler_plugins.scheduler import GridMixin, GridScheduler, attach

pytestmark = pytest.mark.slow


class Here:
    """An actor that knows where it lives."""

    def __init__(self, *_args):
        self.name = get_worker().name

    def where(self):
        return self.name


def parent():
    with dask.annotate(**annotation()), worker_client() as client:
        return client.submit(where, pure=False).result(timeout=DEADLINE)


async def placed(c, count=12, **changes):
    with dask.annotate(**annotation(**changes)):
        return Counter(await c.client.gather(c.client.map(where, range(count), pure=False)))


async def test_a_task_goes_to_a_donor_that_supports_its_type_and_to_no_other():
    async with cluster(donor("a", types=["llm"]), donor("b"), None) as c:
        assert await placed(c) == {"b": 12}


async def test_the_best_score_wins_when_all_are_free():
    async with cluster(donor("far", region="america-south"), donor("near", region="europe-west")) as c:
        for _ in range(5):
            assert await placed(c, 1, region="europe-west") == {"near": 1}


async def test_a_worker_without_facts_gets_stock_tasks_but_no_grid_tasks():
    async with cluster(None) as c:
        assert await c.client.submit(where, pure=False) == "stock"
        with dask.annotate(**annotation()):
            waiting = c.client.submit(where, pure=False)
        await until(lambda: c.state(waiting) == "no-worker")
        await c.join(donor("a"))
        assert await waiting == "a"


async def test_a_preference_for_other_workers_does_not_open_the_exclusions():
    """``allow_other_workers`` makes stock Dask take any worker when none is valid."""
    async with cluster(donor("a", types=["llm"]), donor("b")) as c:
        with dask.annotate(**annotation()):
            future = c.client.submit(where, workers=["a"], allow_other_workers=True, pure=False)
        assert await future == "b"
        with dask.annotate(**annotation(type="whisper")):
            nobody = c.client.submit(where, workers=["a"], allow_other_workers=True, pure=False)
        await until(lambda: c.state(nobody) == "no-worker")


async def test_dasks_own_restrictions_hold_as_well_and_block_nobody_else():
    async with cluster(donor("a"), donor("b")) as c:
        held = Event("restricted", client=c.client)
        with dask.annotate(**annotation()):
            busy = c.client.submit(hold, "restricted", workers=["a"], pure=False)
            await until(lambda: c.state(busy) == "processing")
            pinned = c.client.submit(where, workers=["a"], pure=False)
            await until(lambda: c.state(pinned) == "no-worker")
        assert await placed(c, 3) == {"b": 3}
        await held.set()
        assert await pinned == "a"


@pytest.mark.parametrize("cap", [1, 3])
async def test_the_concurrency_cap_holds_while_a_queue_waits(cap):
    gauge = gauges["cap"] = Gauge()
    async with cluster() as c:
        await c.join(donor("a", max_concurrent_jobs=cap), nthreads=8)
        with dask.annotate(**annotation()):
            await c.client.gather(c.client.map(measured, ["cap"] * 40, [0.002] * 40, pure=False))
        assert gauge.most == {"a": cap}


async def test_an_actor_holds_its_slot_while_it_lives_and_the_score_places_it():
    async with cluster(donor("far", region="oceania"), donor("near", region="europe-west")) as c:
        with dask.annotate(**annotation(region="europe-west")):
            first = await c.client.submit(Here, actor=True, pure=False)
            second = await c.client.submit(Here, actor=True, pure=False)
            assert (await first.where(), await second.where()) == ("near", "far")
            third = c.client.submit(Here, actor=True, pure=False)
            await until(lambda: c.state(third) == "no-worker")
            assert c.load("near").running == 1
            assert c.scheduler.grid.running_by_type == {"embedding": 2}
            del first
            assert await (await third).where() == "near"


class SlowToMake:
    """An actor whose constructor holds on."""

    def __init__(self, event):
        hold(event)


async def test_an_actor_that_is_cancelled_while_it_is_made_gives_its_slot_back():
    async with cluster(donor("a")) as c:
        with dask.annotate(**annotation()):
            actor = c.client.submit(SlowToMake, "made", actor=True, pure=False)
        await until(lambda: c.load("a").running == 1)
        await c.client.cancel([actor], force=True)
        await until(lambda: c.load("a").running == 0)
        await Event("made", client=c.client).set()
        assert await placed(c, 1) == {"a": 1}


async def test_the_hourly_cap_holds_and_the_hour_slides():
    clock = HandClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    async with cluster(donor("a", max_jobs_per_hour=3), clock=clock) as c:
        with dask.annotate(**annotation()):
            futures = c.client.map(where, range(5), pure=False)
        await until(lambda: sum(f.status == "finished" for f in futures) == 3)
        clock.forward(minutes=59)
        c.scheduler.grid.offers.run()
        assert sum(c.state(f) == "no-worker" for f in futures) == 2
        clock.forward(minutes=2)
        c.scheduler.grid.offers.run()
        assert await c.client.gather(futures) == ["a"] * 5


async def test_a_retry_counts_as_another_start():
    async with cluster(donor("a", max_jobs_per_hour=2)) as c:
        with dask.annotate(**annotation()):
            future = c.client.submit(fail, retries=5, pure=False)
        await until(lambda: c.state(future) == "no-worker")
        assert c.load("a").started_last_hour == 2


async def test_a_task_that_secedes_gives_its_slot_back():
    async with cluster(donor("a")) as c:
        with dask.annotate(**annotation()):
            assert await asyncio.wait_for(c.client.submit(parent, pure=False), DEADLINE) == "a"


async def test_a_failing_rule_places_nobody_and_says_so_once(monkeypatch, caplog):
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError("a bug in the rule")

    async with cluster(donor("a")) as c:
        with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
            patch.setattr(placer, "rank", broken)
            patch.setattr(placer, "admits", broken)  # asked in its place where the donors are few
            with dask.annotate(**annotation()):
                futures = c.client.map(where, range(5), pure=False)
            await until(lambda: all(c.state(f) == "no-worker" for f in futures))
            assert await c.client.submit(where, pure=False) == "a", "stock tasks don't need the rule"
        told = [record for record in caplog.records if "placement rule failed" in record.message]
        assert len(told) == 1
        assert told[0].exc_info is not None
        c.plugin("a").pause()
        c.plugin("a").resume()
        assert await c.client.gather(futures) == ["a"] * 5


async def test_a_worker_that_states_nonsense_gets_nothing(caplog):
    async with cluster(donor("a")) as c:
        ws = c.scheduler.workers[c.workers["a"].address]
        with caplog.at_level(logging.CRITICAL):
            c.scheduler.grid.heard(ws, {"donor": {"id": "a", "region": "atlantis"}, "report": {}})
        assert "atlantis" in caplog.text
        with dask.annotate(**annotation()):
            future = c.client.submit(where, pure=False)
        await until(lambda: c.state(future) == "no-worker")


async def test_a_task_whose_annotation_says_nothing_readable_fails_with_a_message():
    async with cluster(donor("a")) as c:
        with dask.annotate(grid={"tpye": "embedding"}):
            future = c.client.submit(where, pure=False)
        with pytest.raises(UnreadableAnnotationError, match="tpye"):
            await asyncio.wait_for(future, DEADLINE)


async def test_grid_tasks_outlive_the_no_workers_timeout_and_stock_tasks_do_not():
    with dask.config.set({"distributed.scheduler.no-workers-timeout": "200ms"}):
        async with cluster(donor("a", types=["llm"])) as c:
            with dask.annotate(**annotation()):
                patient = c.client.submit(where, pure=False)
            stock = c.client.submit(where, workers=["nobody:1"], pure=False)
            await until(lambda: stock.status == "error")
            assert c.state(patient) == "no-worker"
            await c.join(donor("b"))
            assert await patient == "b"


async def test_a_second_worker_of_one_donor_takes_its_place(caplog):
    async with cluster(donor("a")) as c:
        await c.join(donor("a"), name="again")
        assert "takes the place" in caplog.text
        assert await placed(c, 6) == {"again": 6}
        await c.workers["a"].heartbeat()
        assert await placed(c, 6) == {"again": 6}
        await c.leave("again")
        await c.workers["a"].heartbeat()
        assert await placed(c, 6) == {"a": 6}


async def test_a_donor_cannot_vouch_for_itself():
    async with cluster(donor("a", reliability=1.0, avg_latency_ms=0.1)) as c:
        known, _ = c.scheduler.grid.roster.donors.get("a")
        assert (known.reliability, known.avg_latency_ms) == (donor("x").reliability, None)


async def test_a_running_stock_scheduler_can_be_given_the_rules():
    async with cluster(donor("a", types=["llm"]), donor("b"), cls=Scheduler) as c:
        assert not isinstance(c.scheduler, GridMixin)
        grid = attach(c.scheduler)
        assert attach(c.scheduler) is grid
        assert await placed(c) == {"b": 12}
        c.plugin("b").pause()
        await until(lambda: c.load("b").paused)


async def test_the_scheduler_validates_itself_under_load():
    async with cluster(donor("a", max_concurrent_jobs=2), donor("b"), cls=GridScheduler, validate=True) as c:
        assert sum((await placed(c, 200)).values()) == 200
        assert not c.scheduler.grid.assigned
        assert not c.scheduler.grid.lanes
        assert EMBED.type not in c.scheduler.grid.lanes.waiting_by_type()
