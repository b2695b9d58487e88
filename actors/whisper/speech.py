"""What is asked of a speech recogniser, and what it answers. Torch-free: doors and tables use these too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Hz; what every Whisper model was trained on."""
Task = Literal["transcribe", "translate"]
Samples = NDArray[np.float32]
"""(n,), mono, in [-1, 1], at SAMPLE_RATE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How recordings are to be heard."""

    language: str | None = None
    """Code or English name, e.g. ``de`` or ``german``. None: detected, for each recording."""
    task: Task = "transcribe"
    """``translate``: into English."""
    words: bool = False
    """Whether to find the time of each word as well."""
    prompt: str | None = None
    """What was said before, or how names are written; only its end is read when it is long."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    seed: int = 0
    """With the same seed a temperature gives the same text."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a recording, usually a sentence."""

    start: float
    """Seconds from the beginning; the same for `end`."""
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    """The model's, timestamps left out."""


@dataclass(frozen=True, slots=True)
class Word:
    """A spoken word, with the punctuation at its end."""

    start: float
    """Seconds from the beginning; the same for `end`."""
    end: float
    word: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said in one recording."""

    text: str
    language: str
    """Code of what is spoken, e.g. ``en``; also of a translation."""
    duration: float
    """Seconds."""
    segments: tuple[Segment, ...]
    words: tuple[Word, ...] | None = None
    """None: nobody asked."""


class WishRefused(ValueError):
    """This model can't hear as it was asked to: the message says what it can't, and what it can."""


@dataclass(frozen=True, slots=True)
class NotHeard:
    """A recording that can't be heard, and why; the others of its call are."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechFacts:
    """What produced a transcript, for provenance."""

    model: str
    """The id that was asked for."""
    revision: str
    """SHA-256 (16 hex digits) of configuration and weights."""
    engine: str
    """``transformers`` or ``faster-whisper``."""
    dtype: str
    device: str
    window: float
    """Seconds that the model hears at once."""
    languages: tuple[str, ...]
    """Codes that it knows."""
    versions: Mapping[str, str]
    """Of the libraries that compute."""


def nothing() -> None:
    """Nobody stops the work."""


def untold(done: int, total: int) -> None:
    """Nobody wants to know how far it is."""


class SpeechModel(Protocol):
    """A speech recogniser that is loaded. Thread-safe; one batch computes at a time."""

    @property
    def facts(self) -> SpeechFacts: ...

    def transcribe(
        self,
        clips: Sequence[Samples],
        wish: Wish,
        *,
        check: Callable[[], None] = nothing,
        told: Callable[[int, int], None] = untold,
    ) -> list[Transcript]:
        """What is said in each recording, in order.

        `check` is called at least once for every token; what it raises ends the work. `told(done, total)` hears in
        seconds of sound how far it is. Raises WishRefused for what this model can't do.
        """
        ...


def plain(transcript: Transcript) -> dict[str, Any]:
    """A transcript as a job's result has it."""
    document: dict[str, Any] = {
        "text": transcript.text,
        "language": transcript.language,
        "duration": transcript.duration,
        "segments": [{"start": one.start, "end": one.end, "text": one.text} for one in transcript.segments],
    }
    if transcript.words is not None:
        document["words"] = [{"start": one.start, "end": one.end, "word": one.word} for one in transcript.words]
    return document
