"""Who of a chain is lost: by what its lead's channel says, what the chain itself says, and what each stage answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from .chain_lead import ChainLead
from .chain_looks import Looks
from .live_stage import LiveStage
from .reconcile import Patience

PROBE = 2.0
"""Seconds that a stage has to answer when its chain says that it is lost; less where it always answered soon."""
SOON = 0.5
"""So many it has at least."""


class Watch:
    """Of one chain. Belongs to one event loop."""

    def __init__(self, patience: Patience, told: Callable[[], None]) -> None:
        """`told` is called when there may be news."""
        self._patience = patience
        self._looks = Looks(told)
        self._looked = time.monotonic()
        self._doubted: frozenset[LiveStage] = frozenset()
        """What the chain had lost, it said, the last time."""

    def __bool__(self) -> bool:
        """Whether a stage has been asked how it is, and it is not known yet."""
        return bool(self._looks)

    def soon(self) -> None:
        """Ask all stages the next time, whenever that is."""
        self._looked = 0.0

    async def close(self) -> None:
        """Wait for no answer any more."""
        await self._looks.close()

    async def lead(self, lead: ChainLead) -> str:
        """Why the stage that leads is lost; empty when it isn't.

        A process that is stopped keeps its connections. Its channel and its stage are asked on ways of their own, so
        both being silent for longer than they ever were is enough, long before either alone would be.
        """
        allowed = lead.stage.allowed(self._patience.freeze, self._patience.silence)
        if min(lead.channel.quiet, self._looks.waited(lead.stage)) > allowed:
            return f"{lead.stage}: nothing was heard for {allowed:.1f} s"
        return await lead.lost()

    async def named(self, named: Sequence[LiveStage]) -> list[LiveStage]:
        """Those that the chain says it has lost, without those that answer us: they get another chance, once."""
        ends = await asyncio.gather(*(one.look(one.allowed(SOON, PROBE)) for one in named), return_exceptions=True)
        lost = [one for one, end in zip(named, ends, strict=True) if end is not None or one in self._doubted]
        self._doubted = frozenset(named)
        return lost

    def silent(self, stages: Sequence[LiveStage], every: float) -> Mapping[LiveStage, str]:
        """Stages that don't answer any more, and why. All are asked every so many seconds; nobody waits for them."""
        if time.monotonic() - self._looked >= every:
            self._looked = time.monotonic()
            self._looks.ask(stages, self._patience.silence)
        return {one: why for one, why in self._looks.lost().items() if one in stages}
