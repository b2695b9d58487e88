"""R2: scheduler, workers, dispatcher and HTTP service are killed in turn, again and again; then everything drains."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from distributed import Client as DaskClient
from grid_processes import Client, drained, grid

from idlegrid.api.ports import Reserved
from idlegrid.grid.jobs import JobStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DRAIN = 30.0


async def fault(grid, part, first, every, ends):
    """Kill one part again and again."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(first)
    while loop.time() < ends:
        grid.kill(part)
        await asyncio.sleep(every * random.uniform(0.8, 1.2))


async def test_all_jobs_drain_after_the_last_fault(site, postgres_url, monkeypatch, long):
    for name, value in {
        "IDLEGRID_DATABASE_URL": postgres_url,
        "IDLEGRID_JOBS_LEASE": "4",
        "IDLEGRID_JOBS_MAX_ATTEMPTS": "20",
        "IDLEGRID_API_PORT": "0",
        "IDLEGRID_SCHEDULER_PORT": "0",
        "IDLEGRID_SCHEDULER_DASHBOARD_PORT": "0",
    }.items():
        monkeypatch.setenv(name, value)
    seconds, pause = (40.0, 2.0) if long else (12.0, 1.3)
    async with grid(workers=2) as g:
        client, stop = Client(g.url), asyncio.Event()
        clients = [asyncio.create_task(client.keep_on(stop, 0.3, seconds=0.3)) for _ in range(2)]
        ends = asyncio.get_running_loop().time() + seconds
        faults = [
            fault(g, g.scheduler, 2 * pause, 4 * pause, ends),
            fault(g, g.workers[0], 1 * pause, 3 * pause, ends),
            fault(g, g.workers[1], 2.5 * pause, 3 * pause, ends),
            fault(g, g.dispatcher, 3 * pause, 4 * pause, ends),
            fault(g, g.api, 1.5 * pause, 4 * pause, ends),
        ]
        await asyncio.gather(*faults)
        stop.set()
        await asyncio.gather(*clients)
        took = await drained(g, client.acked, DRAIN)
        await client.close()
        jobs = [g.job(job_id) for job_id in client.acked]
        ended = Counter(attempt.outcome for job in jobs for attempt in g.attempts(job.id))
        print(f"\nkilled {dict(g.killed)}; {len(jobs)} acked, drained in {took:.1f} s; attempts {dict(ended)}")
        assert Counter(job.status for job in jobs) == {JobStatus.COMPLETED: len(jobs)}
        assert ended["completed"] == len(jobs), "no job was completed twice"
        assert len(g.killed) == 5
        assert g.killed.total() >= 8, "a part that starts slowly is not there to be killed each time"


async def test_a_stock_worker_is_nobodys_after_its_schedulers_death(tmp_path):
    """The control, and what kept a prototype from draining: Dask's own worker closes itself when its scheduler dies,
    but waits for the task that it runs. Its process lives, holds its device, and belongs to no scheduler.
    """
    place = Reserved("127.0.0.1", 0, "--port")
    commands = {
        "scheduler": ["scheduler", "--host", place.host, "--port", str(place.port), "--no-dashboard"],
        "worker": ["worker", f"tcp://{place.host}:{place.port}", "--no-nanny", "--nthreads", "1", "--no-dashboard"],
    }
    running = {}

    def start(name):
        code = f"from distributed.cli import dask_{name} as c; c.main({commands[name][1:]!r})"
        running[name] = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, cwd=tmp_path)

    try:
        start("scheduler")
        start("worker")
        async with DaskClient(f"tcp://{place.host}:{place.port}", asynchronous=True, timeout=60) as client:
            await client.wait_for_workers(1, timeout=60)
            future = client.submit(time.sleep, 300)
            await until_async(lambda: client.processing(), lambda held: any(held.values()))
            running["scheduler"].kill()
            running["scheduler"].wait(30)
            del future
        start("scheduler")
        async with DaskClient(f"tcp://{place.host}:{place.port}", asynchronous=True, timeout=60) as client:
            await asyncio.sleep(3.0)  # an idle one would have ended long ago, ours would have been replaced
            assert running["worker"].poll() is None, "it still holds its device"
            assert (await client.scheduler.identity())["workers"] == {}, "and works for nobody"
    finally:
        for process in running.values():
            process.kill()
            process.wait(30)
        place.close()


async def until_async(ask, enough):
    async with asyncio.timeout(60):
        while not enough(await ask()):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.05)
