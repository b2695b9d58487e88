"""Waiting work is sent on exactly when somebody can take it: in order, by events and one timer."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import dask
import pytest
from distributed import Event
from small_cluster import HandClock, annotation, cluster, donor, until
from small_tasks import hold, nap, where

from idlegrid.grid.acceptance import admits
from idlegrid.scheduler_plugins import placer
from idlegrid.scheduler_plugins.placer import lot
from idlegrid.scheduler_plugins.why import grid_why

pytestmark = pytest.mark.slow

NIGHT = {"working_hours_start": 22, "working_hours_end": 6}


async def waiting(c, count=1, **changes):
    with dask.annotate(**annotation(**changes)):
        futures = c.client.map(where, range(count), pure=False)
    await until(lambda: all(c.state(f) == "no-worker" for f in futures))
    return futures


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def test_a_window_that_opens_by_the_clock_sends_the_waiting_on():
    opens, clock = NOON.replace(hour=22), HandClock(NOON)
    async with cluster(donor("night", **NIGHT), clock=clock) as c:
        clock.forward(hours=10, seconds=-(clock() - NOON).total_seconds() - 1.0)
        futures = await waiting(c, 3)
        assert clock() < opens
        assert await c.client.gather(futures) == ["night"] * 3
        assert clock() >= opens


async def test_no_task_is_sent_that_would_not_end_before_the_window_closes():
    clock = HandClock(NOON)
    async with cluster(donor("day", working_hours_start=8, working_hours_end=13), clock=clock) as c:
        c.scheduler.grid.ledger.finished("another", ("embedding", "long"), 600.0)
        clock.forward(minutes=55)
        [late] = await waiting(c, model="long")
        told = grid_why(c.scheduler.grid, late.key)
        assert [row["verdict"] for row in told["candidates"]] == ["window_closes"]
        assert told["candidates"][0]["retry_at"] == (NOON + timedelta(hours=20)).isoformat()
        with dask.annotate(**annotation(model="of unknown length")):
            assert await c.client.submit(where, 0, pure=False) == "day", "the control: it may be short"
        assert c.state(late) == "no-worker", "a slot that comes free changes nothing"
        clock.forward(hours=20, seconds=-(clock() - NOON).total_seconds() - 0.5)
        c.scheduler.grid.offers.wake()  # its timer does not know that the clock was put forward
        assert await late == "day"
        assert clock() >= NOON + timedelta(hours=20)


async def test_a_slow_donor_gets_less_before_its_window_closes():
    clock = HandClock(NOON)
    slow, usual = ({"working_hours_start": 8, "working_hours_end": 13} for _ in range(2))
    async with cluster(donor("slow", **slow), clock=clock) as c:
        ledger = c.scheduler.grid.ledger
        for _ in range(100):
            ledger.finished("another", ("embedding", None), 600.0)
            ledger.finished("slow", ("embedding", None), 6000.0)
            ledger.finished("another", ("embedding", None), 600.0)
        c.scheduler.grid.roster.restate(c.scheduler.grid.roster.get("slow"), clock())
        clock.forward(minutes=40)
        [task] = await waiting(c)
        await c.join(donor("usual", **usual))
        assert await task == "usual"


async def test_without_the_timer_nobody_would_notice_the_window(monkeypatch):
    """The control of the test above."""
    clock = HandClock(NOON)
    async with cluster(donor("night", **NIGHT), clock=clock) as c:
        monkeypatch.setattr(c.scheduler.grid.offers, "_set_timer", lambda _now: None)
        futures = await waiting(c, 1)
        clock.forward(hours=11)
        with pytest.raises(TimeoutError):
            await until(lambda: futures[0].done(), deadline=0.6)


async def test_a_freed_slot_is_offered_within_the_event_that_freed_it(monkeypatch):
    async with cluster(donor("a")) as c:
        with dask.annotate(**annotation()):
            held = c.client.submit(hold, "freed", pure=False)
        await until(lambda: c.state(held) == "processing")
        futures = await waiting(c, 5)
        await until(lambda: c.scheduler.grid.offers._soon is None)
        monkeypatch.setattr(c.scheduler.grid.offers, "wake", lambda: None)  # nothing would come later
        await Event("freed", client=c.client).set()
        assert await c.client.gather([held, *futures]) == ["a"] * 6


async def test_for_equal_tasks_the_rule_is_asked_once(monkeypatch):
    asked = []

    def counted(*facts):
        asked.append(facts)
        return admits(*facts)

    monkeypatch.setattr(placer, "admits", counted)
    async with cluster(donor("a"), donor("b", max_concurrent_jobs=2)) as c:
        with dask.annotate(**annotation()):
            await c.client.gather(c.client.map(where, range(300), pure=False))
        assert 1 <= len(asked) < 100, "once for each donor, and anew when a heartbeat changed its standing"


async def test_nothing_is_polled_while_nothing_changes():
    async with cluster(donor("night", **NIGHT), clock=HandClock(datetime(2026, 3, 1, 12, tzinfo=UTC))) as c:
        futures = await waiting(c, 50)
        await until(lambda: c.scheduler.grid.offers._soon is None)
        before, transitions = c.scheduler.grid.offers.runs, c.scheduler.transition_counter
        for _ in range(20):
            await c.workers["night"].heartbeat()
        assert c.scheduler.grid.offers.runs == before
        assert c.scheduler.transition_counter == transitions
        assert len(c.scheduler.grid.lanes) == len(futures)


@pytest.mark.parametrize("stop", ["pause", "drain"])
async def test_a_donor_that_resumes_gets_what_waits(stop):
    async with cluster(donor("a")) as c:
        getattr(c.plugin("a"), stop)()
        await until(lambda: c.load("a").paused or c.load("a").draining)
        futures = await waiting(c, 3)
        c.plugin("a").resume()
        assert await c.client.gather(futures) == ["a"] * 3


async def test_what_runs_on_a_draining_donor_ends_there():
    async with cluster(donor("a")) as c:
        with dask.annotate(**annotation()):
            running = c.client.submit(hold, "drain", pure=False)
        await until(lambda: c.state(running) == "processing")
        c.plugin("a").drain()
        later = await waiting(c)
        await Event("drain", client=c.client).set()
        assert await running == "a"
        assert c.state(later[0]) == "no-worker"


async def test_a_donor_that_joins_gets_what_waits():
    async with cluster() as c:
        futures = await waiting(c, 3)
        await c.join(donor("late"))
        assert await c.client.gather(futures) == ["late"] * 3


async def test_a_model_that_is_loaded_makes_room_for_what_needs_it():
    """GPU memory is short for a second copy, so only the donor that holds the model already can run it."""
    async with cluster(donor("a", gpu_memory_gb=8.0, gpu_model="T4")) as c:
        futures = await waiting(c, 1, model="big", gpu_memory_gb=20.0)
        c.plugin("a").loaded("big")
        assert await c.client.gather(futures) == ["a"]


async def test_a_donor_that_takes_a_tenth_of_the_work_takes_it_in_the_end():
    async with cluster(donor("thin", acceptance_rate=0.1), offer_every=0.01) as c:
        with dask.annotate(**annotation()):
            futures = c.client.map(where, range(10), pure=False)
        assert await c.client.gather(futures) == ["thin"] * 10


async def test_acceptance_rate_leaves_work_to_others():
    async with cluster(donor("thin", acceptance_rate=0.3), donor("all", region="oceania")) as c:
        placed = Counter()
        for _ in range(60):
            with dask.annotate(**annotation(region="asia-east")):
                placed[await c.client.submit(where, pure=False)] += 1
        assert 5 <= placed["thin"] <= 35, "nearest, but takes only three of ten"


def test_a_lot_stays_for_a_while_and_is_then_drawn_anew():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    lots = [lot("task", "donor", now + timedelta(seconds=2 * turn)) for turn in range(500)]
    assert lot("task", "donor", now + timedelta(seconds=1.9)) == lots[0]
    assert len(set(lots)) == 500
    assert 0.4 < sum(lots) / 500 < 0.6
    assert lot("task", "other", now) != lots[0] != lot("another", "donor", now)


async def test_priority_decides_who_of_the_waiting_goes_first():
    async with cluster(donor("a")) as c:
        c.plugin("a").pause()
        await until(lambda: c.load("a").paused)
        order = []
        with dask.annotate(**annotation()):
            futures = [c.client.submit(nap, 0.001, key=f"nap-{p}", priority=p) for p in (1, 5, 3)]
            futures += [c.client.submit(nap, 0.001, type_, key=f"other-{type_}", priority=4) for type_ in ("x",)]
        for future in futures:
            future.add_done_callback(lambda f: order.append(f.key))
        await until(lambda: len(c.scheduler.grid.lanes) == 4)
        c.plugin("a").resume()
        await c.client.gather(futures)
        await until(lambda: len(order) == 4)
        assert order == ["nap-5", "other-x", "nap-3", "nap-1"]


async def test_a_stream_of_lesser_work_starves_nobody():
    """Chains whose next link is ready when one ends would take every slot before the waiting get an offer."""
    async with cluster(donor("a", types=["embedding", "llm"])) as c:
        with dask.annotate(**annotation(), priority=-10):
            links = [c.client.submit(nap, 0.002, pure=False)]
            for _ in range(150):
                links.append(c.client.submit(nap, 0.002, links[-1], pure=False))
        await until(lambda: links[3].done())
        with dask.annotate(**annotation(type="llm"), priority=0):
            urgent = c.client.submit(where, pure=False)
        assert await urgent == "a"
        assert not links[-1].done()


async def test_tasks_that_are_cancelled_while_they_wait_are_gone():
    async with cluster(donor("a")) as c:
        c.plugin("a").pause()
        await until(lambda: c.load("a").paused)
        futures = await waiting(c, 40)
        await c.client.cancel(futures[:35])
        await until(lambda: len(c.scheduler.grid.lanes) == 5)
        c.plugin("a").resume()
        assert await c.client.gather(futures[35:]) == ["a"] * 5
        assert not c.scheduler.grid.lanes
        assert not c.scheduler.unrunnable


async def test_a_lane_that_nobody_serves_blocks_no_other():
    async with cluster(donor("a")) as c:
        unserved = await waiting(c, 20, type="whisper")
        with dask.annotate(**annotation()):
            assert set(await c.client.gather(c.client.map(where, range(50), pure=False))) == {"a"}
        assert {c.state(f) for f in unserved} == {"no-worker"}


async def test_an_hour_that_slides_wakes_by_itself():
    clock = HandClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    async with cluster(donor("a", max_jobs_per_hour=1), clock=clock) as c:
        with dask.annotate(**annotation()):
            assert await c.client.submit(where, pure=False) == "a"
        clock.forward(seconds=3599.6)
        futures = await waiting(c, 1)
        assert await c.client.gather(futures) == ["a"]
