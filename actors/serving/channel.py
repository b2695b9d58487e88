"""The client's side: one connection to a host, many requests on it, and a heartbeat that tells when it is dead."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from ..llm.request import Event, Finished, Request, Tokens
from .errors import KINDS, ChannelLost, StreamLost
from .payload import event_from_wire, request_to_wire
from .status import HostState, HostStatus
from .wire import VERSION, Connection, Frame, ProtocolError

LOADING = 6
"""A host that loads may be silent so many times as long: importing and mapping can hold a process for seconds."""
WINDOW = 16
"""Events of one stream that may be under way; a reader that is slower gets several tokens in one."""
Piece = tuple[int, list[Any]]
"""Events on the wire, and how many tokens of the answer precede them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a host listens, and what opens it."""

    host: str
    port: int
    token: str = field(repr=False)
    """Secret of this one host; it travels only by Dask's own, authenticated, control plane."""
    epoch: int = 0
    """Of the placement that made the host: an older host on the same port is not taken for it."""


class Channel:
    """An open connection to a host. Whatever happens to it, everything that waits on it raises ChannelLost.

    Belongs to the event loop that opened it. Made by `Channel.open`.
    """

    def __init__(self, connection: Connection, heartbeat: float, deadline: float, told: Callable[[], None]) -> None:
        self.status = HostStatus()
        """What the host said last."""
        self.in_flight = 0
        """Streams that are open now."""
        self.lost: str | None = None
        """Why the channel is dead; None while it lives."""
        self._connection = connection
        self._told = told
        self._numbers = itertools.count(1)
        self._streams: dict[int, asyncio.Queue[Piece | Exception]] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._quiet, self._heartbeat = 0, heartbeat
        self._tasks = (
            asyncio.create_task(self._receive(), name="idlegrid-channel"),
            asyncio.create_task(self._beat(heartbeat, deadline), name="idlegrid-heartbeat"),
        )

    @classmethod
    async def open(
        cls,
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        heartbeat: float = 0.5,
        deadline: float = 10.0,
        patience: float = 10.0,
        told: Callable[[], None] = lambda: None,
    ) -> Channel:
        """Connect and show the token. `told` is called whenever `status` may have changed and when the channel is lost.

        `heartbeat`: seconds between two pings. `deadline`: so long a host may be silent until it counts as dead.
        `patience`: seconds that it has to answer now.
        Raises ChannelLost when no such host answers in time.
        """
        connection: Connection | None = None
        try:
            async with asyncio.timeout(patience):
                connection = Connection(*await asyncio.open_connection(address.host, address.port, ssl=tls))
                connection.send({"op": "hello", "version": VERSION, "token": address.token})
                welcome = await connection.receive()
            if welcome["op"] != "welcome" or welcome.get("epoch") != address.epoch:
                raise ProtocolError(f"not the host that was looked for, but one of epoch {welcome.get('epoch')}")
        except BaseException as error:
            if connection is not None:
                connection.close()
            if not isinstance(error, OSError | TimeoutError):
                raise
            why = str(error) or f"no answer within {patience:g} s"
            raise ChannelLost(f"no host at {address.host}:{address.port}: {why}") from error
        return cls(connection, heartbeat, deadline, told)

    @property
    def quiet(self) -> float:
        """Seconds since the host was heard, in beats: while this process was stopped, it had no chance to speak."""
        return self._quiet * self._heartbeat

    async def stream(
        self, request: Request, *, window: int = WINDOW, within: float | None = None
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """The events of a request, each with its place: how many tokens of the answer (known ones included) precede it.

        Closing it early aborts the request at the host. Ends after the Finished. Raises what the engine refuses with,
        StreamLost when the host gives this request up, ChannelLost when the host is gone, and TimeoutError when no end
        came in `within` seconds.
        """
        self._check()
        number = next(self._numbers)
        inbox = self._streams[number] = asyncio.Queue()  # bounded by the window: the host sends no more than it may
        self.in_flight += 1
        ended, taken = False, 0
        timer = None
        if within is not None:
            late = TimeoutError(f"the host did not end the request within {within:g} s")
            timer = asyncio.get_running_loop().call_later(within, inbox.put_nowait, late)
        try:
            self._send({"op": "open", "stream": number, "request": request_to_wire(request), "credit": window})
            while not ended:
                piece = await inbox.get()
                if isinstance(piece, Exception):
                    ended = not isinstance(piece, TimeoutError)
                    raise piece
                at, events = piece
                for event in map(_read, events):
                    ended = isinstance(event, Finished)
                    yield at, event
                    at += len(event.ids) if isinstance(event, Tokens) else 0
                taken += 1
                if not ended and taken >= max(1, window // 2):
                    self._send({"op": "credit", "stream": number, "n": taken})
                    taken = 0
        finally:
            if timer is not None:
                timer.cancel()
            self.in_flight -= 1
            del self._streams[number]
            if not ended:
                self._send({"op": "abort", "stream": number})

    async def call(self, what: str, *args: Any, deadline: float = 10.0) -> Any:
        """Ask the host one thing (``encode``, ``encode_chat``, ``decode``).

        Raises what it refuses with, TimeoutError or ChannelLost.
        """
        self._check()
        number = next(self._numbers)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"op": "call", "call": number, "what": what, "args": args})
            async with asyncio.timeout(deadline):
                return await answer
        finally:
            del self._calls[number]

    async def close(self) -> None:
        """Close; what was under way is aborted at the host."""
        self._lose("it was closed here")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _check(self) -> None:
        if self.lost is not None:
            raise ChannelLost(self.lost)

    def _send(self, frame: Frame) -> None:
        if self.lost is None:
            self._connection.send(frame)

    async def _receive(self) -> None:
        try:
            while True:
                frame = await self._connection.receive()
                self._quiet = 0
                self._take(frame)
        except OSError as error:  # ProtocolError is one
            self._lose(str(error))
        except (KeyError, TypeError, ValueError) as error:
            self._lose(f"the host sent a frame that can't be read: {error!r}")

    def _take(self, frame: Frame) -> None:
        op = frame["op"]
        if op == "events":
            for number, at, events in frame["of"]:
                if (inbox := self._streams.get(number)) is not None:  # else: closed here, late there
                    inbox.put_nowait((int(at), list(events)))
        elif op == "refused":
            if (inbox := self._streams.get(frame["stream"])) is not None:
                inbox.put_nowait(KINDS.get(frame["kind"], StreamLost)(frame["why"]))
        elif op in ("pong", "status"):
            self.status = HostStatus.from_wire(frame["status"])
            self._told()
        elif op == "answer":
            self._answer(frame)
        else:
            raise ProtocolError(f"the host sent {op!r}, which means nothing here")

    def _answer(self, frame: Frame) -> None:
        answer = self._calls.get(frame["call"])
        if answer is None or answer.done():
            return
        if "kind" in frame:
            answer.set_exception(KINDS.get(frame["kind"], StreamLost)(frame["why"]))
        else:
            answer.set_result(frame["value"])

    async def _beat(self, heartbeat: float, deadline: float) -> None:
        """Beats are counted, not seconds: while this process itself was stopped, the host had no chance to answer."""
        for number in itertools.count():
            self._send({"op": "ping", "n": number})
            await asyncio.sleep(heartbeat)
            self._quiet += 1
            patience = deadline * (LOADING if self.status.state is HostState.LOADING else 1)
            if self._quiet * heartbeat >= patience:
                self._lose(f"the host was silent for {patience:g} s")
                return

    def _lose(self, why: str) -> None:
        if self.lost is not None:
            return
        self.lost = why
        with contextlib.suppress(Exception):  # whatever TLS says of a connection that is given up
            self._connection.close()
        for inbox in self._streams.values():
            inbox.put_nowait(ChannelLost(why))
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(ChannelLost(why))
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._told()


def _read(wire: Any) -> Event:
    try:
        return event_from_wire(wire)
    except ProtocolError as error:
        raise StreamLost(f"the host sent what can't be read: {error}") from error
