"""How much of a stranger's file is taken, and what is said of one that isn't."""

from __future__ import annotations

from dataclasses import dataclass

MB = 1_000_000


class MediaError(ValueError):
    """The file can't be taken: it is too large, broken, or no sound or picture. The message says what to do."""


class DecoderUnavailable(RuntimeError):
    """This machine can't decode now: a library is missing, or no decoder starts. Another worker may do better."""


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """Limits of one sound file. The default is for requests that somebody waits for."""

    max_bytes: int = 50 * MB
    """Of the file, as it came."""
    max_seconds: float = 3600.0
    """Of sound. An hour is 230 MB at 16 kHz."""
    max_pcm_bytes: int = 2048 * MB
    """Of sound as it comes out of the decoder, 4 bytes a sample and channel: an hour of stereo at 48 kHz is 1.4 GB. It
    is passed on in blocks and never lies in memory whole; the cap is on what a small file may make of itself.
    """
    min_sample_rate: int = 4_000
    """In Hz. A lower one is a forged header: the file would grow by resampling."""
    max_sample_rate: int = 384_000
    """In Hz. A higher one is a forged header: hours would pass as seconds."""
    max_channels: int = 8
    wall_seconds: float = 120.0
    """Of the decoder at work."""


BULK_AUDIO = AudioLimits(max_bytes=1024 * MB, max_seconds=4 * 3600.0, max_pcm_bytes=8192 * MB, wall_seconds=600.0)
"""For bulk jobs, where recordings are long and nobody waits: 4 h are 922 MB at 16 kHz."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of one picture."""

    max_bytes: int = 50 * MB
    """Of the file, as it came."""
    max_pixels: int = 64_000_000
    """Width times height, read from the header before anything is decoded: what good cameras give. 192 MB as RGB."""
    wall_seconds: float = 30.0
    """Of the decoder at work."""


def check_size(size: int, limits: AudioLimits | ImageLimits, what: str) -> None:
    """Raise MediaError for a file that is empty or too large: nobody needs to look into it."""
    if not size:
        raise MediaError(f"the {what} is empty")
    if size > limits.max_bytes:
        raise MediaError(f"the {what} has {size:,} bytes; at most {limits.max_bytes:,} are taken: send a smaller one")
