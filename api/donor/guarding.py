"""The guard of a donor's machine: looks four times a second, and says at once when it is needed for something else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ...grid.donor_guard import Act, GuardState, GuardVerdict, PauseReason, Readings, judge
from ...grid.donors import Limits
from .face import GpuNow
from .sensors import Sensors

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.25
"""Seconds between two looks: with the hand back that may follow, the device is free within a second."""


class Guarding:
    """Reads the sensors, asks the rule, remembers. The agent runs it in its event loop and obeys `verdict`.

    ::

        guarding = Guarding(machine_sensors(device), lambda: settings.limits(), changed=agent.decide)
        asyncio.create_task(guarding.run())
        guarding.verdict.free_now     # hand back and end the worker process, now (`Freeing.give_back`)
        guarding.verdict.act          # HOLD: let the process take nothing new
        guarding.verdict.detail       # for the owner;  guarding.code for the grid: no program's name leaves the machine
    """

    def __init__(
        self,
        sensors: Sensors,
        limits: Callable[[], Limits],
        changed: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limits`: those in force, asked for at each look. `changed`: called after the verdict has become another."""
        self._sensors, self._limits, self._changed, self._clock = sensors, limits, changed, clock
        self._state = GuardState()
        self.verdict = GuardVerdict()
        """What follows from the last look."""
        self.since = datetime.now(UTC)
        """Since when it is so."""
        self.readings = Readings()
        """What the last look saw."""
        self._failed = ""

    @property
    def code(self) -> PauseReason | None:
        """Why it does not work, in a word that names nothing of the owner's; None: it does."""
        return self.verdict.reason

    @property
    def blocked(self) -> str | None:
        """Why the machine must be free now, in words for its owner; None: it need not."""
        return self.verdict.detail if self.verdict.free_now else None

    @property
    def held(self) -> str | None:
        """Why nothing new may begin, though what runs may end; None: it may begin."""
        return self.verdict.detail if self.verdict.act is Act.HOLD else None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> GuardVerdict:
        """One look. A sensor that fails says nothing, and stops no work; it is told once."""
        try:
            self.readings = await asyncio.to_thread(self._sensors.read)
        except Exception as error:
            self.readings = Readings(unknown=(f"the sensors failed: {type(error).__name__} {error}",))
            if self._failed != type(error).__name__:
                self._failed = type(error).__name__
                logger.warning("the sensors of this machine failed", exc_info=True)
        self._state, verdict = judge(self._state, self.readings, self._limits(), self._clock())
        old, self.verdict = self.verdict, verdict
        if (verdict.act, verdict.reason) != (old.act, old.reason):
            self.since = datetime.now(UTC)
            logger.info("the machine is %s", f"needed: {verdict.detail}" if not verdict else "free for work again")
            self._changed()
        return verdict

    def gpu_now(self, model: str | None) -> GpuNow | None:
        """The GPU as the last look saw it, for the status; None without one."""
        total, used = self.readings.gpu_memory_gb, self.readings.gpu_memory_used_gb
        if model is None or total is None or used is None:
            return None
        return GpuNow(
            model=model,
            memory_total_gb=total,
            memory_used_gb=used,
            utilisation_percent=self.readings.gpu_utilisation,
            temperature_celsius=self.readings.gpu_temperature,
        )
