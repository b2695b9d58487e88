"""The job type `whisper`: a recording in, what is said in it out."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from ..actors.whisper.speech import Wish, plain
from ..grid.job_types import ALONE, RunContext
from .model_job import ModelJobType, ModelParams, file_of

MAX_BASE64 = 64 * 1024 * 1024
"""Characters: 48 MiB of sound. A service takes less in one request (`api.max_body_mb`)."""
MAX_PROMPT = 4096
"""Characters; a model reads the last 223 tokens."""
MAX_SEED = 2**63 - 1
SLACK = 0.5
"""Seconds by which the last time of a transcript may lie behind the recording's end."""
Seconds = Annotated[FiniteFloat, Field(ge=0)]


class WhisperParams(ModelParams):
    """Parameters of a whisper job: `audio_base64` or `audio_url`."""

    audio_base64: Annotated[str, Field(min_length=1, max_length=MAX_BASE64)] | None = None
    """A sound file (wav, flac, mp3, ogg, m4a, mp4, webm), its bytes in Base64."""
    audio_url: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Where the service fetches it, over http or https; workers never do."""
    language: Annotated[str, Field(min_length=2, max_length=40)] | None = None
    """What is spoken, e.g. `de` or `german`. None: detected."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """`translate`: into English."""
    words: bool = False
    """Whether the time of each word is wanted too."""
    prompt: Annotated[str, Field(max_length=MAX_PROMPT)] | None = None
    """What was said before, or how names are written."""
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """0: always the likeliest token."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """With a temperature, the same seed gives the same text."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.audio_base64 is None) == (self.audio_url is None):
            raise ValueError("give either audio_base64 or audio_url")
        return self

    def wish(self) -> Wish:
        """How the recording is to be heard."""
        names = ("language", "task", "words", "temperature", "seed")
        return Wish(prompt=self.prompt or None, **{name: getattr(self, name) for name in names})


class SpeechSegment(BaseModel):
    """A part of a recording, usually a sentence."""

    start: Seconds
    """Seconds from the beginning; the same for `end`."""
    end: Seconds
    text: str


class SpeechWord(BaseModel):
    """A spoken word."""

    start: Seconds
    end: Seconds
    word: str


class WhisperResult(BaseModel):
    """Result of a whisper job."""

    text: str
    language: Annotated[str, Field(min_length=2, max_length=8)]
    """Code of what is spoken, e.g. `en`; also of a translation."""
    duration: Seconds
    """Seconds of sound."""
    segments: list[SpeechSegment]
    """In order."""
    words: list[SpeechWord] | None = None
    """Null: they were not asked for."""


class WhisperJobType(ModelJobType):
    """See `grid.job_types.JobType`."""

    name = "whisper"
    packages = ("av", "soundfile", "soxr")
    Params = WhisperParams
    Result = WhisperResult

    def run(self, params: WhisperParams, context: RunContext = ALONE) -> WhisperResult:
        """Hear the recording in this process with its resident model; it stops within a token.

        Raises Cancelled, ValueError for what is no recording or a wish that the model can't meet, and what loading the
        model raises.
        """
        from ..actors.media.audio import decode_audio
        from ..actors.whisper.resident import whisper_model  # brings torch, which only the donor that computes has

        sound = decode_audio(content(params))
        context.check()
        resident = whisper_model(self.model_of(params))
        [heard] = resident.transcribe(
            [sound.samples],
            params.wish(),
            check=context.check,
            told=lambda done, total: context.progress({"done": done, "total": total, "unit": "seconds"}),
        )
        return WhisperResult.model_validate(plain(heard))

    def check(self, params: WhisperParams, result: WhisperResult) -> None:
        """See `grid.job_types.ChecksResults`."""
        if params.words != (result.words is not None):
            raise ValueError(
                "the times of words are missing" if params.words else "times of words, which nobody wanted"
            )
        end = result.duration + SLACK
        for one in (*result.segments, *(result.words or ())):
            if not one.start <= one.end <= end:
                raise ValueError(f"a part from {one.start} to {one.end} s in a recording of {result.duration} s")
        starts = [one.start for one in result.segments]
        if starts != sorted(starts):
            raise ValueError("the segments are not in order")


def content(params: WhisperParams) -> bytes:
    """The sound file. Raises ValueError for bad Base64, and for an address: the service replaces those."""
    return file_of(params.audio_base64, "audio_base64")


JOB_TYPE = WhisperJobType()
