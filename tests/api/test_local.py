"""A grid on this machine: what is refused before anything starts, and what becomes of its processes."""

from __future__ import annotations

import os
import signal
import socket
from textwrap import dedent

import psutil
import pytest
from distributed import Nanny, Scheduler, Status

from idlegrid.api.local import KEEPS_MEMORY, LOOPBACK, ModelNanny, local_cluster
from idlegrid.api.ports import CannotStart
from idlegrid.grid.config import Settings
from idlegrid.grid.regions import UnknownRegionError


@pytest.mark.parametrize("workers", [0, -1])
def test_a_grid_without_workers_is_refused(workers):
    with pytest.raises(ValueError, match=f"at least 1 worker, not {workers}"):
        local_cluster(workers=workers)


def test_a_region_that_does_not_exist_is_refused():
    with pytest.raises(UnknownRegionError, match=r"'europe-wst'.*Did you mean 'europe-west'"):
        local_cluster(workers=1, regions=["asia-east", "europe-wst"])


def test_a_taken_port_is_told_before_anything_starts():
    before = set(psutil.Process().children())
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        holder.listen()
        with pytest.raises(CannotStart, match="is taken: is a grid running already"):
            local_cluster(workers=1, scheduler_port=holder.getsockname()[1])
    assert not set(psutil.Process().children()) - before


@pytest.mark.slow
def test_workers_are_donors_of_their_regions_with_the_configured_limits():
    settings = Settings.model_validate({"load_control": {"max_concurrent_jobs": 2, "max_jobs_per_hour": 9}})
    before = set(psutil.Process().children(recursive=True))
    with local_cluster(workers=3, regions=["oceania", "asia-east"], settings=settings) as cluster:
        state = cluster.scheduler.handlers["grid_state"]()
        assert {row["name"]: row["region"] for row in state["workers"]} == {
            "local-0": "oceania",
            "local-1": "asia-east",
            "local-2": "oceania",
        }
        assert {(row["max_concurrent_jobs"], row["max_jobs_per_hour"]) for row in state["workers"]} == {(2, 9)}
        assert {ws.nthreads for ws in cluster.scheduler.workers.values()} == {2}
        assert cluster.scheduler_address.startswith(f"tcp://{LOOPBACK}:")
        assert all(address.startswith(f"tcp://{LOOPBACK}:") for address in cluster.scheduler.workers)
        processes = set(psutil.Process().children(recursive=True)) - before
        workers = [process for process in processes if "spawn_main" in " ".join(process.cmdline())]
        assert len(workers) == 3
        assert all(worker.environ().items() >= KEEPS_MEMORY.items() for worker in workers), "read when a process starts"
    assert psutil.wait_procs(workers, timeout=10)[1] == []


SCRIPT = """
    from idlegrid.api import Grid

    {guard}
        grid = Grid(workers=2)
        print("up", *(pid for pid in grid.client.run(__import__("os").getpid).values()), flush=True)
        {then}
"""


def script(folder, guard, then="pass"):
    path = folder / "script.py"
    path.write_text(dedent(SCRIPT).format(guard=guard, then=then))
    return path


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so_instead_of_hanging(start, tmp_path):
    program = start(script=script(tmp_path, "if True:"))
    program.line('must start its grid under if __name__ == "__main__"')
    program.line("CannotStart: a worker process ended before it was ready")
    assert program.end() == 1


@pytest.mark.slow
def test_a_script_that_forgets_to_close_ends_all_the_same(start, tmp_path):
    program = start(script=script(tmp_path, 'if __name__ == "__main__":'))
    workers = [psutil.Process(int(pid)) for pid in program.line(r"^up (\d+ \d+)")[1].split()]
    assert program.end() == 0
    assert psutil.wait_procs(workers, timeout=10)[1] == []


@pytest.mark.slow
def test_no_worker_outlives_a_driver_that_was_killed(start, tmp_path):
    program = start(script=script(tmp_path, 'if __name__ == "__main__":', "input()"))
    workers = [psutil.Process(int(pid)) for pid in program.line(r"^up (\d+ \d+)")[1].split()]
    program.stop(signal.SIGKILL)
    assert psutil.wait_procs(workers, timeout=10)[1] == []


@pytest.mark.slow
def test_ctrl_c_is_for_the_one_in_front(grid):
    """A terminal, and a notebook's interrupt, sends it to every process of the group."""
    before = set(grid.client.run(os.getpid).values())
    grid.client.run(lambda: os.kill(os.getpid(), signal.SIGINT))
    assert set(grid.client.run(os.getpid).values()) == before


@pytest.mark.slow
async def test_a_killed_worker_that_takes_its_time_to_go_is_no_error():
    """The control is Dask's own nanny: with no time left after the kill it raises."""
    nobody = f"{LOOPBACK}:0"
    async with Scheduler(host=LOOPBACK, port=0, dashboard_address=nobody) as scheduler:
        ours, dasks = [await kind(scheduler.address, nthreads=1, dashboard=False) for kind in (ModelNanny, Nanny)]
        try:
            await ours.kill(timeout=0)
            assert ours.process.status == Status.stopped
            with pytest.raises(TimeoutError):
                await dasks.kill(timeout=0)
        finally:
            await ours.close()
            await dasks.close()
