"""From an empty folder to a job served, and everything that an owner and an accident can do then: real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trial

from idlegrid.api.donor.control import Control, NotRunning
from idlegrid.api.donor.face import AgentStatus
from idlegrid.api.donor.state import Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEADLINE = 90.0
HERE = "oceania"
"""The donor's region: jobs that must stay there are its alone."""


def until(condition: Callable[[], Any], what: Callable[[], str]) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)
    return found


@dataclass
class Machines:
    """A grid, and donors in folders of their own; each process is in `started`, and ends with the test."""

    folder: Path
    url: str = ""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        path = str(trial.install(self.folder / "types"))
        self.environment = os.environ | {
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "XDG_DATA_HOME": str(self.folder / "data"),
            "IDLEGRID_SCHEDULER_PORT": "0",
            "IDLEGRID_SCHEDULER_DASHBOARD_PORT": "0",
            "GPU_HEARTBEAT_INTERVAL": "1",
        }

    def run(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "idlegrid.api.cli", *map(str, words)]
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def up(self) -> None:
        self.run("up", "up", "--workers", "1", "--port", "0")
        line = until(
            lambda: [one for one in self.said("up").splitlines() if one.startswith("API")], lambda: self.said("up")
        )[0]
        self.url = line.split()[2].removesuffix("/v1")

    def token(self) -> str:
        answer = httpx.post(f"{self.url}/api/v1/admin/enrolments", json={}, timeout=30)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def submit(self, **params: Any) -> str:
        body = {"type": "trial", "params": params, "region": HERE, "allow_cross_region": False}
        answer = httpx.post(f"{self.url}/api/v1/jobs", json=body, timeout=30)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/api/v1/jobs/{job_id}", timeout=30).json()
        return found

    def ended(self, job_id: str) -> dict[str, Any]:
        final = ("completed", "failed", "cancelled", "timeout")
        return until(
            lambda: job if (job := self.job(job_id))["status"] in final else None, lambda: str(self.job(job_id))
        )


class Agent:
    """One donor's machine, as its owner uses it."""

    def __init__(self, machines: Machines, name: str) -> None:
        self.machines, self.name = machines, name
        self.folder = machines.folder / name
        self.home = Home.find(self.folder)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        self.process = self.machines.run(self.name, "worker", *words, "--home", self.folder)

    def says(self, *words: str) -> str:
        command = [sys.executable, "-m", "idlegrid.api.cli", "worker", *words, "--home", self.folder]
        done = subprocess.run(command, env=self.machines.environment, capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> AgentStatus | None:
        try:
            return Control(self.home.control_socket).status()[0]
        except NotRunning:
            assert self.process is not None
            assert self.process.poll() is None, self.machines.said(self.name)
            return None

    def wait_for(self, *states: str) -> AgentStatus:
        def there() -> AgentStatus | None:
            status = self.status()
            return status if status is not None and status.state in states else None

        return until(there, lambda: f"never {states}: {self.machines.said(self.name)}")

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        assert self.process is not None
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):  # it has just ended
                if {"idlegrid.api.pull_process", "idlegrid.api.worker_process"} & set(child.cmdline()):
                    found.append(child)
        return found


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines = Machines(tmp_path_factory.mktemp("grid"))
    try:
        machines.up()
        yield machines
    finally:
        for process in reversed(machines.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in machines.started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


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

    agent.says("resume")
    agent.wait_for("online")
    _serves(machines, agent)

    agent.says("set", "max_jobs_per_hour", "1000")
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


def _serves(machines: Machines, agent: Agent) -> None:
    job = machines.ended(machines.submit(value=7))
    assert (job["status"], job["result"]["value"]) == ("completed", 7)
    assert job["worker_id"] == agent.status().worker_id
