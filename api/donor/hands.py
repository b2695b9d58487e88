"""What a worker process does when its agent says something: workers of Dask, and those that ask for their work."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from dataclasses import dataclass
from time import time
from typing import Any

from ...grid.donors import Donor
from ...pipelines.dispatch.desk import Desk, Line
from ...pipelines.dispatch.slots import SlotGuard
from .face import JobLine
from .reports import line_to_wire

logger = logging.getLogger(__name__)

FLUSH_PATIENCE = 0.3
"""Seconds that the service has to hear what is handed back; the rest is told by who comes next."""
FAREWELL_PATIENCE = 0.25
"""Seconds that a scheduler has to hear that this worker leaves."""


def exit_now() -> None:
    """End this process without waiting for threads that compute."""
    sys.stdout.flush()
    os._exit(0)


@dataclass
class PullHands:
    """Of a process that asks for its jobs."""

    desk: Desk
    slots: SlotGuard
    end: Callable[[], None] = exit_now

    def set_donor(self, donor: Donor) -> None:
        self.slots.set_donor(donor)

    def started_before(self, at: list[float]) -> None:
        self.slots.started_before(at)

    def pause(self) -> None:
        self.slots.hold(paused=True)

    def resume(self) -> None:
        self.slots.hold(paused=False, draining=False)

    def drain(self) -> None:
        self.slots.hold(draining=True)

    def hand_back(self, why: str) -> int:
        self.slots.hold(paused=True)
        count = self.desk.hand_back(why)
        self._farewell()
        self.desk.spool.flush(FLUSH_PATIENCE)
        return count

    def report(self) -> dict[str, Any]:
        running, finished = self.desk.lines()
        return {
            "running": [_wire(line) for line in running],
            "finished": [_wire(line) for line in finished],
            "refused": [
                {"job_id": one.job_id, "reason": one.reason, "at": one.at.timestamp()} for one in self.slots.declined
            ],
        }

    def _farewell(self) -> None:
        """Tell whoever would take the end of this process for a death."""


@dataclass
class DaskHands(PullHands):
    """Of a Dask worker: `worker` is a `GuardedWorker` with this `plugin`, on the loop of another thread."""

    worker: Any = None
    plugin: Any = None

    def set_donor(self, donor: Donor) -> None:
        super().set_donor(donor)
        self.plugin.set_donor(donor)

    def pause(self) -> None:
        super().pause()
        self.plugin.pause()

    def resume(self) -> None:
        super().resume()
        self.plugin.resume()

    def drain(self) -> None:  # what the scheduler has sent already is finished, too: the slots go on
        self.plugin.drain()

    def hand_back(self, why: str) -> int:
        return super().hand_back(why) + len(self.worker.lines())

    def report(self) -> dict[str, Any]:
        from ...scheduler_plugins.donor_plugin import gpu_memory_used_gb

        told = super().report()
        told["running"] += [_wire(line) for line in self.worker.lines()]
        told["loaded"] = sorted(self.plugin.report.loaded)
        told["gpu_memory_used_gb"] = gpu_memory_used_gb()
        with suppress(ValueError):  # it does not listen yet
            told["address"] = self.worker.address
        return told

    def _farewell(self) -> None:
        """Leave the scheduler as expected: its tasks run elsewhere, and none of them is blamed for this."""
        with suppress(Late, OSError, ValueError, RuntimeError):  # it had not joined yet, or the scheduler is gone
            asyncio.run_coroutine_threadsafe(self._leave(), self.worker.loop.asyncio_loop).result(FAREWELL_PATIENCE)

    async def _leave(self) -> None:
        address = self.worker.address
        await self.worker.scheduler.unregister(
            address=address, stimulus_id=f"handed-back-{time()}", expected=True, close=False
        )


def _wire(line: Line) -> dict[str, Any]:
    return line_to_wire(JobLine(line.job_id, line.type, line.started_at, line.ended_at, line.outcome))
