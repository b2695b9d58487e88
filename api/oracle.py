"""The scheduler, asked on behalf of the HTTP service. Implements `api.http.oracle.Oracle`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from distributed.core import rpc

from ..grid.jobs import Ask
from .http.oracle import Silent
from .tls import own_security, via

PATIENCE = 3.0
"""Seconds that the scheduler has to answer."""


class SchedulerOracle:
    """Asks the scheduler at one address, over connections that are kept and made anew. Belongs to one event loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._rpc: Any = None

    async def state(self) -> Mapping[str, Any]:
        """The grid as one document. Raises Silent."""
        return await self._ask("grid_state")

    async def why(self, key: str) -> Mapping[str, Any]:
        """What is known of a task. Raises Silent."""
        return await self._ask("grid_why", key=key)

    async def explain(self, ask: Ask, key: str) -> Sequence[Mapping[str, Any]]:
        """What every worker would say to `ask` now. Raises Silent."""
        answer = await self._ask("grid_explain", ask=ask.to_annotation(), key=key)
        told: Sequence[Mapping[str, Any]] = answer["candidates"]
        return told

    async def deployed(self, holder: str, deployments: Sequence[Mapping[str, Any]]) -> None:
        """Have the page show what one process serves. Raises Silent."""
        await self._ask("grid_deployed", holder=holder, deployments=list(deployments))

    async def close(self) -> None:
        """Close the connections."""
        if self._rpc is not None:
            await self._rpc.close_rpc()

    async def _ask(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        if self._rpc is None:
            self._rpc = rpc(self._address, **via(own_security(self._address)))
        try:
            async with asyncio.timeout(PATIENCE):
                answer: Mapping[str, Any] | None = await getattr(self._rpc, operation)(**arguments)
        except (OSError, TimeoutError) as error:
            raise Silent(f"the scheduler does not answer ({type(error).__name__})") from error
        if answer is None:
            raise Silent("the scheduler runs without the grid's rules")
        return answer
