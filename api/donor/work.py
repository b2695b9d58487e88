"""The worker process of an agent: there while work is wanted, finished or handed back when not. Never two of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum

from ..supervision import Part, Supervised

logger = logging.getLogger(__name__)


class Want(StrEnum):
    """What the owner, the machine and the grid together want of the worker process."""

    WORK = "work"
    FINISH = "finish"
    """It takes nothing new, and ends when what runs has ended."""
    STOP = "stop"
    """It gives up what runs, and the device is free within a second."""


HandBack = Callable[[str], Awaitable[object]]
"""Has the process give up what it runs; returns when it has, or when it had its time."""


class Workplace:
    """Keeps one worker process as it is wanted. `run` it; `want` may be called at any time."""

    def __init__(self, part: Callable[[], Part], hand_back: HandBack) -> None:
        """`part`: the process to start, asked for anew each time."""
        self._part, self._hand_back = part, hand_back
        self.wanted = Want.FINISH
        self.why = ""
        self._again = False
        self._changed = asyncio.Event()
        self._process: Supervised | None = None
        self.ended: list[Callable[[], None]] = []
        """Called when there is no process any more."""

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def occupied(self) -> bool:
        """Whether there is a process, or one is just being started again."""
        return self._process is not None

    def want(self, wanted: Want, why: str = "") -> None:
        """Say what is wanted from now on."""
        if wanted is not self.wanted:
            logger.info("the worker process is to %s%s", wanted, f": {why}" if why else "")
        self.wanted, self.why = wanted, why
        self._changed.set()

    def restart(self) -> None:
        """Have a new process, once what runs has ended."""
        if self.occupied:
            self._again = True
            self._changed.set()

    async def vacant(self) -> None:
        """Return when there is no process."""
        while self.occupied:
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Keep it so until cancelled; then nothing of the process is left."""
        while True:
            self._changed.clear()
            if self.wanted is Want.WORK:
                await self._stint()
            else:
                await self._changed.wait()

    async def _stint(self) -> None:
        """One process, however often it must be started again, until it is not wanted as it is."""
        stop = asyncio.Event()
        self._again = False
        self._process = Supervised(self._part())
        running = asyncio.create_task(self._process.run(stop))
        try:
            while not running.done():
                if self.wanted is Want.STOP:
                    await self._hand_back(self.why)
                    return
                if self.wanted is Want.FINISH or self._again:
                    stop.set()
                await self._news(running)
            running.result()
        finally:
            running.cancel()  # kills what is left
            await asyncio.wait([running])
            self._process = None
            self._changed.set()
            for tell in self.ended:
                tell()

    async def _news(self, running: asyncio.Task[None]) -> None:
        self._changed.clear()
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait([running, changed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
