"""HTTP connections that are given up when no request comes on them: uvicorn alone keeps a silent one for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

PATIENCE = 30.0
"""Seconds in which the first request must have come. Between two, silence is borne so long, or twice that at most."""


class Patience:
    """Mixed into a protocol of uvicorn. What a body and an answer may take is for whoever takes the request."""

    patience = PATIENCE
    _next: asyncio.TimerHandle | None = None
    _before: Any = (None,)
    """The latest request when the connection was looked at before, if nothing was under way; else nothing."""

    def connection_made(self: Any, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)  # type: ignore[misc]
        self._next = self.loop.call_later(self.patience, self._look)

    def connection_lost(self: Any, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._next.cancel()
        super().connection_lost(exc)  # type: ignore[misc]

    def _look(self: Any) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._before == (self.cycle,):
            self.transport.close()
            return
        self._before = (self.cycle,) if idle else ()
        self._next = self.loop.call_later(self.patience, self._look)


class PatientProtocol(Patience, AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's usual protocol, which is never patient without end."""
