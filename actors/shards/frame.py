"""One frame between two stages: a header of fixed size, a note of plain data, and one tensor's bytes. Pure.

::

    0     4    5     6     7    8     24    32    34   36    40   48    64   68   72    76
    magic kind codec dtype ndim chain model first stop epoch step shape note body crc   note … body …
    4s    B    B     B     B    16s   8s    H     H    I     Q    4×I   I    I    I     bytes  bytes

Little endian. `crc` is of everything but itself. Everything that is announced is checked against `Limits`, and the
body's size against dtype, codec and shape, before a byte of it is waited for. Nothing here is ever unpickled.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from .errors import FrameRefused

Buffer: TypeAlias = bytes | bytearray | memoryview
MAGIC = b"iGf1"
"""The last byte is the version: raised when a frame changes its meaning."""
HEADER = struct.Struct("<4sBBBB16s8sHHIQ4IIII")
MOST_DIMENSIONS = 4
BLOCK = 64
"""Values that share a scale in the codec INT8."""
NO_CHAIN = bytes(16)
NO_MODEL = bytes(8)
_CHECKED, _CRC = struct.Struct(HEADER.format[:-1]), struct.Struct("<I")
_PADDING = (0,) * MOST_DIMENSIONS


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1
    """First from who connects: chain, epoch, the first step that it will send; the note opens the door."""
    WELCOME = 2
    """The answer: `step` is the one that is expected next; the note tells the window."""
    DATA = 3
    TAKEN = 4
    """All steps before `step` were taken: room for more."""
    REFUSED = 5
    """The link will not do; `epoch` is the one that holds, the note says why."""
    PING = 6
    PONG = 7
    """As TAKEN, on demand."""


class Dtype(IntEnum):
    """What a tensor is of, before and after its way."""

    NONE = 0
    FLOAT32 = 1
    FLOAT64 = 2
    FLOAT16 = 3
    BFLOAT16 = 4
    INT64 = 5


_ITEMSIZE = {Dtype.NONE: 0, Dtype.FLOAT32: 4, Dtype.FLOAT64: 8, Dtype.FLOAT16: 2, Dtype.BFLOAT16: 2, Dtype.INT64: 8}


class Codec(IntEnum):
    """How a tensor travels."""

    RAW = 0
    """As it lies in memory."""
    BFLOAT16 = 1
    """Rounded to bfloat16: half of float32."""
    INT8 = 2
    """Blocks of 64 values with one float16 scale each, scales before values: about half of bfloat16."""


_KNOWN = {
    (kind.value, codec.value, dtype.value): (kind, codec, dtype) for kind in Kind for codec in Codec for dtype in Dtype
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may announce."""

    note: int = 2**20
    """Bytes."""
    body: int = 64 * 2**20
    """Bytes: a chunk of 4,096 tokens of a model of 8,192 in bfloat16."""
    waiting: int = 256 * 2**20
    """Bytes of one chain's steps that are under way or wait to be taken; one step may, however large it is."""


class Frame(NamedTuple):
    """What is sent at a time. A tuple: one is made at either end of every hop."""

    kind: Kind
    codec: Codec = Codec.RAW
    dtype: Dtype = Dtype.NONE
    chain: bytes = NO_CHAIN
    """Whose: 16 bytes, those of a UUID."""
    model: bytes = NO_MODEL
    """Of the weights and their revision: 8 bytes."""
    layers: range = range(0)
    """What the sender computed last; empty from the head."""
    epoch: int = 0
    """Of the chain: raised whenever one of its stages is replaced."""
    step: int = 0
    """The position in the epoch's stream of steps."""
    shape: tuple[int, ...] = ()
    note: Buffer = b""
    """Plain data (msgpack)."""
    body: Buffer = b""
    """The tensor on its way."""


class Announced(NamedTuple):
    """A header that was found good."""

    fields: tuple[Kind, Codec, Dtype, bytes, bytes, range, int, int, tuple[int, ...]]
    """Of the frame, without its content."""
    note: int
    """Bytes."""
    body: int
    """Bytes."""
    crc: int
    size: int
    """Bytes of the whole frame."""


def body_bytes(dtype: Dtype, codec: Codec, shape: tuple[int, ...]) -> int:
    """How many bytes a tensor takes on its way."""
    count = math.prod(shape)
    if codec is Codec.RAW or dtype is Dtype.NONE:
        return _ITEMSIZE[dtype] * count
    if codec is Codec.BFLOAT16:
        return 2 * count
    return count + 2 * -(-count // BLOCK)


Encoded: TypeAlias = tuple[bytes, Buffer, Buffer]
"""Header, note and body."""


def encode(frame: Frame) -> Encoded:
    """Header, note and body, to be sent one after the other. Raises ValueError for what a header can't say."""
    layers, shape, note, body = frame.layers, frame.shape, frame.note, frame.body
    if len(shape) > MOST_DIMENSIONS or len(frame.chain) != len(NO_CHAIN) or len(frame.model) != len(NO_MODEL):
        raise ValueError(f"shape {shape}, chain {frame.chain!r} or model {frame.model!r} has the wrong size")
    if len(body) != body_bytes(frame.dtype, frame.codec, shape):
        raise ValueError(f"{len(body)} bytes are no {frame.dtype.name} {shape} in {frame.codec.name}")
    kinds = (frame.kind, frame.codec, frame.dtype, len(shape), frame.chain, frame.model)
    padded = shape + _PADDING[len(shape) :]
    try:
        header = _CHECKED.pack(
            MAGIC, *kinds, layers.start, layers.stop, frame.epoch, frame.step, *padded, len(note), len(body)
        )
    except struct.error as error:
        raise ValueError(f"a header can't say layers, epoch, step and shape of this frame: {error}") from error
    return header + _CRC.pack(_checksum(header, note, body)), note, body


def announced(header: Buffer, limits: Limits) -> Announced:
    """Read a header of `HEADER.size` bytes. Raises FrameRefused for one that is not ours, or promises too much."""
    magic, kind, codec, dtype, ndim, chain, model, first, stop, epoch, step, *sizes = HEADER.unpack(header)
    note, body, crc = sizes[MOST_DIMENSIONS:]
    if magic != MAGIC:
        raise FrameRefused(f"a frame begins with {bytes(magic)!r}, not with {MAGIC!r}: another program, or version")
    what = _KNOWN.get((kind, codec, dtype))
    if what is None:
        raise FrameRefused(f"a frame has an unknown kind, codec or dtype: {kind}, {codec}, {dtype}")
    if ndim > MOST_DIMENSIONS or any(sizes[ndim:MOST_DIMENSIONS]):
        raise FrameRefused(f"a frame has {ndim} dimensions of {sizes[:MOST_DIMENSIONS]}")
    if stop < first:
        raise FrameRefused(f"a frame comes from layers {first} to {stop}")
    if note > limits.note or body > limits.body:
        raise FrameRefused(f"{note} + {body} bytes were announced; at most {limits.note} + {limits.body} are taken")
    shape = tuple(sizes[:ndim])
    if body != (expected := body_bytes(what[2], what[1], shape)):
        raise FrameRefused(f"{body} bytes were announced for {what[2].name} {shape}, which takes {expected}")
    fields = (*what, chain, model, range(first, stop), epoch, step, shape)
    return Announced(fields, note, body, crc, HEADER.size + note + body)


def decode(head: Announced, header: Buffer, note: Buffer, body: Buffer) -> Frame:
    """The frame of a header that `announced` has passed, and its content. Raises FrameRefused if it was damaged."""
    if len(note) != head.note or len(body) != head.body:
        raise FrameRefused(f"{len(note)} + {len(body)} bytes came of {head.note} + {head.body} that were announced")
    frame = Frame(*head.fields, note, body)
    if _checksum(memoryview(header)[: _CHECKED.size], note, body) != head.crc:
        raise FrameRefused(f"step {frame.step} was damaged on its way: its checksum is wrong")
    return frame


def _checksum(header: Buffer, note: Buffer, body: Buffer) -> int:
    return zlib.crc32(body, zlib.crc32(note, zlib.crc32(header)))


class Assembler:
    """Frames out of a stream of bytes, cut anywhere. Holds no more than has come, and no more than one frame."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        """Of frames whose header has not come yet."""
        self._buffer = bytearray()
        self._head: Announced | None = None

    def feed(self, data: Buffer) -> list[Frame]:
        """What is complete with `data`. Raises FrameRefused; nothing can be fed after that."""
        if self._buffer:
            self._buffer += data
        else:
            self._buffer = bytearray(data)
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if self._head is None and len(self._buffer) >= HEADER.size:
            self._head = announced(memoryview(self._buffer)[: HEADER.size], self.limits)
        head = self._head
        if head is None or len(self._buffer) < head.size:
            return None
        whole = self._buffer
        if len(whole) > head.size:
            self._buffer = whole[head.size :]
            del whole[head.size :]
        else:
            self._buffer = bytearray()
        self._head = None
        view, edge = memoryview(whole), HEADER.size + head.note
        return decode(head, view[: HEADER.size], view[HEADER.size : edge], view[edge:])
