"""From an empty folder to a job served, and everything that an owner and an accident can do then: real processes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest
from machines import DEADLINE, HERE, Agent, Machines, until

from idlegrid.api.donor.control import Control

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines = Machines(tmp_path_factory.mktemp("grid"))
    try:
        machines.up()
        yield machines
    finally:
        machines.close()


@pytest.mark.parametrize("way", ["pull", "dask"])
def test_one_line_and_then_the_owner_s_day(machines: Machines, way: str) -> None:
    agent, pull = Agent(machines, way), ["--pull"] if way == "pull" else []
    agent.start("join", machines.url, machines.token(), "--yes", "--region", HERE, *pull)
    first = agent.wait_for("online")
    assert first.pull is (way == "pull")
    _serves(machines, agent)

    until(lambda: not agent.status().running, lambda: "the status still shows it")
    shown = json.loads(agent.says("status", "--json"))
    assert (shown["worker_id"], shown["jobs_today"], shown["region"]) == (first.worker_id, 1, HERE)
    assert httpx.get(shown["page"], follow_redirects=True).status_code == 200

    long = machines.submit(value=2, seconds=600)
    agent.wait_for("busy")
    pid = agent.workers()[0].pid
    began = time.monotonic()
    assert agent.says("pause", "--for", "2h").startswith("paused: you paused it until")
    assert not psutil.pid_exists(pid), "the device is free when `pause` returns"
    assert time.monotonic() - began < DEADLINE
    until(lambda: machines.job(long)["status"] == "queued", lambda: "what ran was not handed back")
    httpx.delete(f"{machines.url}/api/v1/jobs/{long}", timeout=30)
    assert agent.workers() == []

    Control(agent.home.control_socket).resume()
    agent.wait_for("online")
    _serves(machines, agent)

    Control(agent.home.control_socket).set("max_jobs_per_hour", "1000")
    assert agent.status().limits["max_jobs_per_hour"] == 1000
    until(lambda: agent.status().config_version >= 2, lambda: "the grid was not told")

    killed = agent.workers()[0].pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: [one for one in agent.workers() if one.pid != killed], lambda: "the worker process did not come back")
    agent.wait_for("online")
    _serves(machines, agent)

    orphans = [*agent.workers(), *agent.workers()[0].children(recursive=True)]
    agent.process.kill()
    assert psutil.wait_procs(orphans, timeout=DEADLINE)[1] == [], "a process is left on the device"
    agent.process.wait(DEADLINE)
    agent.start("start")
    assert agent.wait_for("online").worker_id == first.worker_id
    _serves(machines, agent)

    last = machines.submit(value=3, seconds=2)
    agent.wait_for("busy")
    agent.says("drain", "--wait")
    assert agent.process.wait(DEADLINE) == 0
    assert machines.job(last)["result"]["value"] == 3, "what ran was finished first"


def test_ctrl_c_once_finishes_and_twice_hands_back(machines: Machines) -> None:
    agent = Agent(machines, "interrupted")
    agent.start("join", machines.url, machines.token(), "--yes", "--region", HERE)
    agent.wait_for("online")
    long = machines.submit(seconds=600)
    agent.wait_for("busy")
    left = agent.workers()
    agent.process.send_signal(signal.SIGINT)
    assert "finishes 1 job, then leaves" in agent.wait_for("draining").reason
    assert machines.job(long)["status"] == "running"
    agent.process.send_signal(signal.SIGINT)
    assert agent.process.wait(DEADLINE) == 0
    assert psutil.wait_procs(left, timeout=DEADLINE)[1] == []
    until(lambda: machines.job(long)["status"] == "queued", lambda: str(machines.job(long)))
    httpx.delete(f"{machines.url}/api/v1/jobs/{long}", timeout=30)


def _serves(machines: Machines, agent: Agent) -> None:
    job = machines.ended(machines.submit(value=7))
    assert (job["status"], job["result"]["value"]) == ("completed", 7)
    assert job["worker_id"] == agent.status().worker_id
