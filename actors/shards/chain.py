"""How stages become a chain: each takes its seat, the last one first, then the head connects to the first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .frame import Codec
from .head import Head
from .leg import Door
from .stage_host import Seat


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlace:
    """A stage that is ready for a seat."""

    layers: range
    door: Door
    join: Callable[[Seat], Awaitable[None]]
    """Asks it to take a seat: `StageHost.join`, or that of its actor."""


async def connect_chain(head: Head, stages: Sequence[StagePlace], epoch: int, codec: Codec = Codec.RAW) -> None:
    """Begin an epoch of the head's chain with these stages, in the order of their layers.

    Raises ValueError when they don't hold every layer once or the epoch is over, LinkLost and LinkRefused when one
    can't reach the next, and whatever a `join` raises. The epoch is spent then: try again with the next one.
    """
    edges = [0, *(stage.layers.stop for stage in stages)]
    if [stage.layers.start for stage in stages] != edges[:-1] or edges[-1] != head.layers:
        held = ", ".join(f"{stage.layers.start}-{stage.layers.stop - 1}" for stage in stages)
        raise ValueError(f"layers {held} are not 0-{head.layers - 1}, each once and in order")
    await asyncio.to_thread(head.admit, epoch)
    door = head.door
    for stage in reversed(stages):
        await stage.join(Seat(chain=head.chain, epoch=epoch, next=door, codec=codec))
        door = stage.door
    await asyncio.to_thread(head.connect, door)
