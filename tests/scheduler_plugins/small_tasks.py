"""What the tests of this folder run on the workers."""

from __future__ import annotations

import threading
import time
from typing import Any

from distributed import Event, get_worker

PATIENCE = 20.0
"""Seconds that a held task holds on if nobody lets it go."""


def where(*_args: Any) -> str:
    """The name of the worker that runs this."""
    return str(get_worker().name)


def hold(event: str, *_args: Any) -> str:
    """Run until the event is set."""
    Event(event).wait(PATIENCE)
    return str(get_worker().name)


def nap(seconds: float, *_args: Any) -> str:
    """Run for a while."""
    time.sleep(seconds)
    return str(get_worker().name)


def fail(*_args: Any) -> None:
    """End in an exception of its own."""
    raise ValueError("this task always fails")


class Gauge:
    """How many tasks run at once, at most; and who ran how many."""

    def __init__(self) -> None:
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.runs: dict[str, int] = {}
        self._lock = threading.Lock()

    def enter(self, name: str) -> None:
        with self._lock:
            self.now[name] = self.now.get(name, 0) + 1
            self.runs[name] = self.runs.get(name, 0) + 1
            self.most[name] = max(self.most.get(name, 0), self.now[name])

    def leave(self, name: str) -> None:
        with self._lock:
            self.now[name] -= 1


gauges: dict[str, Gauge] = {}


def measured(gauge: str, seconds: float, *_args: Any) -> str:
    """Run for a while under a gauge of this process."""
    name = str(get_worker().name)
    gauges[gauge].enter(name)
    try:
        time.sleep(seconds)
    finally:
        gauges[gauge].leave(name)
    return name
