"""Works on batches: takes one that nobody works on, and brings it to its end, whatever was done of it before.

What counts is in the store: the status, and which parts are computed. A process that is killed loses the parts that it
was at; another one, or its successor, takes the batch when its lease is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from ...grid.batch_rules import BatchStatus
from ...grid.failpoints import failpoint
from ...grid.store import BatchRecord, Store, StoreUnavailable
from .endpoints import Endpoint
from .finishing import Finisher
from .folder import FileFolder
from .lines import BadLine, Line, Survey, parse, split, survey

T = TypeVar("T")
logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks for a batch."""
LEASE = 20.0
"""Seconds after which another process goes on with a batch of which nothing is heard."""
HOLD_EVERY = 2.0
"""Seconds between two looks at a batch that is computed: a cancel is seen so late."""
AT_ONCE = 4
"""Batches that one process works on."""
AGAIN = 2.0
"""Seconds until a batch at which the store or the disk failed is tried again."""


class Lost(Exception):
    """Another process works on the batch by now, or it has ended."""


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
        one that works on batches."""
        self._store, self._folder, self._endpoints = store, folder, endpoints
        self._most_lines, self._may_run = most_lines, may_run
        self._finisher = Finisher(store, folder, lives)
        self._holder = f"batches-{uuid.uuid4().hex}"
        self._work: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for batches."""
        self._task = asyncio.create_task(self._run(), name="idlegrid-batches")

    async def close(self) -> None:
        """Stop where it is; batches are free for others at once. Idempotent."""
        tasks = [task for task in (self._task, *self._work.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        opened = False
        while True:
            try:
                if not opened:
                    await _call(self._folder.open)
                    opened = True
                await self._look()
            except (StoreUnavailable, OSError) as error:
                logger.warning("batches can't be looked for now: %s", error)
            except Exception:
                logger.exception("looking for batches failed")
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self) -> None:
        for file_id in await _call(self._store.files.expire):
            await _call(self._folder.delete, file_id)
        while self._may_run() and len(self._work) < AT_ONCE:
            batch = await _call(self._store.batches.claim, self._holder, LEASE)
            if batch is None:
                return
            task = asyncio.create_task(self._bring_to_its_end(batch), name=f"idlegrid-{batch.id}")
            self._work[batch.id] = task
            task.add_done_callback(partial(self._over, batch.id))

    def _over(self, batch_id: str, _: asyncio.Task[None]) -> None:
        self._work.pop(batch_id, None)

    async def _bring_to_its_end(self, batch: BatchRecord) -> None:
        logger.info("working on %s, which is %s", batch.id, batch.status)
        working = asyncio.create_task(self._steps(batch), name=f"idlegrid-{batch.id}-steps")
        try:
            await self._hold(batch, working)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            with suppress(StoreUnavailable):
                await _call(self._store.batches.release, batch.id, batch.fence)

    async def _hold(self, batch: BatchRecord, working: asyncio.Task[None]) -> None:
        """Keep the lease until the work ends. A cancel, and the end of the window, end it early."""
        heard = time.monotonic()
        while True:
            done, _ = await asyncio.wait((working,), timeout=HOLD_EVERY)
            if done:
                break
            try:
                now = await _call(self._store.batches.hold, batch.id, batch.fence, LEASE)
            except StoreUnavailable:
                if time.monotonic() - heard > 0.8 * LEASE:
                    return  # somebody else may have it by now
                continue
            heard = time.monotonic()
            if now is None:
                return
            over = now.status is BatchStatus.IN_PROGRESS and datetime.now(UTC) >= now.expires_at
            if now.status is BatchStatus.CANCELLING or over:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                await self._finish(now, BatchStatus.EXPIRED if over else BatchStatus.CANCELLED)
                return
        error = working.exception()
        if error is not None and not isinstance(error, Lost):
            logger.error("%s is tried again: %s", batch.id, error, exc_info=error)
            await asyncio.sleep(AGAIN)

    async def _finish(self, batch: BatchRecord, status: BatchStatus) -> None:
        """End a batch of which not all is computed."""
        raw = await self._survey(batch)
        await self._finisher.finish(batch, status, raw)

    async def _steps(self, batch: BatchRecord) -> None:
        """From where it is to its end. Raises Lost, StoreUnavailable, OSError."""
        if batch.status is BatchStatus.CANCELLING:
            await self._finish(batch, BatchStatus.CANCELLED)
            return
        found = await self._survey(batch)
        if batch.status is BatchStatus.VALIDATING:
            batch = await self._begin(batch, found)
        if batch.status is BatchStatus.IN_PROGRESS:
            await self._compute(batch, found)
            batch = await self._move(batch, BatchStatus.FINALIZING)
        if batch.status is BatchStatus.FINALIZING:
            await self._finisher.finish(batch, BatchStatus.COMPLETED, found)

    async def _survey(self, batch: BatchRecord) -> Survey:
        """The input's parts. They are the same at every look: the input never changes."""

        def look() -> Survey:
            endpoint = self._endpoints[batch.endpoint]
            lines = self._folder.lines(batch.input_file_id)
            return survey(lines, batch.endpoint, part_lines=endpoint.part_lines, most=self._most_lines)

        try:
            return await _call(look)
        except FileNotFoundError:
            gone = BadLine(0, "file_not_found", f"The input file {batch.input_file_id} was deleted.")
            return Survey(offsets=[0], problems=[gone])

    async def _begin(self, batch: BatchRecord, found: Survey) -> BatchRecord:
        if found.problems:
            errors = [problem.document() for problem in found.problems]
            await self._move(batch, BatchStatus.FAILED, errors=errors)
            raise Lost
        return await self._move(batch, BatchStatus.IN_PROGRESS, total=found.lines)

    async def _move(self, batch: BatchRecord, status: BatchStatus, **values: Any) -> BatchRecord:
        moved = await _call(self._store.batches.move, batch.id, batch.fence, status, **values)
        if moved is None:
            raise Lost
        failpoint(f"batches.{status}")
        return moved

    async def _compute(self, batch: BatchRecord, found: Survey) -> None:
        """All parts that are not computed yet, a few at once."""
        endpoint = self._endpoints[batch.endpoint]
        done = {part.part for part in await _call(self._store.batches.parts, batch.id)}
        missing = iter([part for part in range(len(found.offsets) - 1) if part not in done])

        async def work() -> None:
            for part in missing:
                await self._part(batch, endpoint, found, part)

        async with asyncio.TaskGroup() as group:
            for _ in range(endpoint.parts_at_once):
                group.create_task(work())

    async def _part(self, batch: BatchRecord, endpoint: Endpoint, found: Survey, part: int) -> None:
        lines = await _call(read_part, self._folder, batch, found, part)
        outcomes = await endpoint.compute(lines)
        out, err, good, bad = await _call(split, batch.id, lines, outcomes)
        await _call(self._folder.write_part, batch.id, part, batch.fence, "out", out)
        await _call(self._folder.write_part, batch.id, part, batch.fence, "err", err)
        failpoint("batches.part_written")
        if not await _call(self._store.batches.add_part, batch.id, batch.fence, part, good, bad):
            raise Lost
        failpoint("batches.part_added")


def read_part(folder: FileFolder, batch: BatchRecord, found: Survey, part: int) -> list[Line]:
    """The requests of a part. Blocking. Raises FileNotFoundError."""
    start, stop = found.offsets[part], found.offsets[part + 1]
    first = found.numbers[part]
    raw = folder.lines(batch.input_file_id, start, stop)
    return [parse(line, number, batch.endpoint) for number, line in enumerate(raw, first) if line.strip()]


async def _call(what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    return await asyncio.to_thread(what, *args, **kwargs)
