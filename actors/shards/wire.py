"""Frames over one connection, whatever carries it: TCP and TLS directly, in-process and UCX by `distributed.comm`.

TCP and TLS don't go through `distributed.comm`: its reader unpickles what says `__Pickled__`, whatever it was told of
serializers (docs/decisions/0007-links-between-stages.md), and a decode step's hop over it takes half as long again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

from .frame import Assembler, Buffer, Encoded, Frame, Limits

JOINED = 64 * 1024
"""A tensor of so many bytes and its header are copied together to leave in one write; larger ones are not."""


class Hears(Protocol):
    """Who is told what happens on a wire. Called on the event loop."""

    def heard(self, frame: Frame) -> None:
        """A frame came. Raises ConnectionError for one that ends the connection."""

    def lost(self, why: str) -> None:
        """The connection is over; nothing comes after this. Called once, also after `close`."""


class Wire(Protocol):
    """One connection. Belongs to the event loop that made it."""

    def attach(self, hears: Hears, limits: Limits) -> None:
        """From now on tell `hears`; also changes what may be announced. What came before is told now."""

    def send(self, encoded: Encoded) -> None:
        """Send a frame soon, without waiting: a link's window bounds how many. Silent on a closed connection."""

    def close(self) -> None:
        """Close now. What was sent just before may still arrive."""


Accept = Callable[[Wire], Hears]
"""Called with each new connection of a listener."""


class Listener(Protocol):
    """Where wires come in."""

    @property
    def address(self) -> str:
        """Where it can be reached, as ``tcp://127.0.0.1:4711``."""

    async def close(self) -> None:
        """Take no more connections. Those that are open stay."""


async def listen(address: str, accept: Accept, limits: Limits, tls: ssl.SSLContext | None = None) -> Listener:
    """Listen at ``tcp://host:port``, ``tls://host:port`` (with a context), or any address of `distributed.comm`.

    Port 0: any. Raises OSError when the address can't be had, ValueError for one that is none.
    """
    scheme, host, port = _parse(address, tls)
    if scheme not in ("tcp", "tls"):
        from .comm_wire import CommListener

        return await CommListener.start(address, accept, limits)
    loop = asyncio.get_running_loop()

    def made(wire: StreamWire) -> None:
        wire.attach(accept(wire), limits)

    server = await loop.create_server(
        lambda: StreamWire(made), host, port, ssl=tls, ssl_handshake_timeout=_handshake(tls)
    )
    return _StreamListener(scheme, host, server)


async def connect(address: str, tls: ssl.SSLContext | None = None) -> Wire:
    """Connect to a listener. Deadlines are the caller's. Raises OSError, and ValueError for what is no address."""
    scheme, host, port = _parse(address, tls)
    if scheme not in ("tcp", "tls"):
        from .comm_wire import connect_comm

        return await connect_comm(address)
    _, wire = await asyncio.get_running_loop().create_connection(
        StreamWire, host, port, ssl=tls, ssl_handshake_timeout=_handshake(tls)
    )
    return wire


def _handshake(tls: ssl.SSLContext | None) -> float | None:
    return None if tls is None else 10.0


def _parse(address: str, tls: ssl.SSLContext | None) -> tuple[str, str, int]:
    scheme, separator, rest = address.partition("://")
    if not separator or (scheme == "tls") is not (tls is not None):
        raise ValueError(f"{address!r} is no address of a link; tls:// needs a TLS context, and nothing else takes one")
    if scheme not in ("tcp", "tls"):
        return scheme, "", 0
    host, _, port = rest.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} must be {scheme}://host:port")
    return scheme, host.strip("[]"), int(port)


class StreamWire(asyncio.Protocol):
    """Over TCP or TLS, by asyncio's transports."""

    def __init__(self, made: Callable[[StreamWire], None] | None = None) -> None:
        """`made` is called when the connection stands, before anything comes."""
        self._made = made
        self._transport: asyncio.Transport | None = None
        self._hears: Hears | None = None
        self._assembler = Assembler(Limits(0, 0))
        self._early = bytearray()
        self._over = ""

    def attach(self, hears: Hears, limits: Limits) -> None:
        self._hears, self._assembler.limits = hears, limits
        if self._early:
            early, self._early = self._early, bytearray()
            self.data_received(early)
        if self._over:
            hears.lost(self._over)

    def send(self, encoded: Encoded) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        header, note, body = encoded
        if len(body) <= JOINED:
            transport.write(b"".join(encoded))
        else:
            transport.write(b"".join((header, note)))
            transport.write(body)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._made is not None:
            self._made(self)

    def data_received(self, data: Buffer) -> None:
        if self._hears is None:  # who connects attaches a turn of the loop later, and says the first word
            self._early += data
            return
        try:
            for frame in self._assembler.feed(data):
                self._hears.heard(frame)
        except ConnectionError as error:
            self._over = str(error)
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._over = self._over or str(exc or "the other end closed the connection")
        if self._hears is not None:
            self._hears.lost(self._over)


class _StreamListener:
    def __init__(self, scheme: str, host: str, server: asyncio.Server) -> None:
        self._server = server
        port = server.sockets[0].getsockname()[1]
        self._address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def address(self) -> str:
        return self._address

    async def close(self) -> None:
        self._server.close()
