"""The transcripts of a window of rows: recordings of like length together, decoded while others are heard."""

from __future__ import annotations

import io
import time
import wave
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...actors.whisper.speech import SAMPLE_RATE, NotHeard, Samples, SpeechModel, Transcript
from .files import Source
from .operators import Results
from .recordings import sound, sounds

if TYPE_CHECKING:
    from .transcribe import TranscribeSpec

TOGETHER_SECONDS = 1800.0
"""Sound that is handed to the model at once: it makes its own batches of that."""
TIMED = 4
"""Recordings by whose first windows a model's speed is judged."""
SLOW = 0.5
"""Seconds for the first of them beyond which the others are not heard too: they would only warm a GPU up."""
_SEGMENTS = pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("text", pa.string())]))
_WORDS = pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("word", pa.string())]))


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

    @property
    def fields(self) -> Sequence[Any]:
        kinds = {"text": pa.string(), "language": pa.string(), "duration": pa.float64(), "segments": _SEGMENTS}
        if self._spec.words:
            kinds["words"] = _WORDS
        return [pa.field(self._spec.prefix + name, kind) for name, kind in kinds.items()]

    @property
    def facts(self) -> Mapping[str, Any]:
        facts = asdict(self._model.facts)
        return facts | {"languages": list(facts["languages"]), "versions": dict(facts["versions"])}

    def prepare(self, texts: Sequence[Source]) -> list[Samples | NotHeard | Source]:
        """The samples of each recording, as far as there is room for them."""
        return sounds(texts, self._spec.storage)

    def compute(self, prepared: list[Samples | NotHeard | Source]) -> Results:
        found: dict[int, Transcript] = {}
        errors: dict[int, str] = {}
        waiting: dict[int, Samples] = {}
        for index, one in enumerate(prepared):
            clip = sound(one, self._spec.storage) if isinstance(one, Source) else one
            if isinstance(clip, NotHeard):
                errors[index] = clip.why
                continue
            waiting[index] = clip
            if sum(map(len, waiting.values())) > TOGETHER_SECONDS * SAMPLE_RATE:
                found |= self._heard(waiting)
                waiting = {}
        found |= self._heard(waiting)
        return Results([self._column(index, found, len(prepared)) for index in range(len(self.fields))], errors)

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
        self._model.transcribe(clips, self._spec.wish)
        return max(time.monotonic() - begun, 1e-3)

    def _heard(self, clips: Mapping[int, Samples]) -> dict[int, Transcript]:
        if not clips:
            return {}
        return dict(zip(clips, self._model.transcribe(list(clips.values()), self._spec.wish), strict=True))

    def _column(self, place: int, found: Mapping[int, Transcript], rows: int) -> Any:
        field = self.fields[place]
        name = field.name.removeprefix(self._spec.prefix)
        return pa.array([_value(found.get(row), name) for row in range(rows)], field.type)


def _value(transcript: Transcript | None, name: str) -> Any:
    if transcript is None:
        return None
    value = getattr(transcript, name)
    if name == "segments":
        return [{"start": one.start, "end": one.end, "text": one.text} for one in value]
    if name == "words":
        return [{"start": one.start, "end": one.end, "word": one.word} for one in value or ()]
    return value
