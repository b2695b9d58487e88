"""The service's way to the scheduler: a Dask client that is made anew when Dask has given it up."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from distributed import Client
from distributed.security import Security

PATIENCE = 5.0
"""Seconds that a scheduler has to answer."""


class NoScheduler(ConnectionError):
    """No scheduler answers; the message says where."""


class GridLink:
    """Belongs to one event loop. A client that was given from outside is used and not closed."""

    def __init__(self, grid: str | Client, *, security: Security | None = None) -> None:
        """`grid`: the scheduler's address, or an asynchronous client of this loop."""
        self._own = isinstance(grid, str)
        self._address = grid if isinstance(grid, str) else grid.scheduler.address
        self._client: Client | None = None if isinstance(grid, str) else grid
        self._security = security
        self._connecting = asyncio.Lock()

    async def client(self) -> Client:
        """A client that is connected. Raises NoScheduler."""
        async with self._connecting:
            client = self._client
            if client is not None and client.status == "running":
                return client
            if self._own and (client is None or client.status == "closed"):
                return await self._connect()
        raise NoScheduler(f"the scheduler at {self._address} can't be reached; it is looked for")

    async def _connect(self) -> Client:
        options: dict[str, Any] = {"asynchronous": True, "set_as_default": False, "timeout": PATIENCE}
        if self._security is not None:
            options["security"] = self._security
        client = Client(self._address, **options)
        try:
            self._client = await client
        except (OSError, TimeoutError, ValueError) as error:
            raise NoScheduler(f"no scheduler answers at {self._address} within {PATIENCE:g} s: {error}") from error
        return self._client

    async def ask(self, what: str, **said: Any) -> dict[str, Any]:
        """Ask the scheduler one thing, by the name of its handler. Raises OSError (as NoScheduler) or TimeoutError."""
        client = await self.client()
        async with asyncio.timeout(PATIENCE):  # `wait_for` may swallow that we are cancelled (before Python 3.12)
            answer: dict[str, Any] = await getattr(client.scheduler, what)(**said)
        return answer

    async def why(self, key: str) -> str:
        """Why a task waits, in the grid's own words; empty when it can't be asked."""
        try:
            answer: dict[str, Any] | None = await self.ask("grid_why", key=key)
        except (OSError, TimeoutError):
            return ""
        return str(answer["summary"]) if answer else "the scheduler runs without the grid's rules"

    def tls(self, address: str) -> ssl.SSLContext | None:
        """How to talk to a worker at this address: as privately as Dask does."""
        if not address.startswith("tls://") or self._client is None:
            return None
        context: ssl.SSLContext = self._client.security.get_connection_args("client")["ssl_context"]
        return context

    async def close(self) -> None:
        """Disconnect, if the client is ours."""
        if self._own and self._client is not None:
            with contextlib.suppress(OSError, TimeoutError):
                await self._client.close()
