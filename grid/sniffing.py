"""What a file is by its first bytes: whoever sent it may call it anything. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Kind = Literal["audio", "image"]

HEAD = 64
"""Bytes from the start of a file that are enough to know it."""
AUDIO: frozenset[str] = frozenset({"wav", "flac", "mp3", "ogg", "mp4", "webm", "aac"})
"""Containers of sound that are decoded; ``mp4`` is also m4a and mov, ``webm`` also Matroska."""
IMAGES: frozenset[str] = frozenset({"png", "jpeg", "webp", "gif", "bmp"})
OF_KIND: Mapping[Kind, frozenset[str]] = MappingProxyType({"audio": AUDIO, "image": IMAGES})
_STARTS = (
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"ID3", "mp3"),
    (b"\x1aE\xdf\xa3", "webm"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
)
_RIFF = {b"WAVE": "wav", b"WEBP": "webp"}


def sniff(head: bytes) -> str | None:
    """The format of a file that begins with `head` (`HEAD` bytes are enough): one of `AUDIO` or `IMAGES`; else None."""
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp":
        return "mp4"
    if head.startswith(b"BM") and head[6:10] == bytes(4) and len(head) >= 26:
        return "bmp"
    return _mpeg(head)


def is_kind(head: bytes, kind: Kind) -> bool:
    """Whether a file that begins so is sound (``audio``) or a picture (``image``) of a format that is decoded."""
    return sniff(head) in OF_KIND[kind]


def _mpeg(head: bytes) -> str | None:
    """MPEG audio without a container begins with a frame: eleven set bits, then version and layer."""
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:  # ADTS, of AAC
        return "aac" if head[1] & 0xF0 == 0xF0 else None
    plausible = version != 1 and head[2] >> 4 != 0xF and head[2] >> 2 & 3 != 3
    return "mp3" if plausible else None
