"""The parts of a grid as real processes: how they start, stop, and get over each other's end."""

from __future__ import annotations

import signal
import time

import httpx
import psutil
import pytest

from idlegrid.api import Grid
from idlegrid.grid.jobs import Ask

pytestmark = pytest.mark.slow
EMBEDDING = Ask(type="embedding")


@pytest.fixture
def scheduler(start):
    """(program, address) of a scheduler."""
    program = start("scheduler", "--port", "0")
    address = program.line(r"^scheduler at (tcp://\S+)")[1]
    program.line(r"^page      at http://127\.0\.0\.1:\d+/grid$")
    return program, address


def worker(start, address, name, region="asia-east", *words):
    program = start("worker", "start", "--scheduler", address, "--name", name, "--region", region, *words)
    program.line(rf"^{name} works for {address} in {region}$")
    return program


def running(grid, number):
    deadline = time.monotonic() + 30
    while sum((state := grid.state())["running_by_type"].values()) < number:
        assert time.monotonic() < deadline, state
        time.sleep(0.05)


def until_leaving(grid, name):
    """It says first that it stops, then that it takes nothing new: between the two it may be given something."""
    deadline = time.monotonic() + 30
    while not any(row["name"] == name and row["state"] == "draining" for row in grid.state()["workers"]):
        assert time.monotonic() < deadline, grid.state()
        time.sleep(0.05)


def test_a_worker_that_is_told_to_stop_finishes_what_runs(start, scheduler, tmp_path):
    _, address = scheduler
    one, two = worker(start, address, "one", "europe-west"), worker(start, address, "two")
    with Grid(address) as grid:
        go_on = tmp_path / "go on"

        def until_told():
            deadline = time.monotonic() + 60
            while not go_on.exists() and time.monotonic() < deadline:
                time.sleep(0.05)

        futures = [grid.submit(until_told, ask=EMBEDDING) for _ in range(2)]
        running(grid, 2)
        one.stop()
        one.line("stopping: what runs is finished first; once more to stop now")
        until_leaving(grid, "one")
        go_on.touch()
        late = grid.submit(lambda: __import__("distributed").get_worker().name, ask=EMBEDDING)
        grid.client.gather(futures)
        assert late.result(timeout=30) == "two", "a worker that leaves takes nothing new"
        assert one.end() == 0
        [left] = grid.state()["workers"]
        assert (left["name"], left["jobs_lost"]) == ("two", 0)
    two.stop(signal.SIGINT)
    assert two.end() == 0


def test_a_worker_that_is_told_twice_stops_now(start, scheduler):
    _, address = scheduler
    program = worker(start, address, "one")
    children = program.children()
    with Grid(address) as grid:
        future = grid.submit(time.sleep, 60, ask=EMBEDDING)
        running(grid, 1)
        assert not future.done()
        program.stop(signal.SIGINT)
        program.line("stopping")
        program.stop(signal.SIGINT)
        assert program.end(within=10) == -signal.SIGINT
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_a_worker_does_not_wait_longer_than_told(start, scheduler):
    _, address = scheduler
    program = worker(start, address, "one", "oceania", "--drain-timeout", "0.5")
    with Grid(address) as grid:
        future = grid.submit(time.sleep, 60, ask=EMBEDDING)
        running(grid, 1)
        assert not future.done()
        program.stop()
        assert program.end(within=30) == 0


def test_a_lost_scheduler_is_found_again(start, scheduler):
    first, address = scheduler
    port = address.rpartition(":")[2]
    one = worker(start, address, "one")
    api = start("api", "--scheduler", address, "--port", "0")
    url = api.line(r"(http://127\.0\.0\.1:\d+)/v1")[1]
    assert httpx.get(f"{url}/readyz").status_code == 200
    first.stop(signal.SIGKILL)
    one.line("the scheduler at .* is gone: looking for it")
    deadline = time.monotonic() + 30
    while httpx.get(f"{url}/readyz", timeout=30).status_code != 503:  # an answer is remembered for a moment
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert httpx.get(f"{url}/healthz").status_code == 200
    start("scheduler", "--port", port)
    one.line("one works for")
    deadline = time.monotonic() + 30
    while httpx.get(f"{url}/readyz", timeout=30).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    body = {"model": "minilm", "input": "back again"}
    answer = httpx.post(f"{url}/v1/embeddings", json=body, timeout=90)
    assert answer.status_code == 200, answer.text
    for program in (api, one):
        program.stop()
        assert program.end() == 0
    said = "\n".join(api.output + one.output)
    assert "Traceback" not in said, said


def test_nobody_to_work_for(start):
    program = start("worker", "start", "--scheduler", "tcp://127.0.0.1:1")
    program.line(r"^error: no grid answers at tcp://127\.0\.0\.1:1 within 5 s")
    assert program.end() == 1
