"""What the doors for jobs ask of the scheduler: who is here, and what each says to a piece of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ...grid.jobs import Ask


class Silent(Exception):
    """Nobody answers for the scheduler now. The message says why; jobs are accepted and kept nevertheless."""


class Oracle(Protocol):
    """The scheduler, asked from the event loop that serves. Every method answers within seconds or raises Silent."""

    async def state(self) -> Mapping[str, Any]:
        """The grid as one document: `scheduler_plugins.state.grid_state`."""
        ...

    async def why(self, key: str) -> Mapping[str, Any]:
        """What is known of a task, ``{job_id}-{fence}``: `scheduler_plugins.why.grid_why`."""
        ...

    async def explain(self, ask: Ask, key: str) -> Sequence[Mapping[str, Any]]:
        """What every worker would say to `ask` now, as the `candidates` of `grid_why`: best first, then who refuses.

        `key` decides the lots of workers that take only a share of the work.
        """
        ...


class NoOracle:
    """A service without a scheduler: workers come and ask for jobs, nobody is pushed any."""

    async def state(self) -> Mapping[str, Any]:
        raise Silent(_NOBODY)

    async def why(self, key: str) -> Mapping[str, Any]:
        raise Silent(_NOBODY)

    async def explain(self, ask: Ask, key: str) -> Sequence[Mapping[str, Any]]:
        raise Silent(_NOBODY)


_NOBODY = "this service has no scheduler"
