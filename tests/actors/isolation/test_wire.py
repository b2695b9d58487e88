import socket
import struct
import time

import numpy as np
import pytest

from idlegrid.actors.isolation import wire


@pytest.fixture
def ends():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_there_and_back(ends):
    wire.send(ends[0], {"more": True}, np.arange(3, dtype=np.float32).data)
    assert wire.receive(ends[1], 12) == ({"more": True}, bytearray(np.arange(3, dtype=np.float32).tobytes()))


def test_what_is_too_large_is_not_read(ends):
    wire.send(ends[0], {}, b"x" * 100)
    with pytest.raises(wire.TooMuch, match="100 bytes where at most 99"):
        wire.receive(ends[1], 99)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        struct.pack("!IQ", 5, 0) + b"{",
        struct.pack("!IQ", 5, 0) + b"hello",
        struct.pack("!IQ", 2, 0) + b"[]",
        struct.pack("!IQ", 1 << 31, 0),
        b"\x80\x04\x95",
    ],
)
def test_what_is_no_message(ends, said):
    ends[0].sendall(said)
    ends[0].shutdown(socket.SHUT_WR)
    with pytest.raises(wire.Broken):
        wire.receive(ends[1], 100)


def test_silence(ends):
    with pytest.raises(wire.Late):
        wire.receive(ends[1], 100, time.monotonic() + 0.05)
    with pytest.raises(wire.Late):
        wire.send(ends[0], {}, b"x" * 50_000_000, time.monotonic() + 0.05)
