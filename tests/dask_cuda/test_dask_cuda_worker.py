"""A stock ``dask-cuda-worker`` with our preload is a donor. `scripts/test-dask-cuda` runs this where dask-cuda is.

The devices are those that CUDA_VISIBLE_DEVICES names; nothing here touches one.
"""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import dask
import dask_cuda
import distributed
from distributed import Client, get_worker

from idlegrid.grid.jobs import Ask
from idlegrid.scheduler_plugins.scheduler import GridScheduler

PRELOAD = "idlegrid.scheduler_plugins.preload"


def where():
    return get_worker().name, os.environ["CUDA_VISIBLE_DEVICES"]


where.__module__ = "__main__"  # so that it travels by value: the workers can't import this file


@asynccontextmanager
async def cuda_workers(address, folder, *arguments, **variables):
    """``dask-cuda-worker`` as a process of its own, as a donor starts it."""
    command = Path(sys.executable).with_name("dask-cuda-worker")
    process = await asyncio.create_subprocess_exec(
        command, address, "--host", "127.0.0.1", "--no-dashboard", "--local-directory", folder, *arguments,
        env={**os.environ, **variables}, cwd=folder,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await process.wait()


@asynccontextmanager
async def grid():
    async with (
        GridScheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler,
        Client(scheduler.address, asynchronous=True) as client,
    ):
        yield scheduler, client


def test_dask_cuda_and_the_product_agree_on_dask():
    assert dask_cuda.__version__.startswith("26.10")
    assert distributed.__version__ == version("dask") == "2026.7.1"


async def test_one_worker_per_gpu_joins_as_a_donor_of_its_own(tmp_path):
    settings = {"CUDA_VISIBLE_DEVICES": "0,1", "GPU_REGION": "europe-west", "GPU_MAX_CONCURRENT_JOBS": "2"}
    async with (
        grid() as (scheduler, client),
        cuda_workers(scheduler.address, tmp_path, "--preload", PRELOAD, **settings),
    ):
        await client.wait_for_workers(2, timeout=60)
        rows = (await client.scheduler.grid_state())["workers"]
        assert len({row["id"] for row in rows}) == 2
        told = [(row["region"], row["max_concurrent_jobs"], row["state"]) for row in rows]
        assert told == [("europe-west", 2, "online")] * 2
        with dask.annotate(grid=Ask(type="embedding").to_annotation()):
            answers = await asyncio.wait_for(client.gather([client.submit(where, pure=False) for _ in range(20)]), 30)
        assert {devices for _, devices in answers} <= {"0,1", "1,0"}
        await client.scheduler.grid_control(donor=rows[0]["id"], action="pause")
        with dask.annotate(grid=Ask(type="embedding").to_annotation()):
            answers = await asyncio.wait_for(client.gather([client.submit(where, pure=False) for _ in range(6)]), 30)
        assert len({devices for _, devices in answers}) == 1


async def test_the_donors_are_the_same_after_a_restart(tmp_path):
    seen = []
    for _ in range(2):
        async with (
            grid() as (scheduler, client),
            cuda_workers(
                scheduler.address, tmp_path, "--preload", PRELOAD, CUDA_VISIBLE_DEVICES="0,1", GPU_WORKER_NAME="lab"
            ),
        ):
            await client.wait_for_workers(2, timeout=60)
            seen.append({row["id"] for row in (await client.scheduler.grid_state())["workers"]})
    assert seen[0] == seen[1]


async def test_without_the_preload_it_gets_no_grid_work(tmp_path):
    """The control: it is our preload that lets it in."""
    async with grid() as (scheduler, client), cuda_workers(scheduler.address, tmp_path, CUDA_VISIBLE_DEVICES="0"):
        await client.wait_for_workers(1, timeout=60)
        state = await client.scheduler.grid_state()
        assert (len(state["workers"]), len(state["without_facts"])) == (0, 1)
        with dask.annotate(grid=Ask(type="embedding").to_annotation()):
            waiting = client.submit(where, pure=False)
        assert (await client.submit(where, pure=False))[1] == "0", "stock work runs"
        assert scheduler.tasks[waiting.key].state == "no-worker"
