"""Frames of plain msgpack types over one connection. Never pickle: what comes from a peer is data, whatever it says.

A frame is four bytes (length, big endian) and a msgpack map with the key `op`. From the client: `hello` (token),
`open` (stream, request, credit), `credit` (stream, n), `abort` (stream), `call` (call, what, args), `ping` (n).
From the host: `welcome` (replica, epoch), `events` (of: triples of stream, at, events), `refused` (stream, kind, why),
`answer` (call, value or kind and why), `status` (status), `pong` (n, status).
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Any, NoReturn

import msgpack

VERSION = 2
"""Raised when a frame changes its meaning; both sides must speak the same one."""
MAX_FRAME = 64 * 2**20
"""Bytes in one frame at most: a prompt of millions of tokens."""
_LENGTH = struct.Struct(">I")

Frame = dict[str, Any]
"""What one frame says: a map of msgpack's plain types with text as keys."""


class ProtocolError(ConnectionError):
    """What came is not a frame of ours; the connection can't be used any more."""


class Connection:
    """Frames in both directions over one stream; what is sent in one turn of the loop leaves in one write."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._loop = asyncio.get_running_loop()
        self._outbox: list[bytes] = []

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""
        return self._writer.is_closing()

    @property
    def congested(self) -> bool:
        """The peer takes less than it is sent: who can wait should, for `drained`."""
        transport = self._writer.transport
        return transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]

    def send(self, frame: Frame) -> None:
        """Send a frame soon. Never waits: who sends much waits for `drained`. Silent on a closed connection."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(pack(frame))

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if not self.closed:
            self._writer.write(b"".join(outbox))

    async def drained(self) -> None:
        """Wait until the peer has taken enough of what was sent. Raises ConnectionError when it never will."""
        await self._writer.drain()

    async def receive(self, limit: int = MAX_FRAME) -> Frame:
        """The next frame. Raises ProtocolError on what is none, ConnectionError when the peer is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > limit:
                raise ProtocolError(f"a frame of {length} bytes was announced; at most {limit} are taken")
            return unpack(await self._reader.readexactly(length))
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the peer closed the connection") from None

    def close(self) -> None:
        """Close now, with what is already on its way."""
        if self._outbox:
            self._flush()
        with contextlib.suppress(RuntimeError):  # the loop has ended: so has the connection
            self._writer.close()


def pack(frame: Frame) -> bytes:
    """A frame as bytes. Raises TypeError on anything but plain types."""
    body: bytes = msgpack.packb(frame, strict_types=False)
    return _LENGTH.pack(len(body)) + body


def unpack(body: bytes) -> Frame:
    """A frame from the bytes after its length. Raises ProtocolError."""
    try:
        frame = msgpack.unpackb(body, strict_map_key=True, ext_hook=_no_extension)
    except ProtocolError:
        raise
    except (ValueError, msgpack.UnpackException) as error:  # msgpack's own errors are of these two
        raise ProtocolError(f"{len(body)} bytes came that are no msgpack: {error}") from None
    if not isinstance(frame, dict) or not isinstance(frame.get("op"), str):
        raise ProtocolError("a frame came that names no operation")
    return frame


def _no_extension(code: int, _data: bytes) -> NoReturn:
    raise ProtocolError(f"a frame came with an extension type ({code}); only plain types are taken")
