"""The facts behind the reliability score: from real transitions, and who left how."""

import asyncio
import random
import statistics

import dask
import pytest
from distributed import Event, KilledWorker
from small_cluster import annotation, cluster, donor, until
from small_tasks import fail, hold, nap

from idlegrid.grid.reliability import NEUTRAL
from idlegrid.scheduler_plugins.ledger import Ledger, RunningMedian


def test_the_median_is_that_of_the_last_values():
    choose, running, values = random.Random(1), RunningMedian(), []
    assert running.value() is None
    for _ in range(1000):
        values.append(choose.lognormvariate(0, 1))
        running.add(values[-1])
        assert running.value() == statistics.median_high(values[-255:])
    assert len(running._ordered) == len(running._latest) == 255


def test_medians_of_many_kinds_take_bounded_memory():
    ledger = Ledger()
    for number in range(3000):
        ledger.finished("a", ("llm", f"model {number}"), 1.0)
    assert len(ledger._medians) <= 1024
    assert ledger.median(("llm", "model 2999")) == 1.0
    assert ledger.median(("llm", "model 0")) is None


async def test_finished_jobs_raise_the_score_and_failing_code_is_not_the_donors_fault():
    async with cluster(donor("a"), donor("b")) as c:
        ledger = c.scheduler.grid.ledger
        with dask.annotate(**annotation()):
            await c.client.gather(c.client.map(nap, [0.002] * 20, workers=["a"], pure=False))
            await c.client.gather(c.client.map(fail, range(5), workers=["b"], pure=False), errors="skip")
        assert ledger.account("a").history.jobs_done == 20
        assert ledger.account("b").job_errors == 5
        assert ledger.account("b").history.jobs_failed == 0
        now = c.scheduler.grid.now
        assert ledger.score("a", now).success > NEUTRAL == ledger.score("b", now).success
        await c.workers["a"].heartbeat()
        assert c.scheduler.grid.roster.donors.get("a")[0].reliability > NEUTRAL, "the index knows"


async def test_a_slow_donor_scores_below_a_fast_one():
    async with cluster(donor("slow"), donor("fast")) as c:
        with dask.annotate(**annotation()):
            slow = c.client.map(nap, [0.02] * 15, workers=["slow"], pure=False)
            fast = c.client.map(nap, [0.005] * 15, workers=["fast"], pure=False)
            await c.client.gather(slow + fast)
        ledger, now = c.scheduler.grid.ledger, c.scheduler.grid.now
        assert ledger.score("slow", now).latency < ledger.score("fast", now).latency
        assert ledger.account("fast").mean_latency_ms < ledger.account("slow").mean_latency_ms


@pytest.mark.parametrize("way", ["close", "retire", "drain"])
async def test_a_graceful_leave_costs_nothing(way):
    async with cluster(donor("a")) as c:
        ledger, address = c.scheduler.grid.ledger, c.workers["a"].address
        if way == "retire":
            await c.client.retire_workers([address])
        elif way == "drain":
            c.plugin("a").drain()
            await until(lambda: c.load("a").draining)
            await c.scheduler.remove_worker(address, stimulus_id="gone")
        else:
            await c.leave("a")
        await until(lambda: not len(c.scheduler.grid.roster))
        history = ledger.account("a").history
        assert (history.sessions, history.unexpected_ends) == (1, 0)
        assert ledger.score("a", c.scheduler.grid.now).stability >= NEUTRAL


async def test_a_vanished_worker_costs_its_donor_and_the_account_outlives_it():
    async with cluster(donor("a"), donor("b", types=["llm"])) as c:
        with dask.annotate(**annotation()):
            futures = [c.client.submit(hold, "vanish", pure=False)]
        await until(lambda: c.load("a").running == 1)
        await c.scheduler.remove_worker(c.workers["a"].address, stimulus_id="vanished")
        account = c.scheduler.grid.ledger.account("a")
        assert (account.history.unexpected_ends, account.interrupted) == (1, 1)
        assert account.history.jobs_failed == 1
        await until(lambda: c.state(futures[0]) == "no-worker")
        await Event("vanish", client=c.client).set()
        await c.join(donor("a"), name="a again")
        assert await futures[0] == "a again"
        state = await c.client.scheduler.grid_state()
        (row,) = [row for row in state["workers"] if row["id"] == "a"]
        assert row["jobs_lost"] == 1
        assert row["score"] < NEUTRAL


@pytest.mark.parametrize(("allowed", "deaths"), [(0, 1), (1, 2), (5, 6), (None, 4)])
async def test_a_submitter_says_how_many_deaths_it_wants_to_hear_of(allowed, deaths):
    """``allowed-failures`` is 3 in stock Dask: the fourth death is told."""
    async with cluster() as c:
        with dask.annotate(**annotation(deaths_allowed=allowed)):
            future = c.client.submit(hold, "die", pure=False)
        for number in range(deaths):
            assert future.status == "pending"
            worker = await c.join(donor(f"d{number}"))
            await until(lambda: c.state(future) == "processing")
            await c.scheduler.remove_worker(worker.address, stimulus_id=f"death {number}")
        with pytest.raises(KilledWorker):
            await asyncio.wait_for(future, 10)
        ledger = c.scheduler.grid.ledger
        assert [ledger.account(f"d{n}").interrupted for n in range(deaths)] == [1] * deaths
        assert not any(ledger.account(f"d{n}").job_errors for n in range(deaths))
        await Event("die", client=c.client).set()
