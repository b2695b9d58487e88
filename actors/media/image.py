"""A picture of a stranger as pixels that a model takes, and pixels as a picture."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from .decoders import DECODERS
from .limits import ImageLimits, MediaError, check_size

ONLINE = ImageLimits()


def decode_image(data: bytes, *, limits: ImageLimits = ONLINE) -> NDArray[np.uint8]:
    """Decode PNG, JPEG, WebP, GIF or BMP to (H, W, 3) RGB: upright, the first frame, transparency dropped.

    In a decoder's process; blocks. Raises MediaError for a file that is broken or beyond the limits, DecoderUnavailable
    where it can't be done at all.
    """
    check_size(len(data), limits, "picture")
    head = {"kind": "image", "limits": asdict(limits)}
    ((told, found),) = DECODERS.ask(head, data, seconds=limits.wall_seconds, most=3 * limits.max_pixels)
    height, width = int(told["height"]), int(told["width"])
    if height * width * 3 != len(found):
        raise MediaError(f"the decoder gave {len(found):,} bytes for {width:,} × {height:,} pixels")
    return np.frombuffer(found, np.uint8).reshape(height, width, 3)


def encode_png(array: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) RGB or (H, W) grey pixels as a PNG file. Raises ValueError for anything else."""
    from PIL import Image

    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        raise ValueError(f"a PNG is made of (H, W, 3) or (H, W) uint8 pixels, not of {array.shape} {array.dtype}")
    file = BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()
