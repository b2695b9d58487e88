"""The work on one batch: its input is surveyed, its parts are computed, its end is written. Anybody may go on with it.

What counts is in the store: the status, and which parts are computed. Whoever is killed loses the parts that it was at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
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

AGAIN = 2.0
"""Seconds between two tries to keep what was computed, while the disk or the store is away."""


class Lost(Exception):
    """Another process works on the batch by now, it has ended, or it gives way."""


class BatchWork:
    """Everything that has to be done of one batch, under one lease. Fenced: who has lost the lease changes nothing."""

    def __init__(
        self, store: Store, folder: FileFolder, endpoint: Endpoint, batch: BatchRecord, *, most: int, finisher: Finisher
    ) -> None:
        """`most`: requests that are allowed, and inputs in all of them."""
        self.batch = batch
        self._store, self._folder, self._endpoint = store, folder, endpoint
        self._most, self._finisher = most, finisher
        self._gives_way = False

    def give_way(self) -> None:
        """Begin no further part, but one at least: another client's batch waits."""
        self._gives_way = True

    async def run(self) -> None:
        """From where it is to its end. Raises Lost, StoreUnavailable, OSError."""
        batch = self.batch
        if batch.status is BatchStatus.CANCELLING:
            await self.finish(BatchStatus.CANCELLED)
            return
        if batch.status is BatchStatus.VALIDATING:
            batch = await self._begin()
        found = await self._survey()
        if batch.status is BatchStatus.IN_PROGRESS:
            await self._compute(found)
            await self._move(BatchStatus.FINALIZING)
        await self._finisher.finish(batch, BatchStatus.COMPLETED, found)

    async def finish(self, status: BatchStatus) -> None:
        """End it though not all of it is computed. Raises StoreUnavailable, OSError."""
        try:
            if self.batch.total == 0:  # it was not begun
                await call(self._folder.pin, self.batch.id, self.batch.input_file_id)
            found = await self._survey()
        except FileNotFoundError:
            if self.batch.total:
                raise
            found = Survey(offsets=[0])  # the client deleted it before anybody looked
        await self._finisher.finish(self.batch, status, found)

    async def fail(self, problem: BadLine) -> None:
        """It can't be done. Raises Lost."""
        await self._move(BatchStatus.FAILED, errors=[problem.document()])
        await call(self._folder.clear, self.batch.id)

    async def _begin(self) -> BatchRecord:
        """Read the input, which from now on is kept for the batch, and say what is wrong with it."""
        batch = self.batch
        try:
            await call(self._folder.pin, batch.id, batch.input_file_id)
        except FileNotFoundError:
            if await call(self._store.files.get, batch.input_file_id, batch.client_id) is not None:
                raise  # it should be here: is the folder that of the other processes?
            await self.fail(BadLine(0, "file_not_found", f"The input file {batch.input_file_id} was deleted."))
            raise Lost from None
        found = await self._survey()
        if found.problems:
            await self._move(BatchStatus.FAILED, errors=[problem.document() for problem in found.problems])
            await call(self._folder.clear, batch.id)
            raise Lost
        return await self._move(BatchStatus.IN_PROGRESS, total=found.lines)

    async def _survey(self) -> Survey:
        """The input's parts. They are the same at every look: the input never changes. Raises FileNotFoundError."""

        def look() -> Survey:
            lines, endpoint = self._folder.input_lines(self.batch.id), self._endpoint
            parts = partial(survey, part_lines=endpoint.part_lines, weigh=endpoint.weigh)
            return parts(lines, self.batch.endpoint, most=self._most)

        return await call(look)

    async def _move(self, status: BatchStatus, **values: Any) -> BatchRecord:
        moved = await call(self._store.batches.move, self.batch.id, self.batch.fence, status, **values)
        if moved is None:
            raise Lost
        failpoint(f"batches.{status}")
        return moved

    async def _compute(self, found: Survey) -> None:
        """All parts that are not computed yet, a few at once."""
        done = {part.part for part in await call(self._store.batches.parts, self.batch.id)}
        missing = iter([part for part in range(len(found.offsets) - 1) if part not in done])

        async def work() -> None:
            begun = False  # whoever has a turn comes further in it
            while not (begun and self._gives_way) and (part := next(missing, None)) is not None:
                begun = True
                await self._part(found, part)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._endpoint.parts_at_once):
                group.create_task(work())
        if next(missing, None) is not None:
            raise Lost  # it gave way

    async def _part(self, found: Survey, part: int) -> None:
        batch, folder = self.batch, self._folder
        lines = await call(read_part, folder, batch, found, part)
        outcomes = await self._endpoint.compute(lines)
        out, err, good, bad = await call(split, batch.id, lines, outcomes)
        await self._kept(folder.write_part, batch.id, part, batch.fence, "out", out)
        await self._kept(folder.write_part, batch.id, part, batch.fence, "err", err)
        failpoint("batches.part_written")
        if not await self._kept(self._store.batches.add_part, batch.id, batch.fence, part, good, bad):
            raise Lost
        failpoint("batches.part_added")

    async def _kept(self, what: Callable[..., T], *args: Any) -> T:
        """Keep what was computed; a full disk or a store that is away throws none of it away. Ends by cancelling:
        at the batch's end, and when its lease may be another's."""
        told = False
        while True:
            try:
                return await call(what, *args)
            except FileNotFoundError:
                raise
            except (StoreUnavailable, OSError) as error:
                if not told:
                    logger.warning("a part of %s can't be kept now: %s", self.batch.id, error)
                told = True
                await asyncio.sleep(AGAIN)


def read_part(folder: FileFolder, batch: BatchRecord, found: Survey, part: int) -> list[Line]:
    """The requests of a part. Blocking. Raises FileNotFoundError."""
    start, stop = found.offsets[part], found.offsets[part + 1]
    first = found.numbers[part]
    raw = folder.input_lines(batch.id, start, stop)
    return [
        parse(line, number, batch.endpoint, batch.client_id) for number, line in enumerate(raw, first) if line.strip()
    ]


async def call(what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """A blocking call."""
    return await asyncio.to_thread(what, *args, **kwargs)
