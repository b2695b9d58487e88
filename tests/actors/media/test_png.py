"""What counts as a picture of a worker."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from idlegrid.actors.media.image import encode_png
from idlegrid.actors.media.png import check_png

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)
GOOD = encode_png(PIXELS)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


HEAD = chunk(b"IHDR", struct.pack(">II", 2, 1) + bytes((8, 2, 0, 0, 0)))
END = chunk(b"IEND", b"")
ROW = zlib.compress(b"\0" + bytes(6))


def test_what_we_write_is_one():
    check_png(GOOD, 16, 24)
    check_png(encode_png(np.zeros((700, 900, 3), np.uint8)), 900, 700)
    check_png(png(HEAD, chunk(b"IDAT", ROW[:5]), chunk(b"IDAT", ROW[5:]), END), 2, 1)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no PNG"),
        (b"\xff\xd8\xff\xe0 a jpeg", "no PNG"),
        (GOOD[:-1], "cut off"),
        (GOOD[:200], "cut off"),
        (GOOD[:100] + b"\0" + GOOD[101:], "wrong checksum"),
        (GOOD + b"x", "1 bytes follow"),
        (png(END), "where none belongs"),
        (png(HEAD, chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", ROW), END), "where none belongs"),
        (png(HEAD, END), "more or fewer pixels"),
        (png(HEAD, chunk(b"IDAT", zlib.compress(bytes(10**7))), END), "more or fewer pixels"),
        (png(HEAD, chunk(b"IDAT", zlib.compress(b"\0" + bytes(5))), END), "more or fewer pixels"),
        (png(HEAD, chunk(b"IDAT", ROW + b"more"), END), "more or fewer pixels"),
        (png(HEAD, chunk(b"IDAT", zlib.compress(b"\7" + bytes(6))), END), "filtered"),
        (png(HEAD, chunk(b"IDAT", b"no zlib"), END), "broken"),
    ],
)
def test_all_else_is_none(data, what):
    with pytest.raises(ValueError, match=what):
        check_png(data, *((16, 24) if data.startswith(GOOD[:24]) else (2, 1)))


def test_of_another_size():
    with pytest.raises(ValueError, match="24 × 16 RGB"):
        check_png(GOOD, 24, 16)
    with pytest.raises(ValueError, match="RGB"):
        check_png(encode_png(PIXELS[..., 0]), 16, 24)
