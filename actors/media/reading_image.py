"""Pictures as pixels, within limits. Runs in a decoder's process: its input is a stranger's."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...grid.sniffing import HEAD, IMAGES, sniff
from .limits import ImageLimits, MediaError

Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_KNOWN = "PNG, JPEG, WebP, GIF or BMP"
Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before anything is decoded


def pixels(data: bytes, limits: ImageLimits) -> Pixels:
    """The picture as (H, W, 3) RGB, upright, the first frame of an animation. Raises MediaError."""
    kind = sniff(data[:HEAD])
    if kind not in IMAGES:
        raise MediaError(f"the file is no picture of a known format: it begins with {data[:8].hex(' ')}; send {_KNOWN}")
    if kind == "webp" and (size := webp_size(data)) is not None:  # its library makes room for it when it is opened
        _check_pixels(size, limits)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.size, limits)
            image.load()
            _check_pixels(image.size, limits)
            return np.asarray(_rgb(_upright(image)))
    except MediaError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, ZeroDivisionError, Image.DecompressionBombError) as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise MediaError(f"the picture is broken ({what}); send {_KNOWN}") from None


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that the header of a WebP file tells; None: it can't be read."""
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return None


def _check_pixels(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        most = limits.max_pixels
        raise MediaError(f"the picture has {width:,} × {height:,} pixels; at most {most:,} are taken: make it smaller")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - EXIF that can't be read turns nothing, and spoils no picture
        return image


def _rgb(image: Image.Image) -> Image.Image:
    """As transformers' processors do it: transparency is dropped, not painted over."""
    if image.mode.startswith("I;16"):  # converted as it is, everything above 255 would be white
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
