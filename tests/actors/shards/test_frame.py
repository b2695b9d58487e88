import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.shards.errors import FrameRefused
from idlegrid.actors.shards.frame import (
    HEADER,
    Assembler,
    Codec,
    Dtype,
    Frame,
    Kind,
    Limits,
    announced,
    body_bytes,
    encode,
)

LIMITS = Limits(note=1000, body=4000)
FIELDS = ("magic", "kind", "codec", "dtype", "ndim", "chain", "model", "first", "stop", "epoch", "step")
FIELDS += ("a", "b", "c", "d", "note", "body", "crc")


@st.composite
def frames(draw):
    dtype = draw(st.sampled_from(Dtype))
    codec = draw(st.sampled_from(Codec))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    first = draw(st.integers(0, 2**16 - 1))
    return Frame(
        kind=draw(st.sampled_from(Kind)),
        chain=draw(st.binary(min_size=16, max_size=16)),
        model=draw(st.binary(min_size=8, max_size=8)),
        layers=range(first, draw(st.integers(first, 2**16 - 1))),
        epoch=draw(st.integers(0, 2**32 - 1)),
        step=draw(st.integers(0, 2**64 - 1)),
        note=draw(st.binary(max_size=50)),
        dtype=dtype,
        codec=codec,
        shape=shape,
        body=bytes(body_bytes(dtype, codec, shape)),
    )


def bytes_of(*several):
    return b"".join(part for frame in several for part in encode(frame))


def same(one, other):
    """Ranges that are empty are equal in Python, wherever they begin."""
    return one == other and (one.layers.start, one.layers.stop) == (other.layers.start, other.layers.stop)


@given(st.lists(frames(), max_size=4), st.data())
def test_frames_arrive_as_they_were_however_the_stream_is_cut(several, data):
    stream, assembler, came = bytes_of(*several), Assembler(Limits()), []
    while stream:
        count = data.draw(st.integers(1, len(stream)))
        came += assembler.feed(stream[:count])
        stream = stream[count:]
    assert len(came) == len(several)
    assert all(map(same, came, several))


@given(frames(), st.data())
def test_one_flipped_bit_is_found(frame, data):
    stream = bytearray(bytes_of(frame))
    place = data.draw(st.integers(0, 8 * len(stream) - 1))
    stream[place // 8] ^= 1 << place % 8
    assembler = Assembler(Limits())
    try:
        came = assembler.feed(bytes(stream))
    except FrameRefused:
        return
    assert not came  # a longer frame was announced: it is still waited for


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_waited_for(data):
    with_magic = bytes_of(Frame(kind=Kind.PING))[:4] + data
    for stream in (data, with_magic):
        try:
            Assembler(LIMITS).feed(stream)
        except FrameRefused:
            continue


def header(**changes):
    """The header of a frame, by field; sizes are not those of the content."""
    values = dict(zip(FIELDS, HEADER.unpack(encode(Frame(kind=Kind.DATA))[0]), strict=True))
    return HEADER.pack(*(values | changes).values())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"magic": b"iGf9"}, "another program, or version"),
        ({"kind": 99}, "unknown kind"),
        ({"codec": 9}, "unknown kind, codec"),
        ({"dtype": 77}, "unknown kind, codec or dtype"),
        ({"ndim": 5}, "5 dimensions"),
        ({"ndim": 1, "b": 3}, "1 dimensions"),
        ({"first": 3, "stop": 2}, "layers 3 to 2"),
        ({"note": 1001}, "at most 1000"),
        ({"dtype": 1, "ndim": 1, "a": 2**32 - 1, "body": 2**32 - 1}, "at most 1000 . 4000"),
        ({"dtype": 1, "ndim": 1, "a": 10, "body": 39}, "which takes 40"),
        ({"body": 4}, "which takes 0"),
    ],
)
def test_what_promises_too_much_is_refused_by_its_header_alone(changes, why):
    with pytest.raises(FrameRefused, match=why):
        announced(header(**changes), LIMITS)


def test_memory_is_taken_as_bytes_come_not_as_they_are_announced():
    promise = Frame(kind=Kind.DATA, dtype=Dtype.FLOAT32, shape=(2**24,), body=bytes(2**26))
    beginning = encode(promise)[0]
    del promise
    tracemalloc.start()
    try:
        assert not Assembler(Limits()).feed(beginning + bytes(100))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "frame",
    [
        Frame(kind=Kind.DATA, chain=b"short"),
        Frame(kind=Kind.DATA, shape=(1, 1, 1, 1, 1)),
        Frame(kind=Kind.DATA, dtype=Dtype.FLOAT32, shape=(2,), body=bytes(7)),
        Frame(kind=Kind.DATA, epoch=-1),
        Frame(kind=Kind.DATA, layers=range(70_000, 70_001)),
    ],
    ids=["chain", "dimensions", "body", "epoch", "layers"],
)
def test_what_a_header_cannot_say_is_not_sent(frame):
    with pytest.raises(ValueError):
        encode(frame)


def test_a_frame_owns_its_memory():
    """A tensor made of a frame may be written to, whatever comes next on the wire."""
    one, two = (Frame(kind=Kind.DATA, dtype=Dtype.INT64, shape=(1,), body=bytes([n] * 8)) for n in (1, 2))
    first, second = Assembler(Limits()).feed(bytes_of(one, two))
    memoryview(first.body)[:] = bytes(8)
    assert bytes(second.body) == bytes([2] * 8)
