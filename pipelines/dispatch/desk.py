"""What all attempts of one worker process share: who it is, its connections, its spool, and how many run."""

from __future__ import annotations

import threading

from ...grid.credentials import Signer
from .doors import Doors
from .runner import Outcome, run_attempt
from .spool import Spool, default_folder
from .work_order import WorkOrder, this_process


class Desk:
    """Does the attempts of one worker in one process."""

    def __init__(self, worker_id: str, *, doors: Doors | None = None, spool: Spool | None = None) -> None:
        """Begins to tell what an earlier process of this worker left in the spool."""
        self.who = this_process(worker_id)
        self.doors = doors or Doors(signer=Signer.from_environment())
        self.spool = spool or Spool(default_folder(worker_id), self.doors)
        self.spool.start(self.who)
        self._lock = threading.Lock()
        self._running = 0
        self.idle = threading.Event()
        """Set while no attempt runs."""
        self.idle.set()

    def run(self, order: WorkOrder) -> Outcome:
        """Do one attempt in this thread."""
        self._count(1)
        try:
            return run_attempt(order, self.who, self.doors, self.spool)
        finally:
            self._count(-1)

    def finish(self, patience: float | None) -> bool:
        """Wait until no attempt runs, at most `patience` seconds (None: as long as they take). Whether none does.

        What still runs then is left to whoever comes when its lease ends: that its process ends is not its fault.
        """
        idle = self.idle.wait(patience)
        self.spool.unmark_all()
        return idle

    def close(self) -> None:
        """Close connections and spool; what is not delivered stays on disk."""
        self.spool.close()
        self.doors.close()

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
