"""A grid of two workers for the tests that only use one, and the programs of the command line as real processes."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from idlegrid.api import Grid

REGIONS = ("europe-west", "asia-east")


@pytest.fixture(scope="session")
def grid() -> Iterator[Grid]:
    """Two workers, one in each of `REGIONS`. Whoever changes their state puts it back."""
    with Grid(workers=2, regions=REGIONS) as grid:
        yield grid


class Program:
    """A command as a process of its own; its output comes line by line, errors and all."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ
            | {"IDLEGRID_SCHEDULER_DASHBOARD_PORT": "0", "PYTHONUNBUFFERED": "1", "XDG_DATA_HOME": str(folder / "data")}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self, pattern: str, within: float = 60) -> re.Match[str]:
        """The next line in which `pattern` is found; fails when the program ends or is silent for too long."""
        deadline = time.monotonic() + within
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no line like {pattern!r} within {within} s, only:\n" + "\n".join(self.output))
            if line is None:
                pytest.fail(f"it ended without a line like {pattern!r}:\n" + "\n".join(self.output))
            self.output.append(line)
            if found := re.search(pattern, line):
                return found

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self, within: float = 60) -> int:
        """Its exit code, once it ended and said its last."""
        code = self.process.wait(within)
        while (line := self._lines.get(timeout=within)) is not None:
            self.output.append(line)
        return code

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


StartProgram = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartProgram]:
    """Starts programs: ``start("worker", "start")`` runs `idlegrid worker start`; they end with the test."""
    programs: list[Program] = []

    def start(*words: str, script: Path | None = None, **environment: str) -> Program:
        what = [str(script)] if script is not None else ["-m", "idlegrid.api.cli"]
        programs.append(Program([sys.executable, *what, *map(str, words)], tmp_path, environment))
        return programs[-1]

    yield start
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
        program.process.wait(10)
