"""Donors that were blocked are sent away, and what they ran is done by others."""

from __future__ import annotations

from types import SimpleNamespace

import dask
import pytest
from distributed import Event, Worker
from small_cluster import annotation, cluster, donor, until
from small_tasks import hold, where

from idlegrid.scheduler_plugins.barred import Barred
from idlegrid.scheduler_plugins.donor_plugin import DonorPlugin


def test_who_is_meant():
    barred = Barred(SimpleNamespace())
    assert "w-1" not in barred
    barred.set(["w-1"])
    assert "w-1" in barred
    assert "w-1/0" in barred, "one of several workers of a donor"
    assert "w-10" not in barred
    assert barred.says({"donor": {"id": "w-1"}})
    for wire in (None, {}, {"donor": None}, {"donor": {"id": ["w-1"]}}, {"donor": {"id": "w-2"}}):
        assert not barred.says(wire)


@pytest.mark.slow
async def test_what_a_blocked_donor_runs_goes_to_others_and_it_does_not_come_back():
    async with cluster(donor("bad")) as c:
        with dask.annotate(**annotation()):
            running = c.client.submit(hold, "go", key="running")
        await until(lambda: c.state(running) == "processing")
        await c.join(donor("good"))
        c.scheduler.grid.bar(["bad"])
        await until(lambda: c.scheduler.grid.roster.get("bad") is None)
        await Event("go", client=c.client).set()
        assert await running == "good"

        plugins = [DonorPlugin(donor("bad"))]
        again = await Worker(c.scheduler.address, name="again", nthreads=1, dashboard=False, plugins=plugins)
        await again.finished()
        assert c.scheduler.grid.roster.get("bad") is None

        c.scheduler.grid.bar([])
        await c.join(donor("bad"), name="forgiven")
        assert c.scheduler.grid.roster.get("bad") is not None
        with dask.annotate(**annotation()):
            assert await c.client.submit(where, workers=["forgiven"], pure=False) == "forgiven"
