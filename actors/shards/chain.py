"""How stages become a chain: each takes its seat, the last one first, then the head connects to the first."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .errors import LinkLost, LinkRefused
from .frame import Codec
from .head import Head
from .leg import Door, Leg, Pace
from .link import Link
from .stage_host import Seat


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlace:
    """A stage that is ready for a seat."""

    layers: range
    door: Door
    join: Callable[[Seat], Awaitable[None]]
    """Asks it to take a seat: `StageHost.join`, or that of its actor."""
    donor_id: str = ""
    """Where it is."""


class NotSeated(ConnectionError):
    """A stage took no seat."""

    def __init__(self, place: int, layers: range, error: BaseException) -> None:
        said = str(error) or type(error).__name__
        super().__init__(f"layers {layers.start} to {layers.stop - 1} took no seat: {said}")
        self.place = place
        """Which of the stages."""
        self.hangs = isinstance(error, TimeoutError)
        """It said nothing in time."""


async def connect_chain(
    head: Head, stages: Sequence[StagePlace], epoch: int, codec: Codec = Codec.RAW, *, within: float | None = None
) -> None:
    """Begin an epoch of the head's chain with these stages, in the order of their layers.

    `within`: seconds that one stage may take to take its seat. Raises ValueError when they don't hold every layer once
    or the epoch is over, NotSeated, and LinkLost and LinkRefused when the head can't reach the first. The epoch is
    spent then: try again with the next one.
    """
    edges = [0, *(stage.layers.stop for stage in stages)]
    if [stage.layers.start for stage in stages] != edges[:-1] or edges[-1] != head.layers:
        held = ", ".join(f"{stage.layers.start}-{stage.layers.stop - 1}" for stage in stages)
        raise ValueError(f"layers {held} are not 0-{head.layers - 1}, each once and in order")
    await asyncio.to_thread(head.admit, epoch)
    door, donor_id = head.door, ""
    for place, stage in reversed(list(enumerate(stages))):
        try:
            async with asyncio.timeout(within):
                seat = Seat(chain=head.chain, epoch=epoch, next=door, codec=codec, next_donor=donor_id)
                await stage.join(seat)
        except Exception as error:
            raise NotSeated(place, stage.layers, error) from error
        door, donor_id = stage.door, stage.donor_id
    await asyncio.to_thread(head.connect, door)


class Knock(StrEnum):
    """What is behind a door."""

    ANSWERS = "answers"
    SILENT = "silent"
    """Nothing was heard in time: it hangs, or the way there is broken."""
    NOBODY = "nobody"
    """Nobody listens there."""


async def knock(door: Door, *, tls: ssl.SSLContext | None, within: float) -> Knock:
    """Ask whoever listens at a door for a word, as a stranger: a process that is stopped has none."""
    pace, stranger = Pace(connect=within, patience=0.0), Leg(chain=os.urandom(16), epoch=0)
    try:
        link = await Link.open(door, stranger, tls=tls, pace=pace)
    except LinkRefused:  # nobody knows that chain; but somebody said so
        return Knock.ANSWERS
    except LinkLost as lost:
        return Knock.NOBODY if lost.nobody else Knock.SILENT
    await link.close()
    return Knock.ANSWERS


async def answers(door: Door, *, tls: ssl.SSLContext | None, within: float) -> bool:
    """Whether whoever listens at a door answers."""
    return await knock(door, tls=tls, within=within) is Knock.ANSWERS
