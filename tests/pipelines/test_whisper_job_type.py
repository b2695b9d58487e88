"""The job type `whisper`: its parameters' bounds, what it asks of a donor, and what is believed of a result."""

from __future__ import annotations

import base64
import subprocess
import sys

import pytest
from pydantic import ValidationError
from tiny_whisper import as_file, tone

from idlegrid.grid.job_types import job_type
from idlegrid.pipelines.whisper import JOB_TYPE, WhisperParams, WhisperResult

RESULT = {"text": "a b", "language": "en", "duration": 2.0, "segments": [{"start": 0.0, "end": 1.5, "text": "a b"}]}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_it_comes_through_the_register():
    assert job_type("whisper") is JOB_TYPE


def test_the_defaults_are_those_of_the_contract():
    params = WhisperParams(audio_base64="AAAA")
    assert (params.task, params.language, params.words, params.temperature) == ("transcribe", None, False, 0.0)


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({}, "either audio_base64 or audio_url"),
        ({"audio_base64": "AA", "audio_url": "http://a/b"}, "either audio_base64 or audio_url"),
        ({"audio_base64": ""}, "audio_base64"),
        ({"audio_base64": "AAAA", "task": "summarise"}, "task"),
        ({"audio_base64": "AAAA", "temperature": 1.5}, "temperature"),
        ({"audio_base64": "AAAA", "language": ""}, "language"),
        ({"audio_base64": "AAAA", "lang": "de"}, "lang"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(params, what):
    with pytest.raises(ValidationError, match=what):
        WhisperParams.model_validate(params)


def test_the_ask_names_the_model_and_its_memory():
    ask = JOB_TYPE.ask(WhisperParams(audio_base64="AAAA"))
    assert (ask.type, ask.model, ask.gpu_memory_gb) == ("whisper", "openai/whisper-large-v3", 4.5)
    assert JOB_TYPE.ask(WhisperParams(audio_base64="AAAA", model="whisper-small")).gpu_memory_gb == 1.2


def test_importing_it_brings_no_torch():
    code = "import sys, idlegrid.pipelines.whisper as w; w.JOB_TYPE.ask(w.WhisperParams(audio_url='http://a/b'))"
    code += "; sys.exit(' '.join({'torch', 'dask', 'fastapi', 'soundfile'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"segments": [{"start": 1.0, "end": 0.5, "text": "a"}]}, "from 1.0 to 0.5"),
        ({"segments": [{"start": 0.0, "end": 9.0, "text": "a"}]}, "to 9.0 s in a recording of 2.0"),
        ({"segments": [{"start": at, "end": 2.0, "text": "a"} for at in (1.0, 0.0)]}, "not in order"),
        ({"words": [{"start": 0.0, "end": 1.0, "word": "a"}]}, "nobody wanted"),
    ],
)
def test_a_result_that_can_not_be_is_not_believed(changes, what):
    params = WhisperParams(audio_base64="AAAA")
    JOB_TYPE.check(params, WhisperResult.model_validate(RESULT))
    with pytest.raises(ValueError, match=what):
        JOB_TYPE.check(params, WhisperResult.model_validate(RESULT | changes))
    with pytest.raises(ValueError, match="words are missing"):
        JOB_TYPE.check(params.model_copy(update={"words": True}), WhisperResult.model_validate(RESULT))


def test_times_that_are_no_numbers_are_no_result():
    with pytest.raises(ValidationError, match="finite"):
        WhisperResult.model_validate(RESULT | {"duration": float("nan")})


def test_a_worker_fetches_nothing():
    with pytest.raises(ValueError, match="a worker fetches nothing"):
        JOB_TYPE.run(WhisperParams(audio_url="http://127.0.0.1/a.wav"))


def test_what_is_no_base64():
    with pytest.raises(ValueError, match="no Base64"):
        JOB_TYPE.run(WhisperParams(audio_base64="%%%"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_every_kind_of_file_is_heard(tiny_whisper, kind):
    params = WhisperParams(audio_base64=encoded(as_file(tone(2.5, seed=1), kind)), model=str(tiny_whisper.folder))
    result = JOB_TYPE.run(params)
    JOB_TYPE.check(params, result)
    assert result.duration == pytest.approx(2.5, abs=0.15)  # some formats fill up their last frame
    assert result.segments
    if kind in ("wav", "flac"):  # wav is 16 bit here, so compare with what was stored
        assert (
            result.text == tiny_whisper.text(tone(2.5, seed=1), language=result.language, task="transcribe")[0].strip()
        )


@pytest.mark.slow
def test_what_is_no_recording_is_the_clients_fault(tiny_whisper):
    with pytest.raises(ValueError, match="sound"):
        JOB_TYPE.run(WhisperParams(audio_base64=encoded(b"not a sound at all"), model=str(tiny_whisper.folder)))
