"""The transcripts of a window of rows: recordings of like length together, decoded while others are heard."""

from __future__ import annotations

import io
import time
import wave
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...actors.whisper.speech import SAMPLE_RATE, NotHeard, Samples, SpeechModel, Transcript
from .columns import Column, arrays, fields
from .files import Source, computed
from .operators import Results, as_json
from .recordings import sound, sounds

if TYPE_CHECKING:
    from .transcribe import TranscribeSpec

TOGETHER_BYTES = 1800 * SAMPLE_RATE * 4
"""Half an hour of sound, which is handed to the model at once: it makes its own batches of that."""
TIMED = 4
"""Recordings by whose first windows a model's speed is judged."""
SLOW = 0.5
"""Seconds for the first of them beyond which the others are not heard too: they would only warm a GPU up."""
_SEGMENT = pa.struct([("start", pa.float64()), ("end", pa.float64()), ("text", pa.string())])
_WORD = pa.struct([("start", pa.float64()), ("end", pa.float64()), ("word", pa.string())])


def _segments(heard: Transcript) -> list[dict[str, Any]]:
    return [{"start": one.start, "end": one.end, "text": one.text} for one in heard.segments]


def _words(heard: Transcript) -> list[dict[str, Any]]:
    return [{"start": one.start, "end": one.end, "word": one.word} for one in heard.words or ()]


COLUMNS = (
    Column("text", pa.string(), attrgetter("text")),
    Column("language", pa.string(), attrgetter("language")),
    Column("duration", pa.float64(), attrgetter("duration")),
    Column("segments", pa.list_(_SEGMENT), _segments),
)
WORDS = Column("words", pa.list_(_WORD), _words)


def _silence() -> bytes:
    """Half a second of nothing, as a wav file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(b"\0" * SAMPLE_RATE)
    return file.getvalue()


class TranscribeOperator:
    """Recordings → text, language, duration, segments (a `RowOperator`). Equal recordings are heard once."""

    harmless = _silence()

    def __init__(self, spec: TranscribeSpec, model: SpeechModel) -> None:
        self._spec, self._model = spec, model
        self._columns = (*COLUMNS, WORDS) if spec.words else COLUMNS

    @property
    def fields(self) -> Sequence[Any]:
        return fields(self._columns, self._spec.prefix)

    @property
    def facts(self) -> Mapping[str, Any]:
        return as_json(self._model.facts)

    def prepare(self, texts: Sequence[Source]) -> list[Samples | NotHeard | Source]:
        """The samples of each recording, as far as there is room for them."""
        return sounds(texts, self._spec.storage)

    def compute(self, prepared: list[Samples | NotHeard | Source]) -> Results:
        heard = computed(prepared, lambda one: sound(one, self._spec.storage), self._heard, together=TOGETHER_BYTES)
        return Results(
            columns=arrays(self._columns, [one if isinstance(one, Transcript) else None for one in heard]),
            errors={row: one.why for row, one in enumerate(heard) if isinstance(one, NotHeard)},
        )

    def rows_per_second(self, texts: Sequence[Source]) -> float:
        """From the first windows of some recordings, and how long these recordings are."""
        window = round(self._model.facts.window * SAMPLE_RATE)
        clips = [one for one in sounds(texts[:TIMED], self._spec.storage) if isinstance(one, np.ndarray)]
        clips = [one for one in clips if len(one)] or [np.zeros(SAMPLE_RATE, np.float32)]
        starts = [one[:window] for one in clips]
        seconds = self._timed(starts[:1])
        if seconds > SLOW:
            starts = starts[:1]
        else:
            seconds = self._timed(starts)
        windows = sum(-(-len(one) // window) for one in clips)
        return len(starts) / seconds * len(clips) / windows

    def _timed(self, clips: Sequence[Samples]) -> float:
        begun = time.monotonic()
        self._heard(clips)
        return max(time.monotonic() - begun, 1e-3)

    def _heard(self, clips: Sequence[Samples]) -> Sequence[Transcript]:
        return self._model.transcribe(clips, self._spec.wish)
