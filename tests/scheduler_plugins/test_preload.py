"""Stock ``dask scheduler`` and ``dask worker`` with our preload, as processes."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager

import dask
import pytest
from distributed import Client, get_worker
from distributed.core import rpc
from distributed.protocol.pickle import dumps
from gated_cluster import Papers
from small_cluster import annotation, donor
from tornado.httpclient import AsyncHTTPClient

from idlegrid.grid.peers import Role
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


async def test_stock_processes_are_gated_on_a_grid_with_tls(tmp_path):
    """A stock scheduler, and a stock worker under a nanny, with certificates and the preload: nothing but settings."""
    papers = Papers(tmp_path / "tls")
    tls = {"IDLEGRID_SCHEDULER_TLS": "true"}

    def shown(role, name):
        paper = papers.paper(role, name)
        return ["--tls-ca-file", str(paper.authority), "--tls-cert", str(paper.file), "--protocol", "tls"]

    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        where_to = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
        own = shown(Role.SCHEDULER, "scheduler")
        scheduler = await enter(dask_process("scheduler", *where_to, *own, *PRELOAD, env=tls))
        papers.scheduler = address = (await said(scheduler, "Scheduler at:")).split()[-1]
        options = ["--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1", "--local-directory", str(tmp_path)]
        nanny = ["--nanny", "--preload-nanny", PRELOAD[1]]
        await enter(dask_process("worker", address, *options, *nanny, *shown(Role.WORKER, "w"), *PRELOAD, env=tls))
        client = await enter(Client(address, asynchronous=True, security=papers.gated(Role.CLIENT, "me")))
        await client.wait_for_workers(1, timeout=60)
        [row] = (await client.scheduler.grid_state())["workers"]
        assert row["id"].startswith("w/")
        assert await client.submit(sum, [1, 2]) == 3
        [nanny_at] = [one["nanny"] for one in client.scheduler_info()["workers"].values()]
        evil = papers.stock(Role.WORKER, "evil").get_connection_args("worker")
        [worker_at] = client.scheduler_info()["workers"]
        async with rpc(address, connection_args=evil) as one:
            assert (await one.identity(n_workers=0))["workers"] == {}
        for place, op in ((address, "run_function"), (worker_at, "run"), (nanny_at, "run"), (nanny_at, "kill")):
            async with rpc(place, connection_args=evil) as one:
                with pytest.raises(OSError):
                    await getattr(one, op)(**({} if op == "kill" else {"function": dumps(os.getpid)}))
        assert await client.submit(sum, [1, 2, 3]) == 6
