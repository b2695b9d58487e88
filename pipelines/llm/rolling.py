"""From one generation of a deployment to the next: it is brought up first, and what was begun ends where it began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .deployment import Held, Phase
from .router import Router
from .supervisor import Supervisor

ROOM = 15.0
"""Seconds that the next generation may find no donors beside the present one, before that makes room."""
DRAIN = 600.0
"""Seconds that answers of the one before have to come to their end."""
LOOK = 0.5
"""Seconds between two looks when nothing is told."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A deployment in one version: its replicas, and the way to them."""

    supervisor: Supervisor
    router: Router

    @property
    def ready(self) -> int:
        """Replicas that serve."""
        return sum(one.phase is Phase.READY for one in self.supervisor.views())

    @property
    def loads(self) -> bool:
        """Whether anything of it has a donor, and is not ready."""
        return any(one.phase is Phase.LOADING for one in self.held())

    def held(self, num_layers: int | None = None) -> Sequence[Held]:
        """Who holds which layers of it, or loads them."""
        return [held for one in self.supervisor.replicas() for held in one.held(num_layers)]


class Rolling:
    """One change of generations, from `start` to the end of its task. Belongs to one event loop."""

    def __init__(self, before: Generation, after: Generation, switch: Callable[[], None]) -> None:
        """`switch` is called once, when requests are to go to `after` from then on."""
        self.before, self.after = before, after
        self.switched = False
        self._switch = switch
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Bring the next generation up."""
        self.after.supervisor.start()
        self._task = asyncio.create_task(self._run(), name=f"idlegrid-change {self.after.supervisor.deployment.model}")

    @property
    def why(self) -> str:
        """What it waits for; empty when it serves."""
        if self.switched:
            return ""
        return f"the change is brought up beside what serves: {self.after.supervisor.why()}"

    @property
    def ended(self) -> bool:
        """Nothing is left of the generation before."""
        return self._task is not None and self._task.done()

    async def close(self) -> None:
        """End the change where it is, and the generation that doesn't serve. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await (self.before if self.switched else self.after).supervisor.close()

    async def _run(self) -> None:
        await self._up()
        if not self.after.ready and self.after.supervisor.deployment.replicas:
            await self.before.supervisor.close()  # there are no donors for both: it begins anew
        self.switched = True
        self._switch()
        await self._drained()
        await self.before.supervisor.close()

    async def _up(self) -> None:
        """Until all of its replicas serve, or no more donors are found beside the present ones."""
        loop, wanted = asyncio.get_running_loop(), self.after.supervisor.deployment
        moved = loop.time()
        while self.after.ready < wanted.replicas and loop.time() - moved < ROOM:
            await self.after.supervisor.changed.wait(LOOK)
            wanted = self.after.supervisor.deployment
            if self.after.loads:
                moved = loop.time()

    async def _drained(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN
        while self.before.router.active and not self.before.supervisor.closed and loop.time() < until:
            await self.before.supervisor.changed.wait(LOOK)
