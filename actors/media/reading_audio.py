"""Sound files as blocks of samples, within limits. Runs in a decoder's process: its input is a stranger's.

Nothing here holds a whole recording: a block is decoded, mixed to mono, resampled and passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ...grid.sniffing import HEAD, sniff
from .limits import AudioLimits, MediaError

Samples = NDArray[np.float32]

BLOCK = 1 << 16
"""Frames that are decoded at a time."""
_BY_SOUNDFILE = frozenset({"wav", "flac", "mp3", "ogg"})
_DEMUXERS = {"mp4": "mov", "webm": "matroska", "aac": "aac", "mp3": "mp3", "ogg": "ogg", "wav": "wav", "flac": "flac"}
"""The demuxer is named, never guessed: FFmpeg's playlists (HLS, concat) would open what other files they name."""
UNKNOWN = 1 << 60
"""Frames that libsndfile tells of files whose header doesn't say, as programs write them that can't seek."""
_BYTES = 4
"""Of a sample."""


@dataclass(slots=True)
class Meter:
    """What came out of a decoder so far, against the limits."""

    limits: AudioLimits
    rate: int
    """Of the source, in Hz."""
    channels: int
    frames: int = 0

    def __post_init__(self) -> None:
        low, high = self.limits.min_sample_rate, self.limits.max_sample_rate
        if not low <= self.rate <= high:
            raise MediaError(f"the file says that it has {self.rate:,} samples a second; taken are {low:,} to {high:,}")
        if not 1 <= self.channels <= self.limits.max_channels:
            raise MediaError(f"the file has {self.channels} channels; at most {self.limits.max_channels} are taken")

    @property
    def seconds(self) -> float:
        """Of sound, so far."""
        return self.frames / self.rate

    def announced(self, seconds: float) -> None:
        """What the header says. Raises MediaError before anything is decoded; a header that says less may lie."""
        if seconds > self.limits.max_seconds:
            raise MediaError(_too_long(seconds, self.limits))

    def add(self, frames: int) -> None:
        """Raise MediaError once it is too much, whatever the header said."""
        self.frames += frames
        if self.seconds > self.limits.max_seconds:
            raise MediaError(_too_long(self.seconds, self.limits))
        if self.frames * self.channels * _BYTES > self.limits.max_pcm_bytes:
            most = self.limits.max_pcm_bytes // 1_000_000
            raise MediaError(f"the file decodes to more than {most:,} MB; send it at a lower sample rate, or in parts")


def _too_long(seconds: float, limits: AudioLimits) -> str:
    return (
        f"the recording has {seconds:,.0f} s or more; at most {limits.max_seconds:,.0f} s are taken: send it in parts"
    )


def blocks(data: bytes, sample_rate: int, limits: AudioLimits) -> Iterator[Samples]:
    """The recording as mono samples (n,) in [-1, 1] at `sample_rate`, block by block. Raises MediaError."""
    kind = sniff(data[:HEAD])
    if kind not in _DEMUXERS:
        raise MediaError(f"the file is no sound of a known format: it begins with {data[:8].hex(' ')}; send {_KNOWN}")
    source = _by_soundfile(data, limits) if kind in _BY_SOUNDFILE else _by_av(data, limits)
    yield from _resampled(source, sample_rate)


_KNOWN = "wav, flac, mp3, ogg, m4a, mp4 or webm"


def _resampled(source: Iterator[tuple[Samples, int]], rate: int) -> Iterator[Samples]:
    stream: soxr.ResampleStream | None = None
    empty = True
    for block, source_rate in source:
        if not np.isfinite(block).all():
            raise MediaError("the recording holds samples that are no finite numbers")
        empty = empty and not block.size
        if source_rate == rate:
            yield np.clip(block, -1.0, 1.0)
            continue
        stream = stream or soxr.ResampleStream(source_rate, rate, 1, dtype="float32", quality="HQ")
        yield np.clip(stream.resample_chunk(block), -1.0, 1.0)
    if empty:
        raise MediaError("the file holds no sound")
    if stream is not None:
        yield np.clip(stream.resample_chunk(np.zeros(0, np.float32), last=True), -1.0, 1.0)


def _by_soundfile(data: bytes, limits: AudioLimits) -> Iterator[tuple[Samples, int]]:
    try:
        file = soundfile.SoundFile(BytesIO(data))
    except soundfile.LibsndfileError:  # a variant that it doesn't know
        yield from _by_av(data, limits)
        return
    with file:
        if file.frames >= UNKNOWN:  # it would look for the end
            yield from _by_av(data, limits)
            return
        meter = Meter(limits, file.samplerate, file.channels)
        meter.announced(file.frames / file.samplerate)
        try:
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                meter.add(len(block))
                yield _mono(block.T), file.samplerate
        except soundfile.LibsndfileError as error:
            raise _broken(meter.seconds, error) from None


def _by_av(data: bytes, limits: AudioLimits) -> Iterator[tuple[Samples, int]]:
    seconds, demuxer = 0.0, _DEMUXERS[sniff(data[:HEAD]) or "wav"]
    try:
        with av.open(BytesIO(data), format=demuxer) as container:
            if not container.streams.audio:
                raise MediaError("the file holds no sound")
            stream = container.streams.audio[0]
            context = stream.codec_context
            context.thread_count = 1  # a decoder may start no threads
            meter = Meter(limits, context.sample_rate, context.channels)
            meter.announced((container.duration or 0) / 1_000_000)
            for block in _frames(container, stream):
                meter.add(block.shape[1])
                seconds = meter.seconds
                yield _mono(block), meter.rate
    except av.FFmpegError as error:
        raise _broken(seconds, error) from None


def _frames(container: Any, stream: Any) -> Iterator[Samples]:
    """Frames as (channels, n) floats, several at once."""
    rate, layout = stream.codec_context.sample_rate, stream.codec_context.layout.name
    same = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    waiting: list[Samples] = []
    for frame in container.decode(stream):
        if (frame.sample_rate, frame.layout.name) != (rate, layout):
            raise MediaError("the recording changes its sample rate or channels half-way; convert it to wav or flac")
        waiting += [part.to_ndarray() for part in same.resample(frame)]
        if sum(part.shape[1] for part in waiting) >= BLOCK:
            yield np.concatenate(waiting, axis=1)
            waiting = []
    waiting += [part.to_ndarray() for part in same.resample(None)]
    if waiting:
        yield np.concatenate(waiting, axis=1)


def _mono(block: Samples) -> Samples:
    """(channels, n) → (n,): the mean of the channels."""
    return np.ascontiguousarray(block[0] if len(block) == 1 else block.mean(axis=0, dtype=np.float32))


def _broken(seconds: float, error: Exception) -> MediaError:
    what = " ".join(str(error).split())[:200]
    return MediaError(f"the sound file is broken after {seconds:,.1f} s ({what}); send {_KNOWN}")
