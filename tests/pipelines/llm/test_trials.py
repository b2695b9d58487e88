"""Who tries how fast it is before a model is cut: few donors, each once; who does not answer is not waited for."""

from contextlib import asynccontextmanager

import pytest
from small_cluster import cluster, donor, until

from idlegrid.actors import speed_trial
from idlegrid.grid.jobs import Ask
from idlegrid.grid.layers.speed import Source, Speed
from idlegrid.pipelines.llm import trials
from idlegrid.pipelines.llm.donor_facts import Needs, facts
from idlegrid.pipelines.llm.link import GridLink
from idlegrid.pipelines.llm.trials import Trials

ASK = Ask(type="llm")
NEEDS = Needs(10**9)


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Trials without an outcome of their own: how many there were, and what they came to."""
    tried = []

    def measure(device, dtype):
        tried.append((device, dtype))
        return Speed(device=device, dtype=dtype, source=Source.PROBED, read_bytes_s=3e9, compute_bytes_s=0.0)

    monkeypatch.setattr(speed_trial, "_known", {})
    monkeypatch.setattr(speed_trial, "measure", measure)
    return tried


@asynccontextmanager
async def grid(*names, **options):
    async with cluster(*(donor(name, types=("llm",)) for name in names), **options) as c:
        link = GridLink(c.client)
        yield c, link
        await link.close()


async def known(link):
    return await facts(link, ASK, "k", NEEDS)


def sources(facts_):
    return {one.donor.id: one.source for one in facts_.offers}


async def test_the_best_are_tried_once_and_tell_the_grid(measured):
    async with grid("a", "b", "c") as (c, link):
        found = await Trials(link).made(await known(link), ASK, most=2)
        assert sources(found) == {"a": Source.PROBED, "b": Source.PROBED, "c": Source.PRESUMED}
        assert {one.donor.rate for one in found.offers if one.source is Source.PROBED} == {3.0 * 0.75}
        await until(lambda: all(c.scheduler.grid.roster.get(name).report.speeds for name in "ab"))
        await until(lambda: not any(c.load(name).running for name in "abc"))
        again = await Trials(link).made(await known(link), ASK)
        assert set(sources(again).values()) == {Source.PROBED}
        assert measured == [("cpu", "float32")], "one process, one trial"


async def test_nobody_waits_for_a_donor_that_does_not_answer_nor_asks_it_again_at_once(monkeypatch):
    monkeypatch.setattr(trials, "WITHIN", 0.2)
    async with grid("a", "b") as (c, link):
        before = await known(link)
        c.plugin("b").pause()
        await until(lambda: c.load("b").paused)
        asked = Trials(link)
        found = await asked.made(before, ASK)
        assert sources(found) == {"a": Source.PROBED, "b": Source.PRESUMED}
        c.plugin("b").resume()
        await until(lambda: not c.load("b").paused)
        assert await asked.made(found, ASK) is found
        await until(lambda: not c.scheduler.tasks)
        assert sources(await Trials(link).made(await known(link), ASK))["b"] is Source.PROBED


async def test_a_trial_that_fails_leaves_the_donor_presumed(monkeypatch):
    def broken(device, dtype):
        raise RuntimeError("no memory")

    monkeypatch.setattr(speed_trial, "measure", broken)
    async with grid("a") as (_, link):
        assert sources(await Trials(link).made(await known(link), ASK)) == {"a": Source.PRESUMED}
