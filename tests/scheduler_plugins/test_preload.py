"""Stock ``dask scheduler`` and ``dask worker`` with our preload, as processes."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager

import dask
import pytest
from distributed import Client, get_worker
from small_cluster import annotation, donor
from tornado.httpclient import AsyncHTTPClient

from idlegrid.scheduler_plugins.machine import VARIABLE, to_variable

PRELOAD = ["--preload", "idlegrid.scheduler_plugins.preload"]
pytestmark = pytest.mark.slow


def where(*_args):
    return get_worker().name


where.__module__ = "__main__"  # so that it travels by value: these workers can't import this file


@asynccontextmanager
async def dask_process(*arguments, env=None):
    """``dask …`` as a process; yields an iterator over what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dask", *arguments,
        env={**os.environ, **(env or {})}, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.communicate()


async def said(process, words):
    async with asyncio.timeout(40):
        while line := (await process.stderr.readline()).decode():
            if words in line:
                return line.strip()
    raise AssertionError(f"it never said {words!r}")


async def test_stock_scheduler_and_stock_workers_become_a_grid(tmp_path):
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        where_to = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
        scheduler = await enter(dask_process("scheduler", *where_to, *PRELOAD))
        address = (await said(scheduler, "Scheduler at:")).split()[-1]
        dashboard = (await said(scheduler, "dashboard at:")).split()[-1]
        options = ["--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1", "--local-directory", str(tmp_path)]
        variables = {VARIABLE: to_variable(donor("by variable", region="oceania"))}
        await enter(dask_process("worker", address, "--name", "one", *options, *PRELOAD, env=variables))
        settings = {"GPU_REGION": "europe-west", "GPU_MAX_CONCURRENT_JOBS": "2"}
        await enter(dask_process("worker", address, "--name", "two", *options, *PRELOAD, env=settings))
        await enter(dask_process("worker", address, "--name", "stranger", *options))
        client = await enter(Client(address, asynchronous=True))
        await client.wait_for_workers(3, timeout=40)
        state = await client.scheduler.grid_state()
        rows = {row["region"]: row for row in state["workers"]}
        assert rows["oceania"]["id"] == "by variable"
        assert rows["europe-west"]["max_concurrent_jobs"] == 2
        assert list(state["without_facts"]) == ["stranger"]
        with dask.annotate(**annotation(region="europe-west")):
            assert await client.submit(where, pure=False) == "two"
            assert set(await client.gather(client.map(where, range(30), pure=False))) <= {"one", "two"}
        page = await AsyncHTTPClient().fetch(dashboard.rsplit("/", 1)[0] + "/grid")
        assert '<a href="grid">Grid</a>' in page.body.decode()
