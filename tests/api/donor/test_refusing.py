"""A scheduler that knows no rules pushes work to a donor outside its hours: refused there, told, and done elsewhere.

The scheduler is stock Dask's; the donors are real worker processes, one whose owner allows nothing now and one that
takes all. The control is the same without the donor's own guard.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dask
import pytest
from distributed import Client, Scheduler
from trial_grid import trial_grid

from idlegrid.api.agent import worker_part
from idlegrid.api.donor import orders
from idlegrid.api.donor.orders import OrderDesk
from idlegrid.api.supervision import Supervised
from idlegrid.grid import capability
from idlegrid.grid.donors import Donor, Limits
from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.secret import load_secret
from idlegrid.grid.store import NewJob
from idlegrid.pipelines.dispatch.attempt import run
from idlegrid.pipelines.dispatch.work_order import WorkOrder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEADLINE = 90.0
HOUR = datetime.now(UTC).hour
CLOSED = Limits(working_hours_start=(HOUR + 4) % 24, working_hours_end=(HOUR + 6) % 24)
"""However long this runs, it is not yet in these hours."""
UNGUARDED = """
import sys
from idlegrid.grid.verdicts import ACCEPTED
from idlegrid.pipelines.dispatch.slots import SlotGuard
SlotGuard.take = lambda self, name, ask: ACCEPTED
from idlegrid.api.worker_process import main
main(sys.argv[1:])
"""
"""A worker process that leaves its owner's limits to the scheduler."""


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """For its store and its service: no worker of it may take what is pushed here."""
    with trial_grid(tmp_path_factory.mktemp("grid")) as grid:
        yield grid


class Stage:
    """A stock scheduler and two donors."""

    def __init__(self, grid, scheduler, client, desk):
        self.grid, self.store, self.scheduler, self.client, self.desk = grid, grid.grid.store, scheduler, client, desk

    async def until(self, condition):
        async with asyncio.timeout(DEADLINE):
            while not (found := await asyncio.to_thread(condition)):  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.02)
        return found

    async def push(self, job_id, name):
        """An attempt at the job, sent to that donor without asking anybody; what became of it there."""
        address = next(ws.address for ws in self.scheduler.workers.values() if ws.name == name)
        order = await self.until(lambda: self._claimed(job_id))
        return await asyncio.wait_for(self.client.submit(run, order, workers=[address], pure=False), DEADLINE)

    def _claimed(self, job_id):
        claims = self.store.jobs.claim(types=["trial"], limit=1, lease=30, holder="no rules", only=job_id)
        if not claims:
            return None
        job, fence = claims[0].job, claims[0].fence
        return WorkOrder(
            job_id=job.id,
            fence=fence,
            type=job.type,
            params=dict(job.params),
            timeout_seconds=60,
            lease_seconds=30,
            token=capability.mint(load_secret(), job.id, fence, datetime.now(UTC) + timedelta(hours=1)),
            api=(self.grid.grid.url,),
        )

    def attempts(self, job_id):
        return [(one.worker_id, one.outcome, one.detail) for one in self.store.jobs.attempts(job_id)]


@contextlib.asynccontextmanager
async def staged(grid, folder, *, guarded):
    closed = Donor(id=f"closed-{guarded}", name="closed", supported_types=frozenset({"trial"}), limits=CLOSED)
    open_ = Donor(id=f"open-{guarded}", name="open", supported_types=frozenset({"trial"}))
    async with (
        Scheduler(port=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as scheduler,
        Client(scheduler.address, asynchronous=True) as client,
        OrderDesk(folder / "orders") as desk,
    ):
        said = {orders.VARIABLE: str(folder / "orders")}
        parts = [
            worker_part(scheduler.address, closed, drain_timeout=1, environment=said),
            worker_part(scheduler.address, open_, drain_timeout=1),
        ]
        if not guarded:
            parts[0] = replace(parts[0], command=(sys.executable, "-c", UNGUARDED, *parts[0].command[3:]))
        stop = asyncio.Event()
        running = [asyncio.create_task(Supervised(part).run(stop)) for part in parts]
        try:
            await client.wait_for_workers(2, timeout=DEADLINE)
            yield Stage(grid, scheduler, client, desk)
        finally:
            stop.set()
            await asyncio.gather(*running)


@pytest.mark.parametrize("guarded", [True, False])
async def test_an_attempt_outside_the_hours(grid, tmp_path, guarded):
    async with staged(grid, tmp_path, guarded=guarded) as stage:
        job = NewJob(type="trial", params={"value": 5}, region="oceania", allow_cross_region=False)
        job_id = stage.store.jobs.accept(job).job.id
        said = await stage.push(job_id, "closed")
        if not guarded:  # the control: it ran at night, though its owner sleeps beside it
            assert (said, stage.attempts(job_id)) == ("told", [("closed-False", "completed", None)])
            return
        assert said == "declined"
        [(worker, outcome, detail)] = stage.attempts(job_id)
        assert (worker, outcome) == ("closed-True", "refused_by_donor")
        assert detail.startswith("outside_working_hours: works ")
        await stage.until(lambda: stage.desk.report.refused)
        assert stage.desk.report.refused[0].reason == "outside_working_hours"
        assert await stage.push(job_id, "open") == "told"
        done = stage.store.jobs.get(job_id, with_result=True)
        assert (done.status, done.result["value"], done.errors, done.attempts) == (JobStatus.COMPLETED, 5, 0, 1)


@pytest.mark.parametrize("guarded", [True, False])
async def test_plain_tasks_outside_the_hours(grid, tmp_path, guarded):
    async with staged(grid, tmp_path, guarded=guarded) as stage:
        with dask.annotate(grid={"type": "trial"}):
            futures = [stage.client.submit(time.sleep, 0.3, pure=False) for _ in range(8)]
        async with asyncio.timeout(DEADLINE):
            await stage.client.gather(futures)
        ran_on = {ws.name for future in futures for ws in stage.scheduler.tasks[future.key].who_has}
        assert ran_on == ({"open"} if guarded else {"open", "closed"})
        if guarded:
            await stage.until(lambda: stage.desk.report.refused)
            assert {one.reason for one in stage.desk.report.refused} == {"outside_working_hours"}
