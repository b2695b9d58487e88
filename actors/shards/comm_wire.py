"""Frames over a `Comm` of `distributed`: in-process queues, and UCX where its package is there.

A message is a list of three buffers; whatever else comes is refused. Over UCX the peer's bytes pass distributed's own
reader first, which may unpickle: only for links inside one trusted network.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from distributed.comm import connect
from distributed.comm import listen as listen_comm

from .errors import FrameRefused
from .frame import HEADER, Buffer, Encoded, Frame, Limits, announced, decode
from .wire import Accept, Hears

_ENDS = (OSError, ValueError, TypeError, RuntimeError)
"""What a Comm raises when it can't read or write any more; CommClosedError is an OSError."""


class CommWire:
    """See Wire."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._hears: Hears | None = None
        self._limits = Limits()
        self._outbox: asyncio.Queue[list[Buffer] | None] = asyncio.Queue()
        self._over = ""
        self._tasks: tuple[asyncio.Task[None], ...] = (asyncio.create_task(self._write()),)

    def attach(self, hears: Hears, limits: Limits) -> None:
        self._limits = limits
        if self._hears is None:
            self._tasks += (asyncio.create_task(self._read(hears)),)
        self._hears = hears

    def send(self, encoded: Encoded) -> None:
        if not self._over:
            # in-process nothing is copied on the way: the frame must be the receiver's own
            self._outbox.put_nowait([bytearray(part) for part in encoded])

    def close(self) -> None:
        self._outbox.put_nowait(None)

    async def _read(self, hears: Hears) -> None:
        try:
            while True:
                hears.heard(self._frame(await self._comm.read()))
        except _ENDS as error:
            self._end(str(error) or type(error).__name__)
        finally:
            hears.lost(self._over or "it was closed")

    async def _write(self) -> None:
        try:
            while (message := await self._outbox.get()) is not None:
                await self._comm.write(message)
            self._end("it was closed")
        except _ENDS as error:
            self._end(str(error) or type(error).__name__)

    def _end(self, why: str) -> None:
        if self._over:
            return
        self._over = why
        with contextlib.suppress(*_ENDS):
            self._comm.abort()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def _frame(self, message: Any) -> Frame:
        if not isinstance(message, list | tuple) or [len(part) for part in message[:1]] != [HEADER.size]:
            raise FrameRefused("a message came that is no frame")
        header, note, body = message
        return decode(announced(header, self._limits), header, note, body)


class CommListener:
    """See Listener."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener

    @classmethod
    async def start(cls, address: str, accept: Accept, limits: Limits) -> CommListener:
        """Listen at any address that `distributed.comm` knows."""

        async def connected(comm: Any) -> None:
            wire = CommWire(comm)
            wire.attach(accept(wire), limits)

        return cls(await listen_comm(address, connected))

    @property
    def address(self) -> str:
        return str(self._listener.contact_address)

    async def close(self) -> None:
        self._listener.stop()


async def connect_comm(address: str) -> CommWire:
    """Connect to any address that `distributed.comm` knows. Raises OSError."""
    return CommWire(await connect(address))
