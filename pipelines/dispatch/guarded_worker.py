"""A Dask worker that obeys its owner even where the scheduler doesn't: what the limits refuse goes back, unbegun.

Tasks that carry an `Ask` are asked about here; durable attempts at their desk, since they have somebody to tell; all
others are stock Dask's.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from distributed import Worker
from distributed.core import Status
from distributed.worker_state_machine import RescheduleEvent

from ...grid.jobs import Ask
from ...scheduler_plugins.donor_plugin import DonorPlugin, gpu_memory_used_gb
from ...scheduler_plugins.lanes import ANNOTATION
from ...scheduler_plugins.placer import OFFER_EVERY, lot
from . import attempt
from .desk import Line
from .slots import SlotGuard

REFUSE_FIRST, REFUSE_MOST = 0.05, 5.0
"""Seconds for which a refused task is held before it goes back: doubled each time, as Dask may send it here again."""
ASIDE = 0.05
"""Seconds for which a worker that sends a task back takes none."""
_REMEMBERED = 10_000


class GuardedWorker(Worker):  # type: ignore[misc]
    """Give it a `guard`; without one it is a stock worker."""

    status: Any
    """Dask's property."""

    def __init__(self, *args: Any, guard: SlotGuard | None = None, **options: Any) -> None:
        self.guard = guard
        self._refusals: Counter[str] = Counter()
        self._lines: dict[str, Line] = {}
        super().__init__(*args, **options)

    def lines(self) -> list[Line]:
        """The tasks with an `Ask` that run, durable attempts aside."""
        return list(self._lines.values())

    async def execute(self, key: Any, *, stimulus_id: str) -> Any:
        """As Dask's, unless the owner's limits refuse the task: then it is another worker's."""
        ask = None if self.guard is None else _ask(self.state.tasks[key])
        if self.guard is None or ask is None:
            return await super().execute(key, stimulus_id=stimulus_id)
        name = str(key)
        self.guard.secede([str(ts.key) for ts in self.state.long_running])
        if not self.guard.take(name, ask):
            await asyncio.sleep(self._pause(name))
            self._step_aside()
            return RescheduleEvent(key=key, stimulus_id=f"refused-by-donor-{time.time()}")
        self._refusals.pop(name, None)
        self._lines[name] = Line(name, ask.type, datetime.now(UTC))
        try:
            return await super().execute(key, stimulus_id=stimulus_id)
        finally:
            self._lines.pop(name, None)
            self.guard.give(name)

    def _step_aside(self) -> None:
        """Be no choice while the task is placed anew: a stock scheduler takes the idlest worker, which is this one."""
        if self.status == Status.running:
            self.status = Status.paused
            self.loop.call_later(ASIDE, self._step_back)

    def _step_back(self) -> None:
        if self.status == Status.paused:  # short of memory, Dask pauses it again within a tenth of a second
            self.status = Status.running

    def _pause(self, name: str) -> float:
        if len(self._refusals) > _REMEMBERED:
            self._refusals.clear()
        self._refusals[name] += 1
        return float(min(REFUSE_MOST, REFUSE_FIRST * 2 ** min(10, self._refusals[name] - 1)))


def donor_lot(name: str, donor_id: str, now: datetime) -> float:
    """The best lot that a scheduler whose clock is nearly ours may have drawn for this work a moment ago.

    A scheduler that keeps to the rate is never refused for it; one that doesn't gets at most three draws' worth.
    """
    return min(lot(name, donor_id, now + timedelta(seconds=OFFER_EVERY * step)) for step in (-1, 0, 1))


def others_memory(plugin: DonorPlugin) -> tuple[float, frozenset[str]]:
    """GPU memory in GB that others hold, and the models that are resident: our own process's memory is not in the way
    of our own work.
    """
    return max(0.0, gpu_memory_used_gb() - _own_gb()), plugin.report.loaded


def _own_gb() -> float:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    return float(torch.cuda.memory_reserved()) / 1e9


def _ask(ts: Any) -> Ask | None:
    """None: nothing that the limits are about, or asked elsewhere. What can't be read is the scheduler's to refuse."""
    said = (ts.annotations or {}).get(ANNOTATION)
    if not isinstance(said, Mapping) or getattr(ts.run_spec, "func", None) is attempt.run:
        return None
    try:
        return Ask.from_annotation(said)
    except (TypeError, ValueError):
        return None
