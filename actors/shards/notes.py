"""Plain data in frames: msgpack's own types and nothing else."""

from __future__ import annotations

from typing import Any, NoReturn

import msgpack

from .errors import FrameRefused
from .frame import Buffer


def to_note(value: Any) -> bytes:
    """Maps, lists, texts, numbers, bytes, None as bytes. Raises TypeError on anything else."""
    note: bytes = msgpack.packb(value)
    return note


def from_note(note: Buffer) -> Any:
    """The value, lists as tuples. Raises FrameRefused on what is none."""
    try:
        return msgpack.unpackb(note, use_list=False, strict_map_key=True, ext_hook=_no_extension)
    except FrameRefused:
        raise
    except (ValueError, msgpack.UnpackException) as error:  # msgpack's own errors are of these two
        raise FrameRefused(f"a note of {len(note)} bytes is no msgpack: {error}") from None


def _no_extension(code: int, _data: bytes) -> NoReturn:
    raise FrameRefused(f"a note came with an extension type ({code}); only plain types are taken")
