"""Files that rows name or hold: fetched where they are paths or URLs, decoded ahead in parallel, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import fsspec
import numpy as np
from numpy.typing import NDArray

from ...actors.media.limits import MediaError

N = TypeVar("N")
"""Why a file can't be decoded."""
R = TypeVar("R")
"""What is made of a file."""
Clip = NDArray[Any]
"""A decoded file."""
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


def decoded(sources: Sequence[Source], decode: Callable[[Source], Clip | N]) -> list[Clip | N | Source]:
    """Each file decoded, in order; those for which there is no room stay what they are, to be decoded later.

    `decode` returns an array, or why there is none.
    """
    found: list[Clip | N | Source] = list(sources)
    held = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="bulk-decode") as pool:
        for start in range(0, len(sources), THREADS):
            if held > AHEAD_BYTES:
                break
            some = list(pool.map(decode, sources[start : start + THREADS]))
            found[start : start + THREADS] = some
            held += sum(one.nbytes for one in some if isinstance(one, np.ndarray))
    return found


def computed(
    prepared: Sequence[Clip | N | Source],
    decode: Callable[[Source], Clip | N],
    compute: Callable[[list[Clip]], Sequence[R]],
    *,
    together: float,
) -> list[R | N]:
    """What became of each file, in order; `prepared` is what `decoded` returned.

    `compute` gets as many at once as have `together` bytes, or one more.
    """
    found: dict[int, R | N] = {}
    waiting: dict[int, Clip] = {}

    def finish() -> None:
        if waiting:
            found.update(zip(waiting, compute(list(waiting.values())), strict=True))
            waiting.clear()

    for index, one in enumerate(prepared):
        ready = decode(one) if isinstance(one, bytes | str) else one
        if not isinstance(ready, np.ndarray):
            found[index] = ready
            continue
        waiting[index] = ready
        if sum(each.nbytes for each in waiting.values()) > together:
            finish()
    finish()
    return [found[index] for index in range(len(prepared))]
