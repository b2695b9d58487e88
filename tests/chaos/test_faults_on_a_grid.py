"""R3, R4, R5, R7, R8 and R13: one fault at a time, on one grid of real processes on a PostgreSQL of its own.

Their controls are in `test_protection_off.py`.
"""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import cloudpickle
import httpx
import psutil
import pytest
import torch
from distributed import Client as DaskClient
from grid_processes import DEADLINE
from postgres import PostgresServer
from trial_grid import trial_grid

from idlegrid.grid.jobs import JobStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LEASE = 2.0
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers don't have this module


@pytest.fixture(scope="module")
def server():
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def grid(tmp_path_factory, server):
    settings = {"DATABASE_URL": server.url(), "DATABASE_TIMEOUT": "2", "JOBS_LEASE": str(LEASE)}
    with trial_grid(tmp_path_factory.mktemp("faults"), workers=3, **settings) as grid:
        yield grid


@pytest.fixture(autouse=True)
def _all_here(grid):
    """Each test begins with all workers in their places."""
    grid.wait(lambda: sum(row["state"] == "online" for row in grid.here().values()) >= 3)


def processes_of(donor_id):
    """Live processes of this grid that work as this donor."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if f'"id": "{donor_id}"' in process.environ().get("IDLEGRID_DONOR", ""):
                found.append(process.pid)
    return found


def outcomes(grid, job_id):
    return [attempt.outcome for attempt in grid.grid.attempts(job_id)]


def test_r4_a_result_survives_its_scheduler_and_no_device_has_two_workers(grid):
    job_id = grid.submit(value=4, seconds=3)
    donor_id = grid.running(job_id).worker_id
    first = grid.worker(donor_id).pid
    assert grid.grid.kill(grid.grid.scheduler)
    seen = []
    job = grid.wait(
        lambda: seen.append(processes_of(donor_id)) or ((job := grid.grid.job(job_id)).status.final and job)
    )
    assert (job.status, job.result["value"], outcomes(grid, job_id)) == (JobStatus.COMPLETED, 4, ["completed"])
    assert max(map(len, seen)) <= 1, "never two of them on one device"
    assert [first] in seen, "the process that computed lived on until it had told its result"
    second = grid.wait(lambda: (now := processes_of(donor_id)) and now != [first] and now)
    assert len(second) == 1


def test_r3_idle_workers_come_back_though_they_exit_with_code_0(grid):
    before = {part.part.name: part.starts for part in grid.grid.workers}
    pids = {part.pid for part in grid.grid.workers}
    began = time.monotonic()
    assert grid.grid.kill(grid.grid.scheduler)
    grid.wait(lambda: all(part.starts > before[part.part.name] for part in grid.grid.workers))
    grid.wait(lambda: sum(row["state"] == "online" for row in grid.here().values()) == 3)
    print(f"\nall workers were back {time.monotonic() - began:.1f} s after the scheduler was killed")
    assert not pids & {part.pid for part in grid.grid.workers}
    assert grid.final(grid.submit(value=3)).status is JobStatus.COMPLETED


def test_r5_what_a_frozen_worker_says_late_changes_nothing(grid, server):
    job_id = grid.submit(value=5, seconds=1.0, deaf=True)
    frozen = grid.running(job_id).worker_id
    pid = grid.worker(frozen).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        job = grid.final(job_id)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert job.status is JobStatus.COMPLETED
    assert job.worker_id != frozen
    grid.wait(lambda: (row := grid.here().get(frozen)) and row["running"] == 0)  # it has finished it, and was refused
    assert outcomes(grid, job_id) == ["lost", "completed"]
    assert grid.grid.job(job_id).worker_id == job.worker_id
    with server.connect() as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM {table} WHERE job_id = %s", [job_id]).fetchone()[0]
            for table in ("results", "usage")
        ]
    assert counts == [1, 1]


def test_r7_a_job_that_kills_is_poison_after_three_workers_and_its_neighbours_are_done(grid):
    good = [grid.submit(value=n, seconds=0.05) for n in range(25)]
    bad = grid.submit(then="segfault")
    good += [grid.submit(value=n, seconds=0.05) for n in range(25)]
    job = grid.final(bad)
    assert (job.status, job.error_code, job.deaths) == (JobStatus.FAILED, "poisoned", 3)
    assert len(job.killed) == 3
    assert outcomes(grid, bad) == ["died"] * 3
    assert Counter(grid.final(job_id).status for job_id in good) == {JobStatus.COMPLETED: 50}
    assert sum(len(grid.grid.attempts(job_id)) for job_id in good) == 50, "no neighbour was run again"


def test_a_running_job_is_cancelled_where_it_runs(grid):
    job_id = grid.submit(seconds=60)
    grid.running(job_id)
    assert grid.http.delete(f"/jobs/{job_id}").status_code == 200
    assert grid.final(job_id).status is JobStatus.CANCELLED
    grid.wait(lambda: all(row["running"] == 0 for row in grid.here().values()))


@pytest.fixture
def endless_model(language_model, tmp_path):
    """A model that comes to no end by itself for a long time. Its folder."""
    model = copy.deepcopy(language_model.peer)
    model.config.max_position_embeddings = 60_000
    with torch.no_grad():
        model.lm_head.weight[language_model.tokenizer.eos_token_id] = 0.0  # never the largest
    model.save_pretrained(tmp_path / "endless")
    language_model.tokenizer.save_pretrained(tmp_path / "endless")
    return str(tmp_path / "endless")


def engine_load(model):
    """What the engine of a worker's process says of itself: runs there."""
    from idlegrid.actors.llm.resident import llm_engine

    return llm_engine(model).engine.load()


def test_a_generation_that_is_cancelled_stops_and_gives_its_blocks_back(grid, endless_model):
    """The control: another that nobody cancels, which holds its blocks meanwhile."""
    params = {"model": endless_model, "prompt": "Hello", "max_tokens": 50_000, "temperature": 0, "stream": True}
    stopped, goes_on = (grid.submit(job={"type": "llm", "params": params}) for _ in range(2))
    where = {job_id: grid.running(job_id).worker_id for job_id in (stopped, goes_on)}
    addresses = {row["id"]: row["address"] for row in grid.here().values()}
    with DaskClient(grid.grid.places.address, set_as_default=False, timeout=DEADLINE) as client:

        def load(job_id):
            [told] = client.run(engine_load, endless_model, workers=[addresses[where[job_id]]]).values()
            return told

        def words(job_id):
            return sum(event.kind == "tokens" for event in grid.grid.store.events.after(job_id, 0))

        grid.wait(lambda: words(stopped) >= 2 and words(goes_on) >= 2)
        assert [(load(job_id).running, load(job_id).kv_usage > 0) for job_id in where] == [(1, True)] * 2
        began = time.monotonic()
        assert grid.http.delete(f"/jobs/{stopped}").status_code == 200
        assert grid.final(stopped).status is JobStatus.CANCELLED
        told = time.monotonic() - began
        grid.wait(lambda: (now := load(stopped)).running == now.kv_usage == 0)
        print(f"\ncancelled after {told:.1f} s, its blocks were free after {time.monotonic() - began:.1f} s")
        assert told < 30, "long before its end, which is minutes away"
        other, so_far = load(goes_on), words(goes_on)
        assert (other.running, other.kv_usage > 0, grid.grid.job(goes_on).status) == (1, True, JobStatus.RUNNING)
        grid.wait(lambda: words(goes_on) > so_far)
    assert outcomes(grid, stopped) == ["cancelled"]
    grid.http.delete(f"/jobs/{goes_on}")
    assert grid.final(goes_on).status is JobStatus.CANCELLED


def test_why_says_what_each_worker_says(grid):
    job_id = grid.submit(job={"region": "oceania", "allow_cross_region": False})
    grid.wait(lambda: grid.grid.job(job_id).status is JobStatus.QUEUED)
    answer = grid.http.get(f"/jobs/{job_id}/why").json()
    assert {row["worker"]: row["verdict"] for row in answer["workers"]} == {
        f"local-{number}": "wrong_region" for number in range(3)
    }
    assert "nobody may take it now (3 × wrong_region)" in answer["summary"]
    grid.http.delete(f"/jobs/{job_id}")


def test_why_says_afterwards_what_each_worker_said(grid):
    done = grid.final(grid.submit(value=1))
    answer = grid.wait(lambda: (told := grid.http.get(f"/jobs/{done.id}/why").json())["placed_at"] and told)
    said = {row["worker"]: row["verdict"] for row in answer["workers"]}
    assert set(said) == {f"local-{number}" for number in range(3)}
    assert said[done.worker_id] == "accepted"


class Agent:
    """`idlegrid worker …` as a process of its own."""

    def __init__(self, folder, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "idlegrid.api.cli", "worker", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self, words):
        for line in self.process.stdout:
            if words in line:
                return line
        raise AssertionError(f"it ended without saying {words!r}")

    def stop(self):
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


@pytest.fixture
def agent(tmp_path):
    agents = []

    def start(*words):
        agents.append(Agent(tmp_path, *words))
        return agents[-1]

    yield start
    for one in agents:
        one.process.kill()
        one.process.wait(30)
        one.process.stdout.close()


THERE = {"region": "oceania", "allow_cross_region": False}


def test_r13_a_worker_that_is_told_to_go_finishes_what_runs_and_takes_nothing_new(grid, agent):
    one = agent("start", "--scheduler", grid.grid.places.address, "--name", "leaver", "--region", "oceania")
    one.line("leaver works for")
    runs, waits = grid.submit(value=1, seconds=2, job=THERE), grid.submit(value=2, job=THERE)
    grid.running(runs)
    assert one.stop() == 0
    assert (grid.final(runs).status, outcomes(grid, runs)) == (JobStatus.COMPLETED, ["completed"])
    grid.wait(lambda: grid.grid.job(waits).status is JobStatus.QUEUED)  # the dispatcher may hold it for a moment yet
    assert grid.grid.job(waits).attempts == 0
    grid.http.delete(f"/jobs/{waits}")


def test_a_worker_that_pulls_does_the_same_job_without_dask(grid, agent):
    one = agent("pull", grid.grid.url, "--name", "puller", "--region", "oceania")
    one.line("puller asks")
    done = grid.final(grid.submit(value=7, job=THERE))
    assert (done.status, done.result["value"]) == (JobStatus.COMPLETED, 7)
    bad = grid.submit(then="segfault", job=THERE)
    grid.wait(lambda: outcomes(grid, bad)[:1] == ["died"])  # the donor's own report: nobody watches this worker
    grid.http.delete(f"/jobs/{bad}")
    assert grid.final(grid.submit(value=8, job=THERE)).status is JobStatus.COMPLETED, "its agent started it again"
    assert one.stop() == 0


def test_r8_without_its_database_the_service_says_so_and_what_was_computed_is_not_lost(grid, server):
    """Last: it takes the database away from everybody."""
    running = [grid.submit(value=n, seconds=1.0) for n in range(3)]
    for job_id in running:
        grid.running(job_id)
    answers, acked, stop = [], [], threading.Event()

    def load():
        with httpx.Client(base_url=f"{grid.grid.url}/api/v1", trust_env=False, timeout=30) as http:
            while not stop.is_set():
                answer = http.post("/jobs", json={"type": "trial", "params": {"value": 1}})
                answers.append((answer.status_code, answer.headers.get("Retry-After")))
                if answer.status_code == 201:
                    acked.append(answer.json()["job_id"])
                stop.wait(0.1)

    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load) for _ in range(3)]
        server.stop(signal.SIGQUIT)
        grid.wait(lambda: any(status == 503 for status, _ in answers))
        stop.wait(5.0)
        down = len(answers)
        server.start()
        grid.wait(lambda: any(status == 201 for status, _ in answers[down:]))
        stop.set()
        for one in loads:
            one.result(60)
    seen = Counter(status for status, _ in answers)
    print(f"\nanswers {dict(seen)}, {len(acked)} accepted")
    assert set(seen) <= {201, 503}, "an answer is 201 or 503, nothing else"
    assert all(retry_after for status, retry_after in answers if status == 503)
    assert all(grid.final(job_id).status is JobStatus.COMPLETED for job_id in [*running, *acked])
    attempts = Counter(outcome for job_id in running for outcome in outcomes(grid, job_id))
    assert attempts["completed"] == 3
