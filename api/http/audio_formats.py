"""A transcript in the five forms that OpenAI's API knows: json, text, srt, vtt, verbose_json. Pure."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Collection, Iterable
from typing import Any, Literal

from ...actors.whisper.speech import Segment, Transcript, Wish

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
MEDIA_TYPES: dict[str, str] = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}


def srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, times with a comma, a blank line after each."""
    cues = [
        f"{number}\n{clock(start, ',')} --> {clock(stop, ',')}\n{_line(text).replace('-->', '->')}\n\n"
        for number, (start, stop, text) in enumerate(_cues(transcript), 1)
    ]
    return "".join(cues)


def vtt(transcript: Transcript) -> str:
    """WebVTT (W3C): a header, cues with times with a point; `&`, `<` and `>` are escaped."""
    cues = [
        f"{clock(start, '.')} --> {clock(stop, '.')}\n{_escaped(_line(text))}\n\n"
        for start, stop, text in _cues(transcript)
    ]
    return "WEBVTT\n\n" + "".join(cues)


def clock(milliseconds: int, mark: str) -> str:
    """`01:02:03.004`, with `mark` before the milliseconds. More than 99 hours get more digits."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{rest:03}"


def usage(transcript: Transcript) -> dict[str, Any]:
    """What it cost, as OpenAI tells it: whole seconds of sound."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def verbose(transcript: Transcript, wish: Wish, language: str, parts: Collection[str]) -> dict[str, Any]:
    """Everything that is known. `language`: its English name. `parts`: ``segment``, ``word`` or both.

    What is not measured here is null: `avg_logprob` and `no_speech_prob`.
    """
    document: dict[str, Any] = {
        "task": wish.task,
        "language": language,
        "duration": transcript.duration,
        "text": transcript.text,
    }
    if "segment" in parts:
        document["segments"] = [_segment(number, one, wish) for number, one in enumerate(transcript.segments)]
    if "word" in parts:
        words = transcript.words or ()
        document["words"] = [{"word": one.word, "start": one.start, "end": one.end} for one in words]
    return document | {"usage": usage(transcript)}


def _segment(number: int, segment: Segment, wish: Wish) -> dict[str, Any]:
    raw = segment.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": wish.temperature,
        "avg_logprob": None,
        "compression_ratio": round(len(raw) / len(zlib.compress(raw)), 4),
        "no_speech_prob": None,
    }


def _cues(transcript: Transcript) -> Iterable[tuple[int, int, str]]:
    """(start, stop, text) in ms: each at least 1 ms long, in order, none without text."""
    whole = Segment(0.0, transcript.duration, transcript.text)
    first = 0
    for one in transcript.segments or (whole,):
        start = max(first, round(one.start * 1000))
        if _line(one.text):
            yield start, max(start + 1, round(one.end * 1000)), one.text
            first = start


def _line(text: str) -> str:
    """Text without what would end a cue: a blank line, a line break of any kind, a null character."""
    return re.sub(r"\s+", " ", text.replace("\0", "\ufffd")).strip()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
