"""A decoder's process: one file after the other, each within limits, with no rights that decoding doesn't need."""

from __future__ import annotations

import os
import resource
import signal
import socket
from contextlib import suppress
from dataclasses import fields
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import psutil

from ..isolation import confinement, wire
from .limits import AudioLimits, ImageLimits, MediaError

L = TypeVar("L", AudioLimits, ImageLimits)

ROOM = 512 * 1_000_000
"""Bytes of address space for any file, beside what its size and its pixels need."""
MOST_ROOM = 8_000 * 1_000_000
"""Bytes of address space that no file gets more than."""
BYTES_A_PIXEL = 20
"""What Pillow needs at most: two pictures of 4 bytes a pixel, their bytes twice, an array."""
MOST_CPU = 3600
"""Seconds of work in a decoder's whole life."""
FILES = 32
PARENT = "IDLEGRID_DECODER_OF"
"""Variable with the process id of who started it."""


def main(fd: int) -> None:
    """Serve until the parent goes. The parent's line is the only way in or out."""
    parent = int(os.environ[PARENT])
    confinement.end_with(parent)
    with socket.socket(fileno=fd) as line, suppress(wire.Broken):
        try:
            confinement.without_network()
            missing = _warm_up()
            base = _confine(parent)
        except Exception as error:  # noqa: BLE001 - told to who waits for this decoder
            wire.send(line, {"failed": f"{type(error).__name__}: {error}"[:500]})
            return
        wire.send(line, {"missing": missing})
        while True:
            head, data = wire.receive(line, most=1 << 40)
            _answer(line, head, bytes(data), base)


def _warm_up() -> dict[str, str]:
    """Import and try everything while files can be read; what is missing here, by the kind of media."""
    missing = {}
    try:
        _try_sound()
    except ImportError as error:
        missing["audio"] = f"{error}; install idlegrid[audio]"
    try:
        _try_pictures()
    except ImportError as error:
        missing["image"] = f"{error}; install idlegrid[image]"
    return missing


def _try_sound() -> None:
    import soundfile

    from .reading_audio import blocks

    silence = np.zeros(2000, np.float32)
    for kind in ("WAV", "FLAC", "OGG", "MP3"):
        file = BytesIO()
        soundfile.write(file, silence, 8000, format=kind)
        list(blocks(file.getvalue(), 16_000, AudioLimits()))
    with suppress(MediaError):
        list(blocks(b"\0\0\0\x14ftypM4A \0\0\0\0", 16_000, AudioLimits()))


def _try_pictures() -> None:
    from PIL import Image

    from .reading_image import FORMATS, pixels

    for kind in FORMATS:
        file = BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
        Image.new("RGB", (8, 8)).save(file, kind, **options)
        pixels(file.getvalue(), ImageLimits())


def _confine(parent: int) -> int:
    """Give up what decoding doesn't need. Gives the bytes of address space that are in use already."""
    for which, most in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_NPROC, 0),
    ):
        confinement.limit(which, most)
    confinement.limit(resource.RLIMIT_CPU, MOST_CPU)
    confinement.no_core_dumps()
    confinement.as_nobody()
    confinement.no_new_privileges()
    confinement.end_with(parent)  # changing the user has undone the first one
    base = _address_space()
    confinement.limit(resource.RLIMIT_AS, base + MOST_ROOM)
    return base


def _answer(line: socket.socket, head: dict[str, Any], data: bytes, base: int) -> None:
    try:
        if head["kind"] == "audio":
            _sound(line, head, data, base)
        else:
            _picture(line, head, data, base)
    except MediaError as error:
        wire.send(line, {"error": str(error)})
    except MemoryError:
        _room(base, MOST_ROOM)
        wire.send(
            line, {"error": f"a file of {len(data):,} bytes needs more memory than decoders have; send a smaller"}
        )
    except wire.Broken:
        raise
    except Exception as error:  # noqa: BLE001 - a library's surprise at a stranger's file
        wire.send(line, {"error": f"the file is broken ({type(error).__name__}: {str(error)[:200]})"})


def _sound(line: socket.socket, head: dict[str, Any], data: bytes, base: int) -> None:
    from .reading_audio import blocks

    limits = _limits(AudioLimits, head)
    _room(base, ROOM + 2 * len(data))
    _seconds(limits.wall_seconds)
    for block in blocks(data, head["sample_rate"], limits):
        if block.size:
            wire.send(line, {"more": True}, np.ascontiguousarray(block).data)
    wire.send(line, {"more": False})


def _picture(line: socket.socket, head: dict[str, Any], data: bytes, base: int) -> None:
    from .reading_image import pixels

    limits = _limits(ImageLimits, head)
    _room(base, ROOM + 2 * len(data) + BYTES_A_PIXEL * limits.max_pixels)
    _seconds(limits.wall_seconds)
    found = np.ascontiguousarray(pixels(data, limits))
    wire.send(line, {"height": found.shape[0], "width": found.shape[1]}, found.data)


def _limits(kind: type[L], head: dict[str, Any]) -> L:
    return kind(**{one.name: head["limits"][one.name] for one in fields(kind)})


def _room(base: int, more: int) -> None:
    confinement.limit(resource.RLIMIT_AS, base + min(more, MOST_ROOM), base + MOST_ROOM)


def _seconds(more: float) -> None:
    """The kernel ends this process after so much more work, should the parent be too busy to."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    confinement.limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime + more) + 2, MOST_CPU)


def _address_space() -> int:
    return int(psutil.Process().memory_info().vms)
