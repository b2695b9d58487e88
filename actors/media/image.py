"""A picture of a stranger as pixels that a model takes, and pixels as a picture."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from .limits import ImageLimits


def decode_image(data: bytes, *, limits: ImageLimits = ImageLimits()) -> NDArray[np.uint8]:  # noqa: B008 - frozen
    """Decode PNG, JPEG, WebP, GIF or BMP to (H, W, 3) RGB: upright, the first frame, transparency dropped.

    Raises MediaError for a file that is broken or beyond the limits, DecoderUnavailable where it can't be done at all.
    """
    from .reading_image import pixels

    return pixels(data, limits)


def encode_png(array: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) RGB or (H, W) grey pixels as a PNG file. Raises ValueError for anything else."""
    from PIL import Image

    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        raise ValueError(f"a PNG is made of (H, W, 3) or (H, W) uint8 pixels, not of {array.shape} {array.dtype}")
    file = BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()
