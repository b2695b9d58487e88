"""What a child and its parent say to each other: a head in JSON and bytes, over a socket. Nothing is ever unpickled.

::

    length of the head (4 bytes) · length of the body (8 bytes) · head · body
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from typing_extensions import Buffer

_LENGTHS = struct.Struct("!IQ")
MOST_HEAD = 64 * 1024


class Broken(Exception):
    """The other side is gone, or what it says is no message."""


class TooMuch(Broken):
    """The other side announces more than is taken."""


class Late(Broken):
    """The other side did not answer in time."""


def send(to: socket.socket, head: Mapping[str, Any], body: Buffer = b"", deadline: float | None = None) -> None:
    """Send one message. Raises Broken, or Late after `deadline` (monotonic seconds)."""
    first, view = json.dumps(head).encode(), memoryview(body).cast("B")
    try:
        _patience(to, deadline)
        to.sendall(_LENGTHS.pack(len(first), len(view)) + first)
        if len(view):
            _patience(to, deadline)
            to.sendall(view)
    except TimeoutError:
        raise Late("it took nothing in time") from None
    except OSError as error:
        raise Broken(f"it is gone: {error}") from None


def receive(source: socket.socket, most: int, deadline: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """The next message, with a body of at most `most` bytes. Raises Broken, Late, and TooMuch unread."""
    length, size = _LENGTHS.unpack(_exactly(source, _LENGTHS.size, deadline))
    if length > MOST_HEAD:
        raise Broken(f"a head of {length} bytes is none")
    if size > most:
        raise TooMuch(f"{size:,} bytes where at most {most:,} are taken")
    try:
        head = json.loads(_exactly(source, length, deadline))
    except ValueError:
        raise Broken("its head is no JSON") from None
    if not isinstance(head, dict):
        raise Broken("its head is no object")
    return head, _exactly(source, size, deadline)


def _exactly(source: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    view, got = memoryview(data), 0
    try:
        while got < size:
            _patience(source, deadline)
            count = source.recv_into(view[got:])
            if not count:
                raise Broken("it is gone")
            got += count
    except TimeoutError:
        raise Late("it said nothing in time") from None
    except OSError as error:
        raise Broken(f"it is gone: {error}") from None
    return data


def _patience(what: socket.socket, deadline: float | None) -> None:
    if deadline is not None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        what.settimeout(left)
