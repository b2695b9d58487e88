"""Work stealing: never against an exclusion or a cap, and to a worse donor only when the wait is worth it."""

import asyncio

import dask
import pytest
from distributed import Event
from hypothesis import given
from hypothesis import strategies as st
from small_cluster import annotation, cluster, donor, until
from small_tasks import Gauge, gauges, hold, measured, nap

from idlegrid.scheduler_plugins.stealing import GridStealing, worth_moving

pytestmark = pytest.mark.slow

times = st.floats(0.001, 1e4)


@given(work=times, here=times, there=times, score=st.floats(0.01, 150))
def test_between_equals_the_shorter_wait_decides(work, here, there, score):
    moves = worth_moving(work=work, wait_here=here, wait_there=there, score_here=score, score_there=score)
    if abs(here - there) > 1e-6 * (here + there + work):
        assert moves is (there < here)


@given(work=times, here=times, there=times, score=st.floats(0.01, 150), better=st.floats(1.0, 10.0))
def test_a_better_thief_is_never_refused_where_a_worse_one_is_welcome(work, here, there, score, better):
    facts = {"work": work, "wait_here": here, "wait_there": there, "score_here": score}
    if worth_moving(**facts, score_there=score):
        assert worth_moving(**facts, score_there=score * better * 1.000001)


def test_a_thief_of_a_tenth_of_the_score_needs_ten_times_the_wait():
    facts = {"work": 1.0, "wait_there": 0.0, "score_here": 1.0, "score_there": 0.1}
    assert not worth_moving(**facts, wait_here=8.9)
    assert worth_moving(**facts, wait_here=9.1)
    assert not worth_moving(work=1.0, wait_there=0.0, wait_here=1e6, score_here=1.0, score_there=0.0)


async def queued_on(c, name, count, seconds=0.05, **changes):
    """Give one worker a queue longer than its threads, while no other can take any of it."""
    with dask.annotate(**annotation(**changes)):
        await c.client.gather(c.client.map(nap, [seconds] * 3, pure=False, key="known"))  # now the duration is known
        futures = c.client.map(nap, [seconds] * count, pure=False)
    await until(lambda: len(c.scheduler.workers[c.workers[name].address].processing) > 1)
    return futures


async def confirmed(c):
    return [event for _, event in c.scheduler.get_events("stealing") if event and event[0] == "confirm"]


@pytest.fixture(autouse=True)
def _quick_balance():
    with dask.config.set({"distributed.scheduler.work-stealing-interval": "20ms"}):
        yield


async def test_an_idle_donor_takes_from_a_long_queue_and_stays_within_its_caps():
    gauge = gauges["steal"] = Gauge()
    async with cluster(donor("full", max_concurrent_jobs=50)) as c:
        assert isinstance(c.scheduler.extensions["stealing"], GridStealing)
        with dask.annotate(**annotation()):
            await c.client.gather(c.client.map(measured, ["steal"] * 2, [0.03] * 2, pure=False))
            futures = c.client.map(measured, ["steal"] * 30, [0.03] * 30, pure=False)
        await until(lambda: c.load("full").running > 20)
        limits = {"max_concurrent_jobs": 3, "max_jobs_per_hour": 5}
        await asyncio.gather(c.join(donor("thief", **limits), nthreads=3), c.join(donor("other", types=["llm"])))
        await c.client.gather(futures)
        assert 1 <= gauge.runs["thief"] <= 5, "the hourly cap holds for what was stolen"
        assert gauge.most["thief"] <= 3
        assert "other" not in gauge.runs
        assert await confirmed(c)
        assert not [event for _, event in c.scheduler.get_events("stealing") if event[0] == "reschedule"]
        started = {name: c.load(name).started_last_hour for name in ("thief", "full")}
        assert started == {name: gauge.runs[name] for name in started}, "a stolen job started once, at the thief"
        for seat in c.scheduler.grid.roster:
            assert (seat.inbound, seat.running) == (0, 0)


async def test_a_much_worse_donor_takes_nothing_from_a_short_queue():
    """Farthest region and no GPU against the nearest with one: not worth half a second of waiting."""
    best = donor("near", region="europe-west", gpu_memory_gb=24.0, gpu_model="RTX 4090", max_concurrent_jobs=50)
    async with cluster(best) as c:
        futures = await queued_on(c, "near", 8, region="europe-west")
        await c.join(donor("far", region="oceania", max_concurrent_jobs=50))
        assert set(await c.client.gather(futures)) == {"near"}


async def test_a_thief_that_pauses_while_the_task_is_on_its_way_does_not_get_it():
    async with cluster(donor("full", max_concurrent_jobs=50), donor("thief", max_concurrent_jobs=50)) as c:
        c.plugin("thief").pause()
        await until(lambda: c.load("thief").paused)
        stealing = c.scheduler.extensions["stealing"]
        await stealing.stop()
        with dask.annotate(**annotation()):
            first = c.client.submit(hold, "en route", pure=False)
            second = c.client.submit(hold, "en route", pure=False)
        await until(lambda: c.load("full").running == 2)
        victim, thief = (c.scheduler.workers[c.workers[name].address] for name in ("full", "thief"))
        ts = c.scheduler.tasks[second.key]
        c.plugin("thief").resume()
        await until(lambda: not c.load("thief").paused)
        stealing.move_task_request(ts, victim, thief)
        assert c.load("thief").running == 1, "the slot is held while the task is on its way"
        c.plugin("thief").pause()
        await until(lambda: not stealing.in_flight)
        assert ts.processing_on is not thief
        await Event("en route", client=c.client).set()
        assert await c.client.gather([first, second]) == ["full", "full"]
        assert c.scheduler.grid.roster.get("thief").inbound == 0
