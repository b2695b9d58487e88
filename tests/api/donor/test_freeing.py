"""The device is free within a second, with real processes: what ran is handed back and done elsewhere, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from dataclasses import replace

import dask
import psutil
import pytest
from distributed import Client, KilledWorker
from trial_grid import trial_grid

from idlegrid.api.agent import worker_part
from idlegrid.api.donor import orders
from idlegrid.api.donor.freeing import Freeing
from idlegrid.api.donor.guarding import Guarding
from idlegrid.api.donor.orders import OrderDesk, donor_order
from idlegrid.api.donor.sensors import FileSensors
from idlegrid.api.donor.work import Want, Workplace
from idlegrid.api.supervision import Part
from idlegrid.grid.donors import Donor, Limits
from idlegrid.grid.jobs import JobStatus
from idlegrid.pipelines.dispatch.doors import Doors
from idlegrid.scheduler_plugins.machine import VARIABLE, to_variable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEADLINE = 90.0
HERE = {"region": "oceania"}
"""Our donor is the only one there, and the nearest for such a job."""
FREE = 5.0
"""Seconds that a busy machine may take for what takes less than one."""


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    with trial_grid(tmp_path_factory.mktemp("grid"), JOBS_LEASE="30") as grid:
        yield grid


class Donation:
    """A donor's agent, without the grid's account of it: the process, its orders, its guard."""

    def __init__(self, grid, folder, *, pull=False, **limits):
        self.grid, self.pull = grid, pull
        limits = Limits(pause_for_other_gpu_programs=True, **limits)
        self.donor = Donor(
            id=f"donor-{folder.name}", region="oceania", supported_types=frozenset({"trial"}), limits=limits
        )
        self.desk = OrderDesk(folder / "orders")
        scheduler = None if pull else grid.grid.places.address
        self.freeing = Freeing(self.desk, self.donor.id, Doors, lambda: scheduler)
        self.work = Workplace(self._part, self.freeing.give_back)
        self.sensors = folder / "sensors.json"
        self.guarding = Guarding(FileSensors(self.sensors), lambda: self.donor.limits, self._decide)
        self.read()

    def _part(self):
        said = {orders.VARIABLE: str(self.desk._path)}
        if not self.pull:
            return worker_part(
                self.grid.grid.places.address, self.donor, drain_timeout=5, environment=said, quiet=False
            )
        command = (sys.executable, "-m", "idlegrid.api.pull_process", self.grid.grid.url)
        return Part("puller", command, said | {VARIABLE: to_variable(self.donor)}, must_start=False)

    def _decide(self):
        if self.guarding.verdict.free_now:
            self.work.want(Want.STOP, self.guarding.blocked or "")
        else:
            self.work.want(Want.WORK)

    def read(self, **readings):
        """What the sensors say from now on."""
        draft = self.sensors.with_suffix(".draft")
        draft.write_text(json.dumps(readings))
        draft.replace(self.sensors)

    async def until(self, condition):
        async with asyncio.timeout(DEADLINE):
            while not (found := await asyncio.to_thread(condition)):  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.02)
        return found

    async def works_on(self, **params):
        """A job that this donor is at; its id. Until it first asks for work, the grid's own worker takes what comes."""
        async with asyncio.timeout(DEADLINE):
            while True:
                job_id = self.grid.submit(job=HERE, **params)
                job = await asyncio.to_thread(self.grid.running, job_id)
                if job.worker_id == self.donor.id:
                    break
                await self.done(job_id)
        await self.until(lambda: self.desk.report.running)
        return job_id

    async def done(self, job_id):
        """The job, once it has ended, and how its attempts ended."""
        job = await self.until(lambda: job if (job := self.grid.grid.job(job_id)).status.final else None)
        return job, [(one.worker_id, one.outcome) for one in self.grid.grid.attempts(job_id)]


@contextlib.asynccontextmanager
async def donated(grid, folder, **how):
    one = Donation(grid, folder, **how)
    async with one.desk:
        await one.desk.say(donor_order(one.donor))
        one.work.want(Want.WORK)
        loops = [asyncio.create_task(one.work.run()), asyncio.create_task(one.guarding.run())]
        try:
            await asyncio.wait_for(one.desk.wait_connected(), DEADLINE)
            if not how.get("pull"):
                await one.until(lambda: (grid.here().get(one.donor.id) or {}).get("state") == "online")
            yield one
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)


def took(what, began):
    """Tell what was measured, and hold it to a bound that any machine keeps."""
    seconds = time.monotonic() - began
    logging.getLogger(__name__).warning("measured: %s after %.3f s", what, seconds)
    assert seconds < FREE
    return seconds


@pytest.mark.parametrize("pull", [False, True])
async def test_the_process_is_gone_a_moment_after_pause_and_its_job_is_done_elsewhere_once(grid, tmp_path, pull):
    async with donated(grid, tmp_path, pull=pull) as donor:
        job_id = await donor.works_on(value=7, seconds=2, deaf=True)
        pid, began = donor.work.pid, time.monotonic()
        donor.work.want(Want.STOP, "paused by its owner")
        await asyncio.wait_for(donor.work.vacant(), DEADLINE)
        took(f"gone after pause ({'pull' if pull else 'dask'})", began)
        assert not psutil.pid_exists(pid)
        await donor.until(lambda: grid.grid.attempts(job_id)[0].outcome)
        took("handed back after pause", began)
        job, attempts = await donor.done(job_id)
    assert (job.status, job.result["value"], job.errors, job.deaths, job.losses) == (JobStatus.COMPLETED, 7, 0, 0, 0)
    assert attempts == [(donor.donor.id, "handed_back"), ("local-0", "completed")]
    assert [line.outcome for line in donor.desk.report.finished] == ["handed_back"]


async def test_the_owners_program_appears_and_the_device_is_free(grid, tmp_path):
    async with donated(grid, tmp_path) as donor:
        job_id = await donor.works_on(value=8, seconds=2)
        began = time.monotonic()
        donor.read(programs=[{"pid": 1, "name": "blender", "memory_gb": 3.0, "computes": True}])
        await donor.until(lambda: not donor.work.occupied)
        took("gone after another program", began)
        assert donor.guarding.blocked == "blender (3.0 GB) uses the GPU"
        assert (await donor.done(job_id))[1] == [(donor.donor.id, "handed_back"), ("local-0", "completed")]
        told = grid.grid.store.jobs.attempts(job_id)[0]
    assert "blender" not in f"{told}", "what its owner runs stays on the machine"


async def test_a_frozen_process_is_killed_and_its_mark_told(grid, tmp_path):
    async with donated(grid, tmp_path) as donor:
        job_id = await donor.works_on(value=9, seconds=2)
        pid, began = donor.work.pid, time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        donor.work.want(Want.STOP, "paused by its owner")
        await asyncio.wait_for(donor.work.vacant(), DEADLINE)
        took("a frozen process gone after pause", began)
        assert not psutil.pid_exists(pid)
        assert await donor.freeing.tell_rest(DEADLINE)
        job, attempts = await donor.done(job_id)
    assert attempts == [(donor.donor.id, "handed_back"), ("local-0", "completed")]
    assert (job.deaths, job.losses) == (0, 0)


async def test_without_the_hand_back_the_same_stop_is_a_death(grid, tmp_path):
    """The control: the process is killed as it is, and the grid takes its donor for broken."""
    async with donated(grid, tmp_path) as donor:
        job_id = await donor.works_on(value=9, seconds=2)
        os.killpg(donor.work.pid, signal.SIGKILL)
        donor.work.want(Want.FINISH)
        job, attempts = await donor.done(job_id)
    assert attempts[0] == (donor.donor.id, "died")
    assert job.deaths == 1


@pytest.mark.parametrize("asked", [True, False])
async def test_a_plain_task_runs_elsewhere_and_is_not_blamed(grid, tmp_path, asked):
    async with donated(grid, tmp_path) as donor, Client(grid.grid.places.address, asynchronous=True) as client:
        said = {"type": "trial", "region": "oceania", "deaths_allowed": 0}
        with dask.annotate(grid=said):
            future = client.submit(time.sleep, 2, pure=False)
        await donor.until(lambda: donor.desk.report.running)
        if asked:
            donor.work.want(Want.STOP, "paused by its owner")
            assert await asyncio.wait_for(future, DEADLINE) is None
        else:  # the control: nobody told the scheduler
            os.killpg(donor.work.pid, signal.SIGKILL)
            donor.work.want(Want.FINISH)
            with pytest.raises(KilledWorker):
                await asyncio.wait_for(future, DEADLINE)


async def test_limits_that_change_are_in_force_without_a_restart(grid, tmp_path):
    async with donated(grid, tmp_path) as donor:
        pid = donor.work.pid
        donor.donor = replace(donor.donor, limits=replace(donor.donor.limits, max_concurrent_jobs=2))
        await donor.desk.say(donor_order(donor.donor))
        await donor.until(lambda: grid.here()[donor.donor.id]["max_concurrent_jobs"] == 2)
        ids = [grid.submit(job=HERE | {"allow_cross_region": False}, seconds=1, value=n) for n in range(2)]
        await donor.until(lambda: len(donor.desk.report.running) == 2)
        await donor.desk.say({"order": "pause"})
        for job_id in ids:
            assert (await donor.done(job_id))[1] == [(donor.donor.id, "completed")]
        await donor.until(lambda: grid.here()[donor.donor.id]["state"] == "paused")
        assert donor.work.pid == pid
