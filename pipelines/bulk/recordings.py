"""Recordings of a window of rows, as samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...actors.media.audio import decode_audio
from ...actors.media.limits import BULK_AUDIO, MediaError
from ...actors.whisper.speech import SAMPLE_RATE, NotHeard, Samples
from .files import Source, decoded, read


def sound(source: Source, storage_options: Mapping[str, Any]) -> Samples | NotHeard:
    """The samples of a recording, or why there are none."""
    try:
        data = read(source, storage_options, BULK_AUDIO.max_bytes)
        return decode_audio(data, sample_rate=SAMPLE_RATE, limits=BULK_AUDIO).samples
    except MediaError as error:
        return NotHeard(str(error))


def sounds(sources: Sequence[Source], storage_options: Mapping[str, Any]) -> list[Samples | NotHeard | Source]:
    """Each recording decoded, in order; those for which there is no room stay what they are, to be decoded later."""
    return decoded(sources, lambda one: sound(one, storage_options))
