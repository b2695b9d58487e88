"""Recordings of a window of rows: fetched where they are paths or URLs, decoded in parallel, within a memory budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec

from ...actors.media.audio import decode_audio
from ...actors.media.limits import BULK_AUDIO, AudioLimits, MediaError
from ...actors.whisper.speech import SAMPLE_RATE, NotHeard, Samples

Source = bytes | str
"""A file's content, its path, or its URL for fsspec."""
THREADS = 4
AHEAD_BYTES = 1024 * 1024 * 1024
"""Samples that are decoded before they are needed, beside those that are being heard."""


def read(source: Source, storage_options: Mapping[str, Any], limits: AudioLimits = BULK_AUDIO) -> bytes:
    """The content of a recording. Raises MediaError for what is not there or too large."""
    if isinstance(source, bytes):
        return source
    try:
        with fsspec.open(source, "rb", **storage_options).open() as file:
            data: bytes = file.read(limits.max_bytes + 1)
    except (OSError, ValueError, ImportError) as error:
        raise MediaError(f"{source[:200]} can't be read: {type(error).__name__}: {error}") from None
    return data


def sound(source: Source, storage_options: Mapping[str, Any]) -> Samples | NotHeard:
    """The samples of a recording, or why there are none."""
    try:
        return decode_audio(read(source, storage_options), sample_rate=SAMPLE_RATE, limits=BULK_AUDIO).samples
    except MediaError as error:
        return NotHeard(str(error))


def sounds(sources: Sequence[Source], storage_options: Mapping[str, Any]) -> list[Samples | NotHeard | Source]:
    """Each recording decoded, in order; those for which there is no room stay what they are, to be decoded later."""
    found: list[Samples | NotHeard | Source] = list(sources)
    size = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="bulk-decode") as pool:
        for start in range(0, len(sources), THREADS):
            if size > AHEAD_BYTES:
                break
            some = sources[start : start + THREADS]
            found[start : start + THREADS] = pool.map(lambda one: sound(one, storage_options), some)
            size += sum(one.nbytes for one in found[start : start + THREADS] if not isinstance(one, NotHeard | Source))
    return found
