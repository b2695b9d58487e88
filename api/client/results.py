"""The results of the job types as values. A field that a newer service adds is ignored."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Usage:
    """How much was read and written, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From a result's `usage`."""
        return cls(**_known(cls, document.get("usage") or {}))


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of an `llm` job. Its `str` is the text."""

    response: str
    finish_reason: str
    """``stop`` or ``length``."""
    usage: Usage

    def __str__(self) -> str:
        return self.response

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        """From a job's result. Raises KeyError when something is missing; the same for the other results."""
        return cls(response=result["response"], finish_reason=result["finish_reason"], usage=Usage.of(result))


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The result of an `embedding` job."""

    embeddings: Sequence[Sequence[float]]
    """One vector a text, in the order of the texts."""
    dimensions: int
    """Length of each vector."""
    usage: Usage

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        return cls(embeddings=result["embeddings"], dimensions=result["dimensions"], usage=Usage.of(result))


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a recording."""

    start: float
    """Seconds from the beginning; the same for `end`."""
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Word:
    """A spoken word."""

    start: float
    """Seconds from the beginning; the same for `end`."""
    end: float
    word: str


@dataclass(frozen=True, slots=True)
class Transcription:
    """The result of a `whisper` job. Its `str` is the text."""

    text: str
    language: str
    duration: float
    """Seconds."""
    segments: tuple[Segment, ...]
    words: tuple[Word, ...] = ()
    """Empty unless they were asked for."""

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        segments = tuple(Segment(**_known(Segment, segment)) for segment in result.get("segments") or ())
        plain = {name: result[name] for name in ("text", "language", "duration")}
        words = tuple(Word(**_known(Word, word)) for word in result.get("words") or ())
        return cls(**plain, segments=segments, words=words)


@dataclass(frozen=True, slots=True)
class Image:
    """The result of an `image_gen` job."""

    data: bytes
    """The image as a file's content."""
    width: int
    height: int
    seed: int
    format: str
    """``png``."""

    def save(self, path: str | Path) -> Path:
        """Write the image to a file."""
        target = Path(path)
        target.write_bytes(self.data)
        return target

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        plain = {name: result[name] for name in ("width", "height", "seed", "format")}
        return cls(data=base64.b64decode(result["image_base64"]), **plain)


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """The result of a `vision` job. Its `str` is the text."""

    response: str
    task: str
    """``image_qa``, ``image_caption`` or ``ocr``."""
    usage: Usage

    def __str__(self) -> str:
        return self.response

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        return cls(response=result["response"], task=result["task"], usage=Usage.of(result))


def _known(kind: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `document` that `kind` has fields for."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in document.items() if name in names}
