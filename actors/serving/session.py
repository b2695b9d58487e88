"""One client's connection at a host: its requests side by side, none of them in another's way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ..llm.engine_face import Engine, EngineClosed, EventStream
from ..llm.request import Finished, RequestRefused, Tokens
from .errors import kind_of
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


@dataclass(slots=True)
class _Stream:
    """One request of the client."""

    number: int
    credit: int
    """So many times it may be sent events. They are taken from the engine only then: it joins what comes meanwhile."""
    at: int = 0
    """Tokens of the answer that the client has."""
    opening: asyncio.Task[None] | None = None
    events: EventStream | None = None
    """Once the engine has accepted it."""

    def stop(self) -> None:
        """The engine aborts it if it lives."""
        if self.opening is not None:
            self.opening.cancel()
        if self.events is not None:
            self.events.close()


class Session:
    """Reads one client's frames until it is gone; then aborts all that it asked for, within a step.

    The engine's events are sent as they come: those of one step are one frame, whatever their number.
    """

    def __init__(self, host: Serves, connection: Connection, silence: float) -> None:
        self._host, self._connection, self._silence = host, connection, silence
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, _Stream] = {}
        self._ready: dict[int, _Stream] = {}
        """Streams of which the engine has told something since the last frame."""
        self._draining: asyncio.Task[None] | None = None
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
        streams = list(self._streams.values())
        self._streams.clear()
        self._ready.clear()
        for stream in streams:
            stream.stop()
        tasks = [stream.opening for stream in streams if stream.opening is not None]
        if self._draining is not None:
            self._draining.cancel()
            tasks.append(self._draining)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _open(self, frame: Frame) -> None:
        number, credit = int(frame["stream"]), int(frame["credit"])
        if number in self._streams:
            raise ProtocolError(f"stream {number} is open already")
        if len(self._streams) >= MOST_STREAMS:
            self._refuse(number, RequestRefused(f"{MOST_STREAMS} requests are open on this connection already"))
            return
        stream = self._streams[number] = _Stream(number, credit)
        stream.opening = asyncio.create_task(self._submit(stream, frame["request"]))

    def _credit(self, frame: Frame) -> None:
        if (stream := self._streams.get(frame["stream"])) is not None:
            stream.credit += min(int(frame["n"]), MOST_STREAMS)
            self._arrived(stream)

    def _abort(self, frame: Frame) -> None:
        if (stream := self._streams.pop(frame["stream"], None)) is not None:
            stream.stop()

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

    async def _submit(self, stream: _Stream, wire: Any) -> None:
        try:
            request = request_from_wire(wire)
            stream.at = len(request.known)
            stream.events = await self._engine().submit(request)
        except ProtocolError as error:  # this request can't be read; the connection can
            self._refuse(stream.number, RequestRefused(str(error)))
        except Exception as error:  # noqa: BLE001 - the engine failed in a way of its own: the reader must hear of an end
            if isinstance(error, EngineClosed):
                self._host.broke(str(error))
            self._refuse(stream.number, error)
        else:
            stream.events.listen(partial(self._arrived, stream))

    def _arrived(self, stream: _Stream) -> None:
        if not self._ready:
            self._loop.call_soon(self._tell_events)
        self._ready[stream.number] = stream

    def _tell_events(self) -> None:
        """Send what has come, in one frame. A client that takes less than it is sent is waited for."""
        if self._draining is not None and not self._draining.done():
            return
        ready, self._ready = self._ready, {}
        told = [piece for stream in ready.values() if (piece := self._piece(stream)) is not None]
        if told:
            self._host.last_event = time.monotonic()
            self._connection.send({"op": "events", "of": told})
        if self._connection.congested:
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        with contextlib.suppress(ConnectionError):  # `run` hears of it, too
            await self._connection.drained()
        if self._ready:
            self._loop.call_soon(self._tell_events)

    def _piece(self, stream: _Stream) -> tuple[int, int, list[dict[str, Any]]] | None:
        """What may be sent of a stream: its number, how many tokens precede, the events."""
        if stream.credit < 1 or stream.events is None or not (events := stream.events.take()):
            return None
        stream.credit -= 1
        at = stream.at
        stream.at += sum(len(event.ids) for event in events if isinstance(event, Tokens))
        if isinstance(events[-1], Finished):
            self._streams.pop(stream.number, None)
        return stream.number, at, [event_to_wire(event) for event in events]

    def _refuse(self, number: int, error: Exception) -> None:
        self._streams.pop(number, None)
        self._connection.send(
            {"op": "refused", "stream": number, "kind": kind_of(error), "why": str(error) or type(error).__name__}
        )
