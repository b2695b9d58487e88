"""Files that rows name or hold: fetched where they are paths or URLs, decoded ahead in parallel, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import fsspec

from ...actors.media.limits import MediaError

T = TypeVar("T")
Source = bytes | str
"""A file's content, its path, or its URL for fsspec."""
THREADS = 4
AHEAD_BYTES = 1024 * 1024 * 1024
"""Of what is decoded before it is needed, beside what is being computed."""


def read(source: Source, storage_options: Mapping[str, Any], most: int) -> bytes:
    """The content of a file, or its first `most` bytes and one. Raises MediaError for what is not there."""
    if isinstance(source, bytes):
        return source
    try:
        with fsspec.open(source, "rb", **storage_options).open() as file:
            data: bytes = file.read(most + 1)
    except (OSError, ValueError, ImportError) as error:
        raise MediaError(f"{source[:200]} can't be read: {type(error).__name__}: {error}") from None
    return data


def decoded(sources: Sequence[Source], decode: Callable[[Source], T], size: Callable[[T], int]) -> list[T | Source]:
    """Each file decoded, in order; those for which there is no room stay what they are, to be decoded later.

    `size`: bytes of what was decoded.
    """
    found: list[T | Source] = list(sources)
    held = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="bulk-decode") as pool:
        for start in range(0, len(sources), THREADS):
            if held > AHEAD_BYTES:
                break
            some = list(pool.map(decode, sources[start : start + THREADS]))
            found[start : start + THREADS] = some
            held += sum(map(size, some))
    return found
