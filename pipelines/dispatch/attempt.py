"""What Dask runs: one attempt, on the worker that placement chose."""

from __future__ import annotations

import threading

from distributed import get_worker

from .assignment import Assignment, this_process
from .doors import Doors
from .outbox import Outbox, default_folder
from .runner import Outcome, run_attempt


class NotBegun(Exception):
    """The attempt never began here, so whoever holds the claim may give it back."""


class Desk:
    """What all attempts of one process share: connections and the outbox."""

    def __init__(self, worker_id: str) -> None:
        self.who = this_process(worker_id)
        self.doors = Doors()
        self.outbox = Outbox(default_folder(worker_id), self.doors)
        self.outbox.start(self.who)
        self._lock = threading.Lock()
        self._running = 0
        self.idle = threading.Event()
        """Set while no attempt runs."""
        self.idle.set()

    def run(self, assignment: Assignment) -> Outcome:
        """Do one attempt in this thread."""
        self._count(1)
        try:
            return run_attempt(assignment, self.who, self.doors, self.outbox)
        finally:
            self._count(-1)

    def finish(self, patience: float | None) -> bool:
        """Wait until no attempt runs, at most `patience` seconds (None: as long as they take). Whether none does.

        What still runs then is left to whoever comes when its lease ends: that its process ends is not its fault.
        """
        idle = self.idle.wait(patience)
        self.outbox.unmark_all()
        return idle

    def _count(self, change: int) -> None:
        with self._lock:
            self._running += change
            if self._running:
                self.idle.clear()
            else:
                self.idle.set()


_desks: dict[str, Desk] = {}
_opening = threading.Lock()


def desk(worker_id: str) -> Desk:
    """The desk of this process for that worker, opened at the first call: then what an earlier process left is told."""
    with _opening:
        found = _desks.get(worker_id)
        if found is None:
            found = _desks[worker_id] = Desk(worker_id)
        return found


def run(assignment: Assignment) -> str:
    """The Dask task. Gives the `Outcome` as a text; raises NotBegun."""
    outcome = desk(worker_id()).run(assignment)
    if outcome is Outcome.UNREACHED:
        raise NotBegun(f"attempt {assignment.name} could not reach the service from this worker")
    return outcome.value


def worker_id() -> str:
    """The donor's id of the Dask worker that runs this, else its name."""
    worker = get_worker()
    plugin = worker.plugins.get("idlegrid-donor")
    return str(plugin.donor.id if plugin is not None else worker.name)
