"""One client's connection at a host: its requests side by side, none of them in another's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Protocol

from ..llm.engine_face import Engine, EngineClosed
from ..llm.request import Event, Finished, Request, RequestRefused, Tokens
from .errors import StreamLost, kind_of
from .payload import event_to_wire, request_from_wire
from .status import HostStatus
from .wire import Connection, Frame, ProtocolError

MOST_STREAMS = 4096
"""Requests of one client at the same time."""


class Serves(Protocol):
    """What a session needs of its host."""

    engine: Engine | None
    last_event: float

    def status(self) -> HostStatus:
        """See `Host.status`."""

    def broke(self, why: str) -> None:
        """See `Host.broke`."""


class Session:
    """Reads one client's frames until it is gone; then aborts all that it asked for, within a step."""

    def __init__(self, host: Serves, connection: Connection, silence: float) -> None:
        self._host, self._connection, self._silence = host, connection, silence
        self._streams: dict[int, tuple[asyncio.Task[None], asyncio.Semaphore]] = {}
        self._operations: dict[str, Callable[[Frame], None]] = {
            "open": self._open,
            "credit": self._credit,
            "abort": self._abort,
            "call": self._call,
            "ping": self._ping,
        }

    async def run(self) -> None:
        """Until the client is gone or breaks the rules: raises ConnectionError or TimeoutError then."""
        self.tell_status()
        try:
            while True:
                async with asyncio.timeout(self._silence):
                    frame = await self._connection.receive()
                try:
                    self._operations[frame["op"]](frame)
                except (KeyError, TypeError, ValueError) as error:
                    raise ProtocolError(f"a client sent a frame that can't be read: {error!r}") from error
        finally:
            await self._stop_all()

    def tell_status(self) -> None:
        """Tell the client how the host is."""
        self._connection.send({"op": "status", "status": self._host.status().to_wire()})

    async def give_up(self, why: str) -> None:
        """End every stream without an end of its own, so that its reader goes on elsewhere."""
        for number in list(self._streams):
            self._connection.send({"op": "refused", "stream": number, "kind": "moved", "why": why})
        await self._stop_all()

    async def _stop_all(self) -> None:
        tasks = [task for task, _ in self._streams.values()]
        self._streams.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _open(self, frame: Frame) -> None:
        number, credit = int(frame["stream"]), int(frame["credit"])
        if number in self._streams:
            raise ProtocolError(f"stream {number} is open already")
        if len(self._streams) >= MOST_STREAMS:
            self._refuse(number, RequestRefused(f"{MOST_STREAMS} requests are open on this connection already"))
            return
        credits_ = asyncio.Semaphore(credit)
        task = asyncio.create_task(self._serve(number, frame["request"], credits_))
        self._streams[number] = (task, credits_)

    def _credit(self, frame: Frame) -> None:
        if (stream := self._streams.get(frame["stream"])) is not None:
            for _ in range(min(int(frame["n"]), MOST_STREAMS)):
                stream[1].release()

    def _abort(self, frame: Frame) -> None:
        if (stream := self._streams.pop(frame["stream"], None)) is not None:
            stream[0].cancel()

    def _ping(self, frame: Frame) -> None:
        self._connection.send({"op": "pong", "n": frame["n"], "status": self._host.status().to_wire()})

    def _call(self, frame: Frame) -> None:
        number = int(frame["call"])
        try:
            answer: Frame = {"value": self._ask(str(frame["what"]), frame["args"])}
        except Exception as error:  # noqa: BLE001 - whatever the tokenizer says, its caller gets it
            answer = {"kind": kind_of(error), "why": str(error)}
        self._connection.send({"op": "answer", "call": number, **answer})

    def _ask(self, what: str, args: Any) -> Any:
        engine = self._engine()
        if what == "encode":
            return engine.encode(str(args[0]))
        if what == "decode":
            return engine.decode(args[0])
        if what == "encode_chat":
            return engine.encode_chat(args[0], **args[1])
        raise RequestRefused(f"nothing is known of {what!r} here")

    def _engine(self) -> Engine:
        if (engine := self._host.engine) is None:
            raise EngineClosed("the engine is still being loaded")
        return engine

    async def _serve(self, number: int, wire: Any, credits_: asyncio.Semaphore) -> None:
        try:
            await self._tell_events(number, request_from_wire(wire), credits_)
        except ProtocolError as error:  # this request can't be read; the connection can
            self._refuse(number, RequestRefused(str(error)))
        except Exception as error:  # noqa: BLE001 - the engine failed in a way of its own: the reader must hear of an end
            if isinstance(error, EngineClosed):
                self._host.broke(str(error))
            self._refuse(number, error)
        finally:
            self._streams.pop(number, None)

    async def _tell_events(self, number: int, request: Request, credits_: asyncio.Semaphore) -> None:
        at = len(request.known)
        async with aclosing(self._engine().generate(request)) as events:
            while True:
                # First the permission, then the event: what comes meanwhile is joined by the engine, not kept here.
                await credits_.acquire()
                event: Event | None = await anext(events, None)
                if event is None:
                    raise StreamLost("the engine ended the request without an end")
                self._host.last_event = time.monotonic()
                self._connection.send({"op": "events", "stream": number, "at": at, "events": [event_to_wire(event)]})
                at += len(event.ids) if isinstance(event, Tokens) else 0
                if isinstance(event, Finished):
                    return
                await self._connection.drained()

    def _refuse(self, number: int, error: Exception) -> None:
        self._connection.send(
            {"op": "refused", "stream": number, "kind": kind_of(error), "why": str(error) or type(error).__name__}
        )
