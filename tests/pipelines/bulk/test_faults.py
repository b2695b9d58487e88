"""Real processes, really killed: what is read afterwards is the undisturbed output, row by row.

The controls switch one protection off and show that the same fault then loses or doubles rows.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import bulk_driver
import pyarrow as pa
import pytest
from bulk_helpers import (
    KILLER,
    HashSpec,
    InPlaceTarget,
    RandomNamesTarget,
    TracedTarget,
    arm,
    assert_complete,
    cluster,
    expected,
    read,
    table,
    write,
)
from distributed import Scheduler
from forked import forking

from idlegrid.pipelines.bulk import BulkJob, GridUnavailable, JobIncomplete, Patience, TargetError
from idlegrid.pipelines.bulk.attempts import KILLED

pytestmark = pytest.mark.slow

DEADLINE = 60.0
FORKED = {"distributed.worker.multiprocessing-method": "forkserver"}
WORKER_POINTS = [
    "bulk.unit.started",
    "bulk.part.created",
    "bulk.unit.computed",
    "bulk.part.mid_write",
    "bulk.part.before_sync",
    "bulk.part.after_sync",
    "bulk.part.before_link",
    "bulk.part.after_link",
]
DRIVER_POINTS = [
    "bulk.plan.before",
    "bulk.create.before_link:1",
    "bulk.create.after_link:1",
    "bulk.plan.after",
    "bulk.drive.part_done:1",
    "bulk.drive.part_done:3",
    "bulk.manifest.before",
    "bulk.create.before_link:2",
    "bulk.manifest.after",
    "bulk.success.after",
    "bulk.cleared",
]


@pytest.fixture(scope="module")
def processes():
    """Workers and drivers are killed and started dozens of times: forked from one that has imported everything."""
    with forking("bulk_driver", Path(__file__).parent) as processes:
        yield processes


@pytest.fixture(scope="module")
def grid(processes):
    with cluster(**FORKED) as client:
        yield client


@pytest.fixture(autouse=True)
def two_workers(request):
    """Each test starts with both workers up."""
    if "grid" in request.fixturenames:
        request.getfixturevalue("grid").wait_for_workers(2, timeout=DEADLINE)


def pids(client) -> dict[str, int]:
    return client.run(os.getpid)


def job(source, target, **options) -> BulkJob:
    return BulkJob(
        **{"spec": HashSpec(), "source": source, "target": target, "column": "text", "unit_rows": 25, **options}
    )


def until(condition, what):
    """Wait for something outside of this process."""
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {DEADLINE} s"
        time.sleep(0.02)
    return found


def arm_one(client, point):
    """Let one worker kill itself at a point; the process that replaces it is not armed."""
    address, pid = next(iter(pids(client).items()))
    client.run(arm, point, workers=[address])
    return pid


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_a_worker_killed_at_any_step_costs_and_doubles_nothing(grid, tmp_path, point):
    rows = table(200)
    path = write(tmp_path / "a.parquet", rows)
    victim = arm_one(grid, point)
    report = job(path, tmp_path / "out").run(grid)
    assert victim not in pids(grid).values(), f"nobody died at {point}"
    assert_complete(tmp_path / "out", rows)
    assert report.errors == 0


def test_control_random_names_double_rows(grid, tmp_path):
    rows = table(200)
    path = write(tmp_path / "a.parquet", rows)
    arm_one(grid, "bulk.part.after_link")
    with pytest.raises(TargetError):  # our own end check does not let it pass for complete
        job(path, RandomNamesTarget(tmp_path / "out")).run(grid)
    ids = read(tmp_path / "out")["id"].to_pylist()
    assert len(ids) > len(set(ids)), "the control shows no doubled row: the test above proves nothing"


def test_control_writing_in_place_leaves_torn_parts(grid, tmp_path):
    rows = table(200)
    path = write(tmp_path / "a.parquet", rows)
    arm_one(grid, "bulk.part.mid_write")
    with pytest.raises((JobIncomplete, TargetError)):
        job(path, InPlaceTarget(tmp_path / "out")).run(grid)
    with pytest.raises(pa.ArrowInvalid, match=r"magic bytes not found|Parquet"):
        read(tmp_path / "out")


@pytest.mark.parametrize("point", DRIVER_POINTS)
def test_a_driver_killed_at_any_step_is_resumed(grid, processes, tmp_path, point):
    rows = table(100)
    path = write(tmp_path / "a.parquet", rows)
    arguments = (grid.scheduler.address, str(path), str(tmp_path / "out"), point)
    driver = processes.Process(target=bulk_driver.drive, args=arguments)
    driver.start()
    driver.join(DEADLINE)
    code = driver.exitcode
    driver.kill()
    driver.join()
    assert code == -signal.SIGKILL, f"the driver did not die at {point}"
    job(path, tmp_path / "out").run(grid)
    assert_complete(tmp_path / "out", rows)


def test_workers_killed_at_random_moments(grid, tmp_path):
    """Every worker dies at least once in a job of 64 parts; less than 15 % is done again."""
    rows = table(64 * 25)
    path = write(tmp_path / "a.parquet", rows)
    target = TracedTarget(tmp_path / "out")
    first = set(pids(grid).values())
    moments = sorted(random.Random(7).sample(range(2, 50), len(first)))
    victims = dict(zip(moments, first, strict=True))

    def kill(look):
        for moment in [moment for moment in victims if moment <= look.units]:
            os.kill(victims.pop(moment), signal.SIGKILL)

    job(path, target, spec=HashSpec(0.004)).run(grid, kill)
    assert not first & set(pids(grid).values())
    assert_complete(tmp_path / "out", rows)
    # each part was given its name once; who is killed between that and its note leaves no note
    assert 64 - len(first) <= sum(mine == "True" for _, _, mine in target.published()) <= 64
    assert target.begun() <= 64 * 1.15


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_zombie_that_wakes_after_its_part_was_redone_is_ignored(tmp_path):
    rows = table(100)
    path = write(tmp_path / "a.parquet", rows)
    target = TracedTarget(tmp_path / "out", gated="part-00001.parquet")
    with _two_bare_workers() as client, _frozen_until_redone(client, target):
        job(path, target).run(client)
        manifest = (tmp_path / "out/_manifest.json").read_bytes()
        late = _wake(target)
    assert late == ["False"]
    assert (tmp_path / "out/_manifest.json").read_bytes() == manifest
    assert_complete(tmp_path / "out", rows)


def test_control_a_zombie_doubles_rows_under_random_names(tmp_path):
    path = write(tmp_path / "a.parquet", table(100))
    target = RandomNamesTarget(tmp_path / "out", gated="part-00001.parquet")
    with _two_bare_workers() as client, _frozen_until_redone(client, target):
        with pytest.raises(TargetError):
            job(path, target).run(client)
        late = _wake(target)
    ids = read(tmp_path / "out")["id"].to_pylist()
    assert late == ["True"]
    assert len(ids) == len(set(ids)) + 25


def _wake(target):
    """Wake the zombie and wait until it has tried to publish. Returns what came of that."""
    zombie = int(target.trace.with_suffix(".waiting").read_text())
    target.trace.with_suffix(".gate").touch()
    os.kill(zombie, signal.SIGCONT)
    tried = lambda: [first for pid, name, first in target.published() if (pid, name) == (zombie, target.gated)]  # noqa: E731
    return until(tried, "waking")


@contextmanager
def _two_bare_workers():
    """Workers without a nanny, which would kill a frozen one."""
    with cluster(Scheduler, workers=0) as client:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", client.scheduler.address]
        options = ["--no-nanny", "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        workers = [subprocess.Popen([*command, *options], env=env, stderr=subprocess.DEVNULL) for _ in range(2)]
        try:
            client.wait_for_workers(2, timeout=DEADLINE)
            yield client
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


@contextmanager
def _frozen_until_redone(client, target):
    """Freeze the process that is about to publish the gated part, as soon as it is, and have the scheduler give it up.

    As the scheduler itself would after a silence, but no other: on a busy machine a worker that imports is silent too.
    """
    waiting = target.trace.with_suffix(".waiting")
    addresses = {pid: address for address, pid in pids(client).items()}

    def freeze():
        zombie = int(until(lambda: waiting.exists() and waiting.read_text(), "the gate"))
        os.kill(zombie, signal.SIGSTOP)
        given_up = {"address": addresses[zombie], "stimulus_id": "frozen"}
        client.cluster.sync(client.cluster.scheduler.remove_worker, **given_up)

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        with suppress(ProcessLookupError):
            os.kill(int(waiting.read_text()), signal.SIGCONT)


def test_a_row_that_kills_is_found_and_costs_only_itself(grid, tmp_path):
    texts = [KILLER if row == 2815 else f"text {row}" for row in range(4096)]
    path = write(tmp_path / "a.parquet", pa.table({"text": texts}))
    told = []
    report = job(path, tmp_path / "out", unit_rows=4096).run(grid, told.append)
    found = read(tmp_path / "out")
    assert [row for row, error in enumerate(found["error"].to_pylist()) if error] == [2815]
    assert found["error"][2815].as_py() == KILLED
    assert found["embedding"][2815].as_py() is None
    vectors = expected(pa.table({"text": texts}))
    assert [v for v in found["embedding"].to_pylist() if v] == [v for row, v in enumerate(vectors) if row != 2815]
    probes = [one.notice for one in told if "trying rows" in one.notice]
    assert report.errors == 1
    assert len(probes) <= 24


def test_a_killer_in_the_sample_does_not_stop_the_planning(grid, tmp_path):
    texts = ["fine", KILLER, "fine too"]
    path = write(tmp_path / "a.parquet", pa.table({"text": texts}))
    assert job(path, tmp_path / "out").run(grid).errors == 1
    assert read(tmp_path / "out")["error"].to_pylist() == [None, KILLED, None]


def test_when_nobody_may_take_the_work_it_says_why_and_waits(grid, tmp_path):
    rows = table(50)
    path = write(tmp_path / "a.parquet", rows)
    told = []

    def order(action):
        for donor in ("w0", "w1"):
            grid.sync(grid.scheduler.grid_control, donor=donor, action=action)

    def listen(progress):
        told.append(progress.notice)
        if "paused" in progress.notice:
            order("resume")

    order("pause")
    job(path, tmp_path / "out").run(grid, listen)
    assert "may take embedding work: nobody may take it now (2 × paused)" in told[0]
    assert_complete(tmp_path / "out", rows)


def test_a_full_disk_moves_the_part_elsewhere(grid, tmp_path):
    rows = table(200)
    path = write(tmp_path / "a.parquet", rows)
    address = next(iter(pids(grid)))
    limits = (resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    grid.run(resource.setrlimit, *limits, workers=[address])
    job(path, tmp_path / "out").run(grid)
    assert_complete(tmp_path / "out", rows)
    grid.run(resource.setrlimit, *limits)
    with pytest.raises(JobIncomplete, match=r"no space for part-0000\d.parquet of .*: File too large"):
        job(path, tmp_path / "full").run(grid)
    assert names(tmp_path / "full") == {"_plan.json", ".tmp"}
    assert all(name.endswith(".started") for name in names(tmp_path / "full/.tmp"))
    grid.run(resource.setrlimit, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    job(path, tmp_path / "full").run(grid)
    assert_complete(tmp_path / "full", rows)


def test_a_stock_scheduler_will_do(tmp_path):
    rows = table(200)
    path = write(tmp_path / "a.parquet", rows)
    with cluster(Scheduler) as client:
        arm_one(client, "bulk.part.after_link")
        job(path, tmp_path / "out").run(client)
    assert_complete(tmp_path / "out", rows)


def test_without_workers_it_says_so_and_ends(tmp_path):
    path = write(tmp_path / "a.parquet", table(10))
    told = []
    with (
        cluster(workers=0) as client,
        pytest.raises(
            GridUnavailable, match=r"no worker took embedding work: none is connected.*run the same job again"
        ),
    ):
        job(path, tmp_path / "out", patience=Patience(worker=1.5)).run(client, told.append)
    assert any("waiting for a worker that may take embedding work" in one.notice for one in told)


def test_a_lost_scheduler_ends_the_job_and_another_one_resumes_it(grid, tmp_path):
    rows = table(500)
    path = write(tmp_path / "a.parquet", rows)
    with cluster(**{"distributed.comm.timeouts.connect": "2s"}) as client:
        scheduler = client.cluster.scheduler

        def lose(progress):
            if progress.units == 3:
                client.cluster.loop.add_callback(scheduler.close, reason="test")

        with pytest.raises(GridUnavailable, match=r"connection to the scheduler is lost.*run the same job again"):
            job(path, tmp_path / "out", spec=HashSpec(0.002), patience=Patience(scheduler=2)).run(client, lose)
    report = job(path, tmp_path / "out", spec=HashSpec(0.002)).run(grid)
    assert report.reused_parts >= 3
    assert_complete(tmp_path / "out", rows)
