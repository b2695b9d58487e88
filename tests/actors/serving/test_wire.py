"""Frames are plain data: what is not is refused before anything is made of it."""

import asyncio
import pickle
import struct
from contextlib import asynccontextmanager

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.serving.wire import Connection, ProtocolError, pack, unpack

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Bomb:
    went_off = False

    def __reduce__(self):
        return (setattr, (Bomb, "went_off", True))


@asynccontextmanager
async def pair():
    """Two ends of a real connection."""
    ends = asyncio.Queue()
    server = await asyncio.start_server(lambda r, w: ends.put_nowait(Connection(r, w)), "127.0.0.1", 0)
    here = Connection(*await asyncio.open_connection(*server.sockets[0].getsockname()))
    there = await ends.get()
    yield here, there
    here.close()
    there.close()
    server.close()
    await asyncio.sleep(0)


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_plain_types_come_back_as_they_were(said):
    frame = {**said, "op": "x"}
    assert unpack(pack(frame)[4:]) == frame


@pytest.mark.parametrize(
    "body",
    [
        pickle.dumps(Bomb()),
        pickle.dumps({"op": Bomb()}, protocol=0),
        msgpack.packb({"op": "open", "request": msgpack.ExtType(5, pickle.dumps(Bomb()))}),
        msgpack.packb({"op": 1}),
        msgpack.packb([1, 2]),
        msgpack.packb({1: "op"}),
        b"",
        b"\xc1",
        msgpack.packb({"op": "x"}) + b"more",
        msgpack.packb({"op": "x"})[:-1],
    ],
    ids=["pickle", "pickle-0", "extension", "op", "list", "key", "empty", "reserved", "longer", "shorter"],
)
def test_what_is_no_frame_is_refused(body):
    with pytest.raises(ProtocolError):
        unpack(body)
    assert not Bomb.went_off


def test_the_bomb_works():
    pickle.loads(pickle.dumps(Bomb()))
    assert Bomb.went_off
    Bomb.went_off = False


def test_only_plain_types_are_sent():
    with pytest.raises(TypeError):
        pack({"op": "x", "value": Bomb()})


async def test_frames_arrive_in_order_and_the_end_is_told():
    async with pair() as (here, there):
        for n in range(1000):
            here.send({"op": "x", "n": n})
        assert [(await there.receive())["n"] for _ in range(1000)] == list(range(1000))
        here.close()
        with pytest.raises(ConnectionError):
            await there.receive()


async def test_a_long_frame_is_refused_before_it_is_read():
    async with pair() as (here, there):
        here._writer.write(struct.pack(">I", 2**31))
        with pytest.raises(ProtocolError, match="2147483648 bytes"):
            await there.receive()
