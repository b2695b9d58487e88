"""What every worker says to jobs that are about to be placed, kept with their attempts for `why`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...grid import testimony
from ...grid.jobs import Ask
from ...grid.store import Claim, Placement, Store, StoreUnavailable
from .link import Link

logger = logging.getLogger(__name__)

FRESH = 0.25
"""Seconds for which an answer serves all jobs with the same needs: a thousand workers are not asked for each of a burst
of jobs."""


class Witness:
    """Asks the scheduler before an attempt is sent, writes it down afterwards: no job waits for its disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._said: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._placed: list[Placement] = []
        self._writing: asyncio.Task[None] | None = None

    async def hear(self, link: Link, claim: Claim, ask: Ask, name: str) -> None:
        """What everybody says to this attempt now. Raises LinkLost."""
        now = asyncio.get_running_loop().time()
        self._said = {needs: said for needs, said in self._said.items() if said[0] > now}
        needs = json.dumps(ask.to_annotation(), sort_keys=True)
        if needs not in self._said:
            rows = await link.explain(ask, name)
            self._said[needs] = (now + FRESH, testimony.told(rows, datetime.now(UTC), path="dask"))
        self._placed.append(Placement(claim.job.id, claim.fence, self._said[needs][1]))

    def write(self) -> None:
        """Write down, beside all else, what was heard."""
        if self._placed and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write())

    async def finish(self) -> None:
        """Return when nothing is being written any more."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        while self._placed:
            placed, self._placed = self._placed, []
            try:
                await asyncio.to_thread(self._store.jobs.keep_verdicts, placed)
            except StoreUnavailable as error:
                logger.info("what was said to %d jobs is not kept: %s", len(placed), error)
