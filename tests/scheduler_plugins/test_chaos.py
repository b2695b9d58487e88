"""Donors pause, drain, join, leave and vanish while tasks flow: every task ends, no cap and no exclusion breaks."""

import asyncio
import random
from collections import Counter

import dask
import pytest
from distributed import SchedulerPlugin
from small_cluster import annotation, cluster, donor, until
from small_tasks import Gauge, gauges, measured

from idlegrid.grid.acceptance import suits
from idlegrid.grid.jobs import Ask
from idlegrid.grid.regions import REGIONS

pytestmark = pytest.mark.slow

CODES = tuple(REGIONS)[:3]
TYPES = ("embedding", "llm")


class Watch(SchedulerPlugin):
    """Checks every assignment by its own account: it shares neither counters nor code with the rules' plumbing."""

    name = "watch"

    def __init__(self, scheduler, donors, asks):
        self.scheduler, self.donors, self.asks = scheduler, donors, asks
        self.starts = Counter()
        self.broken = []

    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "processing" and start != finish and key in self.asks:
            self.assigned(key, self.scheduler.tasks[key].processing_on)

    def assigned(self, key, ws):
        report = ws.metrics.get("idlegrid")
        if report is None:
            self.broken.append(f"{key} went to {ws.name}, which never said what it is")
            return
        donor = self.donors[report["donor"]["id"]]
        self.starts[donor.id] += 1
        if not (verdict := suits(self.asks[key], donor)):
            self.broken.append(f"{key} went to {donor.id}: {verdict.detail}")
        if len(ws.processing) > donor.limits.max_concurrent_jobs:
            self.broken.append(f"{donor.id} has {len(ws.processing)} tasks, allows {donor.limits.max_concurrent_jobs}")
        if self.starts[donor.id] > (donor.limits.max_jobs_per_hour or 10**9):
            self.broken.append(
                f"{donor.id} started {self.starts[donor.id]} jobs, allows {donor.limits.max_jobs_per_hour}"
            )
        load = self.scheduler.grid.roster.get(donor.id).load
        if load.paused or load.draining:
            self.broken.append(f"{donor.id} got {key} while it took nothing")


def a_donor(choose, number):
    return donor(
        f"d{number}",
        types=choose.sample(TYPES, choose.randint(1, 2)),
        region=choose.choice(CODES),
        gpu_memory_gb=choose.choice((0.0, 8.0, 24.0)),
        max_concurrent_jobs=choose.randint(1, 6),
        max_jobs_per_hour=choose.choice((0, 0, 10)),
        acceptance_rate=choose.choice((1.0, 1.0, 0.4)),
    )


def an_ask(choose, number):
    region = choose.choice((None, *CODES))
    return Ask(
        type=choose.choice(TYPES),
        region=region,
        allow_cross_region=region is None or choose.random() < 0.7,
        excluded=frozenset({f"d{choose.randrange(6)}"}) if choose.random() < 0.3 else frozenset(),
    )


async def upset(c, choose, donors, step):
    """One thing that donors do."""
    here = [name for name in c.workers if name != "stock"]
    action = choose.choice(("pause", "resume", "resume", "drain", "load", "join", "leave", "vanish"))
    if action == "join" or not here:
        new = a_donor(choose, 100 + step)
        donors[new.id] = new
        await c.join(new, nthreads=choose.randint(1, 4))
        return
    name = choose.choice(here)
    if action == "leave":
        await c.leave(name)
    elif action == "vanish":
        worker = c.workers.pop(name)
        await c.scheduler.remove_worker(worker.address, stimulus_id=f"vanish {step}")
        await worker.close()
    elif action == "load":
        c.plugin(name).loaded(f"model {step}")
    else:
        getattr(c.plugin(name), action)()


def ended_clean(grid):
    """Nothing is held that Dask doesn't hold."""
    assert not grid.assigned
    assert not grid.lanes
    assert not +grid.running_by_type
    assert [(seat.running, seat.inbound) for seat in grid.roster] == [(0, 0)] * len(grid.roster)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
async def test_whatever_donors_do_every_task_ends_and_every_limit_holds(seed):
    choose = random.Random(seed)
    gauge = gauges["chaos"] = Gauge()
    donors = {(d := a_donor(choose, number)).id: d for number in range(5)}
    settings = {"distributed.scheduler.work-stealing-interval": "10ms", "distributed.scheduler.allowed-failures": 1000}
    with dask.config.set(settings):
        async with cluster(*donors.values(), None, offer_every=0.05, validate=True) as c:
            asks = {}
            watch = Watch(c.scheduler, donors, asks)
            c.scheduler.add_plugin(watch)
            futures = []
            for step in range(25):
                for number in range(12):
                    key = f"task-{step}-{number}"
                    asks[key] = an_ask(choose, step)
                    with dask.annotate(**annotation(asks[key]), priority=choose.randrange(3)):
                        futures.append(c.client.submit(measured, "chaos", choose.random() * 0.01, key=key))
                await upset(c, choose, donors, step)
                await asyncio.sleep(choose.random() * 0.02)
            for number, code in enumerate(CODES):  # in the end somebody takes what is left
                last = donor(f"last{number}", types=TYPES, region=code, max_concurrent_jobs=4)
                donors[last.id] = last
                await c.join(last, nthreads=4)
            await asyncio.wait_for(c.client.gather(futures), 30)
            assert watch.broken == []
            assert "stock" not in gauge.runs
            for name, most in gauge.most.items():
                assert most <= donors[name].limits.max_concurrent_jobs
            await until(lambda: not any(ws.processing for ws in c.scheduler.workers.values()))
            ended_clean(c.scheduler.grid)
