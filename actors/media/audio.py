"""A sound file of a stranger as samples that a model takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .limits import AudioLimits, MediaError


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """A recording."""

    samples: NDArray[np.float32]
    """(n,), mono, in [-1, 1]."""
    sample_rate: int
    """In Hz."""
    duration: float
    """In seconds."""


def decode_audio(data: bytes, *, sample_rate: int = 16_000, limits: AudioLimits = AudioLimits()) -> Audio:  # noqa: B008 - frozen
    """Decode wav, flac, mp3, ogg, m4a, mp4 or webm to mono at `sample_rate`.

    Raises MediaError for a file that is broken or beyond the limits, DecoderUnavailable where it can't be done at all.
    """
    from .reading_audio import blocks

    if not 1_000 <= sample_rate <= 192_000:
        raise MediaError(f"sample_rate {sample_rate} makes no sense; ask for 1,000 to 192,000 Hz")
    samples = np.concatenate(list(blocks(data, sample_rate, limits)))
    return Audio(samples, sample_rate, len(samples) / sample_rate)
