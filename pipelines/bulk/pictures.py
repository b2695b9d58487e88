"""Pictures of a window of rows, as pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...actors.media.image import ONLINE, decode_image
from ...actors.media.limits import MediaError
from ...actors.vision.look import NotAnswered, Pixels
from .files import Source, decoded, read


def picture(source: Source, storage_options: Mapping[str, Any]) -> Pixels | NotAnswered:
    """The pixels of a picture, or why there are none."""
    try:
        return decode_image(read(source, storage_options, ONLINE.max_bytes))
    except MediaError as error:
        return NotAnswered(str(error))


def pictures(sources: Sequence[Source], storage_options: Mapping[str, Any]) -> list[Pixels | NotAnswered | Source]:
    """Each picture decoded, in order; those for which there is no room stay what they are, to be decoded later."""
    return decoded(sources, lambda one: picture(one, storage_options))
