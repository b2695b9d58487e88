"""The device is free within a second: the worker process is asked, then it is gone, and nothing of its work is lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Final

from ...grid.certificate_files import NoCertificate
from ...pipelines.dispatch.doors import Away, Doors, Gone, Unfit
from ...pipelines.dispatch.spool import Spool, default_folder, handed_back
from ...pipelines.dispatch.work_order import Identity, WorkOrder, this_process
from ..tls import via
from .orders import HAND_BACK_PATIENCE, OrderDesk

logger = logging.getLogger(__name__)

SUSPICIOUS: Final = 0.35
"""Seconds without an answer after which the agent begins to speak for a process that may be frozen."""
TELL = 0.4
"""Seconds that the service has to hear of one attempt while the device is being freed."""
UNREGISTER = 0.3
"""Seconds that the scheduler has to hear that the worker leaves."""
WORDS: Final = "its owner needs the machine"
"""All that the grid hears of it: which program, or that somebody came home, is nobody's business."""


class Freeing:
    """Hands back what a worker process runs, also for one that can't any more."""

    def __init__(
        self,
        desk: OrderDesk,
        worker_id: str,
        doors: Callable[[], Doors],
        scheduler: Callable[[], str | None],
        certificate: Path | None = None,
    ) -> None:
        """`doors`: to the service, with the worker's credentials. `scheduler`: the Dask scheduler's address, if any;
        `certificate`: what is shown to it.
        """
        self._certificate = certificate
        self._desk, self._worker_id, self._doors, self._scheduler = desk, worker_id, doors, scheduler
        self._telling: threading.Event | None = None
        self._speaking: asyncio.Task[None] | None = None

    async def give_back(self, why: str) -> bool:
        """Have the process hand back all that it runs; whether it said so itself. `why` is for this machine's log.

        Returns within `HAND_BACK_PATIENCE`. Whoever called kills the process group then, whatever the answer, and calls
        `tell_rest` when it is dead. Of a process that does not answer (frozen, swapping, held up by a driver), the
        attempts are told by their marks, and the scheduler hears that its worker leaves.
        """
        logger.info("what runs is handed back: %s", why)
        asked = asyncio.create_task(self._desk.hand_back(WORDS, HAND_BACK_PATIENCE))
        done, _ = await asyncio.wait([asked], timeout=SUSPICIOUS)
        if done and asked.result():
            return True
        speaking = self._speaking = asyncio.create_task(self._speak())
        with suppress(TimeoutError):
            async with asyncio.timeout(HAND_BACK_PATIENCE - SUSPICIOUS):
                await asyncio.gather(asyncio.shield(asked), asyncio.shield(speaking))
        if not asked.done() or not asked.result():
            logger.warning("the worker process did not hand back in time, and is killed")
        return asked.done() and asked.result()

    async def tell_rest(self, patience: float = 10.0) -> bool:
        """Tell what the dead process left: its letters, and its marks as handed back. Whether nothing is left to tell.

        Ended early by `make_way`, since the next process must have the spool for itself.
        """
        self._telling = make_way = threading.Event()
        return await asyncio.to_thread(self._tell_rest, patience, make_way)

    def make_way(self) -> None:
        """A process is about to start: it tells the rest itself. Call before it does."""
        if self._telling is not None:
            self._telling.set()

    async def _speak(self) -> None:
        try:
            await asyncio.gather(asyncio.to_thread(self._speak_for_it), self._unregister())
        except Exception:
            logger.warning("what a silent process ran could not be told at once", exc_info=True)

    def _speak_for_it(self) -> None:
        """Tell each attempt that is marked. Twice told, by the process too, it is still one end: fences see to that."""
        doors = self._doors()
        try:
            for order, who in self._spool(doors).marked():
                with suppress(Away, Gone, Unfit):
                    doors.complete(order, who, handed_back(order, who, WORDS), TELL)
        finally:
            doors.close()

    async def _unregister(self) -> None:
        """As expected: what it ran begins elsewhere, and is not blamed for it."""
        scheduler, worker = self._scheduler(), self._desk.report.address
        if scheduler is None or not worker:
            return
        from distributed.core import rpc

        from ...scheduler_plugins.security import worker_security

        with suppress(TimeoutError, OSError, ValueError, NoCertificate):
            shown = via(worker_security(scheduler, self._certificate))
            async with asyncio.timeout(UNREGISTER), rpc(scheduler, **shown) as one:
                await one.unregister(address=worker, stimulus_id=f"freed-{time()}", expected=True, close=False)

    def _tell_rest(self, patience: float, make_way: threading.Event) -> bool:
        doors = self._doors()
        spool = self._spool(doors)

        def blame(order: WorkOrder, who: Identity) -> bytes:
            return handed_back(order, who, WORDS)

        try:
            spool.start(this_process(self._worker_id), blame)
            for _ in range(max(1, int(patience / 0.1))):
                if make_way.is_set() or spool.flush(0.1):
                    break
            return not spool.waiting()
        finally:
            spool.close()
            doors.close()

    def _spool(self, doors: Doors) -> Spool:
        return Spool(default_folder(self._worker_id), doors)
