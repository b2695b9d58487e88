"""Has donors that were never measured try how fast they are, before a model is cut: few of them, each once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from concurrent.futures import CancelledError as TaskCancelled
from typing import Any

import dask
from distributed import Client

from ...actors.speed_trial import trial
from ...grid.jobs import Ask
from ...grid.layers.speed import Source, Speed
from .chain_plan import Offer
from .donor_facts import Facts, device_of, speeds_of
from .link import PATIENCE, GridLink

logger = logging.getLogger(__name__)

MOST = 16
"""Donors that are tried before one cut, the best by what is known: of thousands, a chain needs few."""
WITHIN = 15.0
"""Seconds that all of them have together, mostly to read what computes; the speed of who is later is presumed."""
AGAIN = 600.0
"""Seconds after which a donor that did not answer is asked again."""


class Trials:
    """Of one replica. Belongs to one event loop."""

    def __init__(self, link: GridLink) -> None:
        self._link = link
        self._asked: dict[str, float] = {}
        """When those that did not answer were asked."""

    async def made(self, known: Facts, ask: Ask, most: int = MOST) -> Facts:
        """The facts with the speeds of the best donors that take this ask, as far as they answer in time."""
        now = time.monotonic()
        new = [
            one
            for one in known.offers
            if not _tried(one, known) and now - self._asked.get(one.donor.id, -AGAIN) >= AGAIN
        ]
        if not new:
            return known
        best = sorted(new, key=lambda one: (-one.score, one.donor.id))[:most]
        try:
            client = await self._link.client()
        except (OSError, TimeoutError):
            return known
        tasks = [asyncio.create_task(self._one(client, one, known, ask)) for one in best]
        try:
            await asyncio.wait(tasks, timeout=WITHIN)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        speeds = {one.donor.id: end for one, end in zip(best, ends, strict=True) if isinstance(end, Speed)}
        for one in best:
            if one.donor.id not in speeds:
                self._asked[one.donor.id] = now
                logger.info("how fast %s is, is presumed: it did not say", one.donor.id)
        return known.with_speeds(speeds)

    async def _one(self, client: Client, offer: Offer, known: Facts, ask: Ask) -> Speed | None:
        """None when it can't, for whatever reason."""
        device = device_of(known.rows[offer.donor.id], known.needs)
        future: Any = None
        try:
            with dask.annotate(grid=ask.to_annotation()):
                future = client.submit(
                    trial, device, known.needs.dtype, pure=False, workers=[offer.address], allow_other_workers=False
                )
            return Speed.from_wire(await future)
        except (Exception, TaskCancelled) as error:  # noqa: BLE001 - it is a donor's own machine, whatever it says
            logger.info("%s could not be tried: %s", offer.donor.id, error or type(error).__name__)
            return None
        finally:
            if future is not None:
                if future.status == "pending":
                    with contextlib.suppress(Exception):
                        await asyncio.wait_for(client.cancel([future]), PATIENCE)
                future.release()


def _tried(offer: Offer, known: Facts) -> bool:
    """Whether its speed was measured: by a trial, or by steps of such a model."""
    needs, row = known.needs, known.rows[offer.donor.id]
    device = device_of(row, needs)
    speeds = speeds_of(row)
    return any(
        one.counts_for(device, needs.dtype, needs.layer_bytes) for one in speeds if one.source is not Source.PRESUMED
    )
