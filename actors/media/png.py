"""Is this a PNG as our workers write them, and of which size? Looked at byte by byte, without a decoder's risks."""

from __future__ import annotations

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB_8 = bytes((8, 2, 0, 0, 0))
"""Bits, colours, compression, filters, interlacing: as it stands in a header."""
_FILTERS = frozenset(range(5))


def check_png(data: bytes, width: int, height: int) -> None:
    """Raise ValueError unless `data` is a whole PNG of `width` × `height` RGB pixels and nothing else.

    Every checksum is right and the compressed rows are exactly as many as there should be: no decoder has anything to
    fear of it, and none is needed to know. Never holds more than the picture's own rows.
    """
    if data[:8] != _SIGNATURE:
        raise ValueError("the picture is no PNG")
    packed, at, kind = [], 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[at : at + 8].ljust(8, b"\0"))
        body, check = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if len(check) != 4 or zlib.crc32(kind + body) != int.from_bytes(check):
            raise ValueError("the picture is broken: a part of the PNG is cut off or has a wrong checksum")
        if (kind == b"IHDR") != (at == 8) or kind not in (b"IHDR", b"IDAT", b"IEND"):
            raise ValueError(f"the PNG has a part {kind!r} where none belongs")
        if kind == b"IHDR" and body != struct.pack(">II", width, height) + _RGB_8:
            raise ValueError(f"the picture is not one of {width} × {height} RGB pixels")
        if kind == b"IDAT":
            packed.append(body)
        at += 12 + length
    if at != len(data):
        raise ValueError(f"{len(data) - at:,} bytes follow the picture")
    _check_rows(b"".join(packed), 1 + 3 * width, height)


def _check_rows(packed: bytes, row: int, rows: int) -> None:
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(packed, row * rows + 1)
    except zlib.error as error:
        raise ValueError(f"the picture is broken: {error}") from None
    if len(found) != row * rows or not inflate.eof or inflate.unused_data:
        raise ValueError("the PNG holds more or fewer pixels than its header says")
    if not set(found[::row]) <= _FILTERS:
        raise ValueError("the picture is broken: a row is filtered in a way that PNG doesn't know")
