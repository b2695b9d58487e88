"""Subtitles that players accept, whatever the model said."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.whisper.speech import Segment, Transcript, Wish, Word
from idlegrid.api.http.audio_formats import clock, srt, usage, verbose, vtt

TIME = r"\d{2,}:[0-5]\d:[0-5]\d"
SRT = re.compile(rf"(\d+)\n({TIME},\d\d\d) --> ({TIME},\d\d\d)\n(\S[^\n]*)\n\n")
VTT = re.compile(rf"({TIME}\.\d\d\d) --> ({TIME}\.\d\d\d)\n(\S[^\n]*)\n\n")
NAN = {"allow_nan": False, "allow_infinity": False}


def said(*segments: tuple[float, float, str], text: str | None = None) -> Transcript:
    found = tuple(Segment(*one) for one in segments)
    return Transcript(text if text is not None else " ".join(one.text for one in found), "en", 9.5, found)


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (0, "00:00:00,000"),
        (999, "00:00:00,999"),
        (61_001, "00:01:01,001"),
        (3_599_999, "00:59:59,999"),
        (360_000_000, "100:00:00,000"),
    ],
)
def test_times(milliseconds, shown):
    assert clock(milliseconds, ",") == shown
    assert clock(milliseconds, ".") == shown.replace(",", ".")


def test_srt():
    assert srt(said((0.0, 1.5, "A lease."), (1.5, 3.25, "A fence."))) == (
        "1\n00:00:00,000 --> 00:00:01,500\nA lease.\n\n2\n00:00:01,500 --> 00:00:03,250\nA fence.\n\n"
    )


def test_vtt():
    assert vtt(said((0.0, 1.5, "a < b & c > d"))) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na &lt; b &amp; c &gt; d\n\n"
    )


def test_nothing_that_was_said_can_end_a_cue():
    rude = said((0.0, 1.0, "one\n\n2\n00:00 --> 00:01\r\ntwo\u2028three\x85four"))
    assert srt(rude) == "1\n00:00:00,000 --> 00:00:01,000\none 2 00:00 -> 00:01 two three four\n\n"
    assert vtt(rude).endswith("\none 2 00:00 --&gt; 00:01 two three four\n\n")


def test_nothing_was_said():
    assert (srt(said()), vtt(said())) == ("", "WEBVTT\n\n")
    assert srt(said((0.0, 1.0, "  "), (1.0, 2.0, "a"))).startswith("1\n00:00:01,000")


def test_without_segments_the_whole_text_is_one_cue():
    assert srt(said(text="all of it")) == "1\n00:00:00,000 --> 00:00:09,500\nall of it\n\n"


def test_a_moment_without_length_gets_one():
    assert "00:00:02.000 --> 00:00:02.001" in vtt(said((2.0, 2.0, "now")))


@given(st.lists(st.tuples(st.floats(0, 1e6, **NAN), st.floats(0, 1e6, **NAN), st.text(max_size=40)), max_size=8))
def test_whatever_a_model_says_is_valid(segments):
    found = said(*segments)
    cues = SRT.findall(srt(found))
    assert "".join(f"{n}\n{a} --> {b}\n{text}\n\n" for n, a, b, text in cues) == srt(found)
    assert [int(number) for number, *_ in cues] == list(range(1, len(cues) + 1))
    shown = vtt(found).removeprefix("WEBVTT\n\n")
    other = VTT.findall(shown)
    assert "".join(f"{a} --> {b}\n{text}\n\n" for a, b, text in other) == shown
    times = [
        [sum(60**i * int(p) for i, p in enumerate(reversed(t[:-4].split(":")))) + int(t[-3:]) / 1000 for t in one[:2]]
        for one in other
    ]
    assert all(start < stop for start, stop in times)
    assert [start for start, _ in times] == sorted(start for start, _ in times)
    assert not any(re.search(r"[<>]|&(?!amp;|lt;|gt;)", text) for *_, text in other)


def test_verbose_has_what_was_asked_for():
    found = Transcript("a b", "en", 2.2, (Segment(0, 2, "a b", (5, 6)),), (Word(0, 1, "a"), Word(1, 2, "b")))
    both = verbose(found, Wish(words=True), "english", ("segment", "word"))
    assert both["words"][1] == {"word": "b", "start": 1, "end": 2}
    assert (both["language"], both["duration"], both["task"]) == ("english", 2.2, "transcribe")
    assert both["segments"][0]["tokens"] == [5, 6]
    assert both["usage"] == usage(found) == {"type": "duration", "seconds": 3}
    assert "segments" not in verbose(found, Wish(words=True), "english", ("word",))
