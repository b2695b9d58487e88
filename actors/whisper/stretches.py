"""Where a long recording is cut: in its pauses, so that no word is cut and the pieces can be heard side by side. Pure.

A Whisper model hears one window (30 s) at a time. Its own way through a long recording (section 3.8 of the paper,
Radford et al. 2022) goes on from where the last sentence ended, so it takes one window after the other. Pieces that are
cut in pauses don't depend on each other: a batch is made of pieces of one recording or of many, as in WhisperX (Bain et
al. 2023, section 2.2, "VAD Cut & Merge": as long as fits the window, cut where the voice is least active). Here a pause
is found by its energy. Where there is none (music, noise) the piece stays whole, longer than the window, and the model
takes its own way through it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .speech import Samples

FRAME = 0.02
"""Seconds whose energy is taken together."""
PAUSE = 0.25
"""Seconds for which it must be quiet: the closure of a stop consonant lasts 0.05 to 0.15 s."""
MARGIN = 0.05
"""Seconds of a pause on each side that are left to the words beside it."""
QUIET_SHARE = 0.25
"""Quiet is what lies in the lowest part of a recording's range of levels."""
MIN_RANGE = 12.0
"""dB between loud and soft, below which nothing tells a pause from speech."""
SILENT = -60.0
"""dBFS; a recording that is never louder has nothing but pauses."""
LATE, EARLY = 0.5, 0.1
"""A cut lies in the last half of the window if there is a pause, else not before the tenth of it."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of a recording, in samples."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def cut(samples: Samples, rate: int, window: int) -> list[Stretch]:
    """The pieces of a recording, in order and without gaps; `window` in samples. All of them fit into the window, but
    those in which no pause was found.
    """
    total = len(samples)
    if total <= window:
        return [Stretch(0, total)]
    quiet = pauses(samples, rate)
    found, start = [], 0
    while total - start > window:
        stop = _next(quiet, start, window, total)
        found.append(Stretch(start, stop))
        start = stop
    return [*found, Stretch(start, total)] if start < total else found


def pauses(samples: Samples, rate: int) -> NDArray[np.int64]:
    """(n, 2) first and last sample between which a cut harms no word, in order."""
    frame = max(1, round(FRAME * rate))
    quiet = _quiet(_levels(samples, frame))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.view(np.int8), [0]])))
    runs = edges.reshape(-1, 2) * frame
    runs = runs[runs[:, 1] - runs[:, 0] >= PAUSE * rate]
    margin = round(MARGIN * rate)
    return np.stack([runs[:, 0] + margin, np.minimum(runs[:, 1], len(samples)) - margin], axis=1)


def _levels(samples: Samples, frame: int) -> NDArray[np.float64]:
    """Energy of each frame in dBFS; an incomplete last one is left out."""
    whole = samples[: len(samples) // frame * frame].reshape(-1, frame)
    power: NDArray[np.float64] = np.einsum("ij,ij->i", whole, whole, dtype=np.float64) / frame
    return np.asarray(10 * np.log10(np.maximum(power, 1e-12)))


def _quiet(levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    soft, loud = np.percentile(levels, [5, 95])
    if loud < SILENT:
        return np.ones(len(levels), bool)
    if loud - soft < MIN_RANGE:
        return np.zeros(len(levels), bool)
    return np.asarray(levels < soft + QUIET_SHARE * (loud - soft))


def _next(quiet: NDArray[np.int64], start: int, window: int, total: int) -> int:
    """Where the piece that begins at `start` ends."""
    late, early, end = start + round(LATE * window), start + round(EARLY * window), start + window
    if len(inside := _between(quiet, late, end)):
        longest = inside[np.argmax(inside[:, 1] - inside[:, 0])]
        return int(longest.sum() // 2)
    if len(inside := _between(quiet, early, late)):
        return int(inside[-1].sum() // 2)
    if len(after := _between(quiet, end, total)):
        return int(after[0].sum() // 2)
    return total


def _between(quiet: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
    """The parts of the pauses that lie in first … last."""
    low, high = np.maximum(quiet[:, 0], first), np.minimum(quiet[:, 1], last)
    return np.stack([low, high], axis=1)[low < high]
