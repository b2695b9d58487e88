"""What stands beside an engine on a worker: loads it, listens, and serves its events to whoever shows the token."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ..llm.engine_face import Engine
from .channel import Address
from .session import Session
from .status import HostState, HostStatus
from .wire import VERSION, Connection

logger = logging.getLogger(__name__)

MOST_SESSIONS = 256
"""Connections at the same time; a service needs one."""
HELLO_BYTES = 4096
"""Nobody makes us take more than this before the token was shown."""
HELLO_PATIENCE = 5.0
"""Seconds until the token must have been shown."""


class Host:
    """One engine, one listener. Belongs to the event loop that starts it; the engine lives on the same loop."""

    def __init__(
        self,
        make: Callable[[], Engine],
        *,
        epoch: int = 0,
        tls: ssl.SSLContext | None = None,
        leaving: Callable[[], str] = lambda: "",
        changed: Callable[[HostState], None] = lambda state: None,
        wants: Callable[[], Mapping[str, Any] | None] = lambda: None,
        silence: float = 30.0,
    ) -> None:
        """`make` gives the engine, not yet started. `leaving`: why the donor takes nothing new, empty if it does.
        `changed` hears of every new state. `wants`: see `HostStatus`.
        `silence`: seconds until a client that says nothing counts as gone.
        """
        self._make, self._epoch, self._tls = make, epoch, tls
        self._leaving, self._changed, self._wants, self._silence = leaving, changed, wants, silence
        self._token = secrets.token_hex(32)
        self._sessions: dict[Session, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._loading: asyncio.Task[None] | None = None
        self.engine: Engine | None = None
        """Once it is loaded."""
        self.state = HostState.LOADING
        self.why = ""
        self.last_event = time.monotonic()
        """When the engine last told anything, or began to have work."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Address:
        """Listen on `host` and begin to load the engine. Raises OSError when it can't listen."""
        self._server = await asyncio.start_server(self._connected, host, port, ssl=self._tls, limit=2**20)
        self._loading = asyncio.create_task(self._load(), name="idlegrid-load")
        bound = self._server.sockets[0].getsockname()[1]
        return Address(host=host, port=bound, token=self._token, epoch=self._epoch)

    async def close(self) -> None:
        """Give up what runs (its readers go on elsewhere), stop listening, close the engine. Idempotent."""
        if self.state is HostState.CLOSING:
            return
        self._become(HostState.CLOSING)
        if self._server is not None:
            self._server.close()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await asyncio.gather(*(session.give_up("the replica is being closed") for session in self._sessions))
        for task in list(self._sessions.values()):
            task.cancel()
        await asyncio.gather(*self._sessions.values(), return_exceptions=True)
        if self.engine is not None:
            await self.engine.close()

    def status(self) -> HostStatus:
        """How it is now."""
        if self.engine is None or self.state is not HostState.READY:
            return HostStatus(state=self.state, why=self.why, leaving=self._leaving())
        load = self.engine.load()
        if not load.running + load.waiting:
            self.last_event = time.monotonic()
        return HostStatus(
            state=self.state,
            running=load.running,
            waiting=load.waiting,
            kv_usage=load.kv_usage,
            queue_limit=load.queue_limit,
            stalled=time.monotonic() - self.last_event,
            leaving=self._leaving(),
            facts=_plain(self.engine),
            wants=self._wants(),
        )

    def tell_status(self) -> None:
        """Tell every client at once how the host is."""
        for session in self._sessions:
            session.tell_status()

    def broke(self, why: str) -> None:
        """The engine takes no requests any more, though nobody closed it: whoever keeps the replica must know."""
        if self.state is HostState.READY:
            self.why = why
            self._become(HostState.FAILED)

    async def _load(self) -> None:
        engine: Engine | None = None
        try:
            engine = await asyncio.to_thread(self._make)  # it imports what takes seconds
            await engine.start()
        except Exception as error:  # whatever it is, whoever asked for the replica wants to know
            logger.exception("the engine could not be loaded")
            self.why = f"{type(error).__name__}: {error}"
            if engine is not None:
                with contextlib.suppress(Exception):
                    await engine.close()
            self._become(HostState.FAILED)
            return
        except asyncio.CancelledError:
            if engine is not None:
                await engine.close()
            raise
        self.engine = engine
        self._become(HostState.READY)

    def _become(self, state: HostState) -> None:
        self.state = state
        self._changed(state)
        self.tell_status()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        session = Session(self, connection, self._silence)
        try:
            if len(self._sessions) >= MOST_SESSIONS or not await self._greet(connection):
                return
            task = asyncio.current_task()
            if task is None or self.state is HostState.CLOSING:
                return
            self._sessions[session] = task
            await session.run()
        except (OSError, TimeoutError):  # gone, silent, or not one of ours
            pass
        except asyncio.CancelledError:  # the host closes; asyncio would log it as an error of the server's callback
            pass
        finally:
            self._sessions.pop(session, None)
            connection.close()

    async def _greet(self, connection: Connection) -> bool:
        """Whether the other side may talk to us. A wrong token gets no answer."""
        async with asyncio.timeout(HELLO_PATIENCE):
            hello = await connection.receive(HELLO_BYTES)
        shown = hello.get("token")
        if hello["op"] != "hello" or hello.get("version") != VERSION or not isinstance(shown, str):
            return False
        if not hmac.compare_digest(shown.encode(), self._token.encode()):
            logger.warning("somebody without the token connected and was sent away")
            return False
        connection.send({"op": "welcome", "epoch": self._epoch})
        return True


def _plain(engine: Engine) -> dict[str, Any]:
    return {
        name: sorted(value) if isinstance(value, frozenset) else value for name, value in asdict(engine.facts).items()
    }
