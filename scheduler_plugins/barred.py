"""Donors that an administrator of the grid has blocked: who of them is here is sent away, and so is who comes.

What runs there is taken back by Dask at once and goes to others; a blocked donor is no part of the grid, whatever its
machine does about it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from .roster import WorkerState

logger = logging.getLogger(__name__)


class Barred:
    """The blocked donors that a scheduler was told of."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._ids: frozenset[str] = frozenset()
        self._leaving: dict[str, asyncio.Task[Any]] = {}
        """Address of a worker that is being removed → that."""

    def set(self, donors: Iterable[str]) -> None:
        """These are blocked from now on, and no others."""
        self._ids = frozenset(donors)

    def __contains__(self, donor_id: str) -> bool:
        """Whether a donor is blocked, or the one of which it is a part (``id/worker``)."""
        return bool(self._ids) and not self._ids.isdisjoint((donor_id, donor_id.partition("/")[0]))

    def says(self, wire: Any) -> bool:
        """Whether a worker's statement is a blocked donor's."""
        donor = wire.get("donor") if isinstance(wire, Mapping) else None
        said = donor.get("id") if isinstance(donor, Mapping) else None
        return isinstance(said, str) and said in self

    def send_away(self, ws: WorkerState) -> None:
        """Take the worker out of the grid. To be called on the scheduler's loop; done a moment later."""
        if ws.address in self._leaving:
            return
        logger.warning("worker %s is sent away: an administrator has blocked its donor", ws.address)
        task = asyncio.ensure_future(
            self._scheduler.remove_worker(ws.address, stimulus_id="idlegrid-blocked", expected=True)
        )
        self._leaving[ws.address] = task
        task.add_done_callback(lambda _: self._leaving.pop(ws.address, None))
