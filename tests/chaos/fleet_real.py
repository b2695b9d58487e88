"""A donor of real processes, agent and worker process, whose owner and whose accidents are written down."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import psutil
from fleet_check import Diary
from machines import DEADLINE, Agent, Machines, until

from idlegrid.api.donor.control import Control, NotRunning
from idlegrid.grid.credentials import Credentials


class Real:
    """One donor. Its methods block, and may be called one at a time."""

    def __init__(self, machines: Machines, name: str, limits: Mapping[str, Any], region: str) -> None:
        self.limits, self.diary = limits, Diary()
        self.agent = Agent(machines, name)
        self._region = region
        self._variables = {_variable(key): str(value) for key, value in limits.items()}
        self._control = Control(self.agent.home.control_socket)
        self.paused = False

    @property
    def id(self) -> str:
        """Empty until it has joined."""
        try:
            return Credentials.load(self.agent.home.credentials).worker_id
        except FileNotFoundError:
            return ""

    def looks_alive(self) -> bool:
        try:
            return self._control.status()[0].state in ("online", "busy", "paused")
        except NotRunning:
            return False

    def join(self, url: str, token: str) -> None:
        self.agent.start("join", url, token, "--yes", "--region", self._region, "--pull", **self._variables)

    def start(self) -> None:
        self.diary.opens(time.time())
        self.agent.start("start", **self._variables)

    def pause(self) -> None:
        self._control.pause(None)
        self.paused = True
        self.diary.shuts(time.time())
        until(lambda: not self.agent.workers(), lambda: self.agent.machines.said(self.agent.name))
        self.diary.gone.append(time.time())

    def resume(self) -> None:
        self.diary.opens(time.time())
        self._control.resume()
        self.paused = False

    def drain(self) -> None:
        """To its end."""
        self._control.drain()
        assert self.agent.process is not None
        assert self.agent.process.wait(DEADLINE) == 0, self.agent.machines.said(self.agent.name)
        self._dead()

    def kill_worker(self) -> None:
        """The agent starts another."""
        for worker in self.agent.workers():
            os.kill(worker.pid, signal.SIGKILL)
            psutil.wait_procs([worker], timeout=DEADLINE)
        self.diary.gone.append(time.time())

    def kill_agent(self) -> None:
        """Its worker process must not outlive it."""
        assert self.agent.process is not None
        orphans = [one for worker in self.agent.workers() for one in (worker, *worker.children(recursive=True))]
        self.agent.process.kill()
        self.agent.process.wait(DEADLINE)
        assert psutil.wait_procs(orphans, timeout=DEADLINE)[1] == [], "a process is left on the device"
        self._dead()

    def _dead(self) -> None:
        now = time.time()
        self.diary.shuts(now)
        self.diary.gone.append(now)


def _variable(key: str) -> str:
    return {"time_zone": "GPU_TIME_ZONE", "schedule": "GPU_SCHEDULE"}.get(key, f"GPU_{key.upper()}")
