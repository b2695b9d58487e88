"""A sound file of a stranger as samples that a model takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from .decoders import DECODERS
from .limits import AudioLimits, MediaError, check_size

ONLINE = AudioLimits()
MIN_RATE, MAX_RATE = 4_000, 192_000
"""Sample rates that may be asked for, in Hz."""


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """A recording."""

    samples: NDArray[np.float32]
    """(n,), mono, in [-1, 1]."""
    sample_rate: int
    """In Hz."""
    duration: float
    """In seconds."""


def decode_audio(data: bytes, *, sample_rate: int = 16_000, limits: AudioLimits = ONLINE) -> Audio:
    """Decode wav, flac, mp3, ogg, m4a, mp4 or webm to mono at `sample_rate`, in a decoder's process. Blocks.

    Raises MediaError for a file that is broken or beyond the limits, DecoderUnavailable where it can't be done at all.
    """
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise MediaError(f"sample_rate {sample_rate} makes no sense; ask for {MIN_RATE:,} to {MAX_RATE:,} Hz")
    check_size(len(data), limits, "sound file")
    head = {"kind": "audio", "sample_rate": sample_rate, "limits": asdict(limits)}
    most = int((limits.max_seconds + 1) * sample_rate) * 4
    pcm = bytearray()
    for _, block in DECODERS.ask(head, data, seconds=limits.wall_seconds, most=most):
        pcm += block
    samples = np.frombuffer(pcm, np.float32, count=len(pcm) // 4)
    return Audio(samples, sample_rate, len(samples) / sample_rate)
