"""Works on batches: takes those that nobody works on, and brings them to their ends, whatever was done of them before.

A process that is killed loses its leases; another one, or its successor, takes the batches when these are over.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from ...grid.batch_rules import BatchStatus
from ...grid.store import BatchRecord, Store, StoreUnavailable
from .clearing import Clearing
from .endpoints import Endpoint
from .finishing import Finisher
from .folder import FileFolder
from .lines import BadLine
from .work import BatchWork, Lost, call

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks for a batch."""
LEASE = 20.0
"""Seconds after which another process goes on with a batch of which nothing is heard."""
HOLD_EVERY = 2.0
"""Seconds between two looks at a batch that is computed: a cancel is seen so late."""
AT_ONCE = 4
"""Batches that one process works on."""
TURN = 60.0
"""Seconds after which a batch gives way, part by part, to one of a client for whom less is worked on."""
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 15.0
"""Seconds until a batch at which something failed is tried again."""


@dataclass(slots=True, eq=False)
class _Turn:
    """A batch that this process works on."""

    work: BatchWork
    task: asyncio.Task[None] | None = None
    since: float = field(default_factory=time.monotonic)
    gives_way: bool = False


class BatchRunner:
    """Belongs to one event loop. `start` it, and `close` it."""

    def __init__(
        self,
        store: Store,
        folder: FileFolder,
        endpoints: Mapping[str, Endpoint],
        *,
        most_lines: int,
        lives: float | None,
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        """`most_lines`: of one batch. `lives`: seconds that its output is kept. `may_run`: whether this process is the
        one that works on batches; where it says no, they are given back at once."""
        self._store, self._folder, self._endpoints = store, folder, endpoints
        self._most_lines, self._may_run = most_lines, may_run
        self._finisher = Finisher(store, folder, lives)
        self._clearing = Clearing(store, folder, lives)
        self._holder = f"batches-{uuid.uuid4().hex}"
        self._turns: dict[str, _Turn] = {}
        self._failures: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def start(self) -> None:
        """Begin to look for batches."""
        self._task = asyncio.create_task(self._run(), name="idlegrid-batches")

    def wake(self) -> None:
        """There is a new batch: look now. On the runner's loop."""
        self._news.set()

    async def close(self) -> None:
        """Stop where it is; batches are free for others at once. Idempotent."""
        tasks = [task for task in (self._task, *(turn.task for turn in self._turns.values())) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        opened = False
        while True:
            try:
                if not opened:
                    await call(self._folder.open)
                    opened = True
                await call(self._clearing.look, time.monotonic())
                if self._may_run():
                    await self._look()
            except (StoreUnavailable, OSError) as error:
                logger.warning("batches can't be looked for now: %s", error)
            except Exception:
                logger.exception("looking for batches failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), LOOK_EVERY)
            self._news.clear()

    async def _look(self) -> None:
        while len(self._turns) < AT_ONCE:
            batch = await call(self._store.batches.claim, self._holder, LEASE)
            if batch is None:
                return
            if (endpoint := self._endpoints.get(batch.endpoint)) is None:
                logger.warning("%s wants %s, which is not served here", batch.id, batch.endpoint)
                continue  # its lease keeps it away for a while
            self._begin(batch, endpoint)
        await self._take_turns()

    def _begin(self, batch: BatchRecord, endpoint: Endpoint) -> None:
        most, finisher = self._most_lines, self._finisher
        turn = _Turn(BatchWork(self._store, self._folder, endpoint, batch, most=most, finisher=finisher))
        self._turns[batch.id] = turn
        turn.task = asyncio.create_task(self._bring_to_its_end(turn), name=f"idlegrid-{batch.id}")
        turn.task.add_done_callback(partial(self._over, batch.id))

    async def _take_turns(self) -> None:
        """With all places taken: who had its turn gives way to a client for whom less is worked on. One at a time."""
        turns = list(self._turns.values())
        if any(turn.gives_way for turn in turns):
            return
        for turn in sorted(turns, key=lambda turn: turn.since):
            over = time.monotonic() - turn.since >= TURN
            if over and await call(self._store.batches.others_wait, turn.work.batch.client_id):
                turn.gives_way = True
                turn.work.give_way()
                return

    def _over(self, batch_id: str, task: asyncio.Task[None]) -> None:
        del self._turns[batch_id]
        if not task.cancelled() and task.exception() is not None:
            logger.error("working on %s failed", batch_id, exc_info=task.exception())

    async def _bring_to_its_end(self, turn: _Turn) -> None:
        batch = turn.work.batch
        logger.info("working on %s, which is %s", batch.id, batch.status)
        try:
            error = await self._hold(turn.work)
            if error is None or isinstance(error, Lost):
                self._failures.pop(batch.id, None)
            else:
                await self._failed(turn.work, error)
        finally:
            with suppress(StoreUnavailable):
                await call(self._store.batches.release, batch.id, batch.fence)

    async def _failed(self, work: BatchWork, error: BaseException) -> None:
        batch = work.batch
        if isinstance(error, FileNotFoundError) and datetime.now(UTC) >= batch.expires_at:
            logger.error("%s ends: what was kept of it is not there any more: %s", batch.id, error)
            with suppress(Lost, StoreUnavailable, OSError):
                await work.fail(BadLine(0, "files_lost", "The files of this batch were lost."))
                return
        logger.error("%s is tried again: %s", batch.id, error, exc_info=error)
        failures = self._failures[batch.id] = self._failures.get(batch.id, 0) + 1
        await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 8)))

    async def _hold(self, work: BatchWork) -> BaseException | None:
        """Keep the lease until the work ends. A cancel, and the end of the window, end it early. Returns why it failed;
        Lost when somebody else may have the batch, or shall."""
        batch, heard = work.batch, time.monotonic()
        working, ending = asyncio.create_task(work.run(), name=f"idlegrid-{batch.id}-steps"), False
        try:
            while not (await asyncio.wait((working,), timeout=HOLD_EVERY))[0]:
                if not self._may_run():
                    return Lost()
                try:
                    now = await call(self._store.batches.hold, batch.id, batch.fence, LEASE)
                except StoreUnavailable:
                    if time.monotonic() - heard > 0.8 * LEASE:
                        return Lost()  # somebody else may have it by now
                    continue
                heard = time.monotonic()
                if now is None:
                    return Lost()
                end = ending_of(now)
                if end is not None and not ending:
                    await _cancelled(working)
                    work.batch, ending = now, True
                    working = asyncio.create_task(work.finish(end), name=f"idlegrid-{batch.id}-end")
            return working.exception()
        finally:
            await _cancelled(working)


def ending_of(batch: BatchRecord) -> BatchStatus | None:
    """How a batch that is worked on should end at once. None: it should not."""
    if batch.status is BatchStatus.CANCELLING:
        return BatchStatus.CANCELLED
    over = batch.status is BatchStatus.IN_PROGRESS and datetime.now(UTC) >= batch.expires_at
    return BatchStatus.EXPIRED if over else None


async def _cancelled(working: asyncio.Task[None]) -> None:
    """It is over, by itself or not."""
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
