"""Donors' machines as their owners use them: a grid, agents in folders of their own, all real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import trial

from idlegrid.api.donor.control import Control, NotRunning
from idlegrid.api.donor.face import AgentStatus
from idlegrid.api.donor.state import Home

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
            "GPU_SUPPORTED_TYPES": trial.NAME,  # no engine is loaded at each of the many starts
        }

    def run(self, name: str, *words: object, **variables: str) -> subprocess.Popen[bytes]:
        return self.python(name, "-m", "idlegrid.api.cli", *words, **variables)

    def python(self, name: str, *words: object, **variables: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            command, environment = [sys.executable, *map(str, words)], self.environment | variables
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

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

    def submit(self, region: str = HERE, **params: Any) -> str:
        body = {"type": "trial", "params": params, "region": region, "allow_cross_region": False}
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

    def start(self, *words: object, **variables: str) -> None:
        self.process = self.machines.run(self.name, "worker", *words, "--home", self.folder, **variables)

    def says(self, *words: str, code: int = 0, **variables: str) -> str:
        command = [sys.executable, "-m", "idlegrid.api.cli", "worker", *words, "--home", self.folder]
        environment = self.machines.environment | variables
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == code, done.stderr + done.stdout
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
