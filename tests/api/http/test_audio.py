"""The doors for recordings: forms in, five kinds of answers out, errors in OpenAI's shape."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from ears import EAR, Ears
from hash_embedder import HashEmbedder

from idlegrid.api.http import create_app
from idlegrid.api.http.embedder import Readiness
from idlegrid.grid.config import Settings

TRANSCRIBE, TRANSLATE = "/v1/audio/transcriptions", "/v1/audio/translations"
FILE = {"file": ("a.wav", b"guten Tag", "audio/wav")}
MODEL = {"model": EAR.id}


@pytest.fixture
def ears():
    return Ears()


@pytest.fixture
async def audio(ears):
    settings = Settings.model_validate({"api": {"max_audio_mb": 2, "max_body_mb": 0.01, "generation_timeout": 30}})
    transport = httpx.ASGITransport(create_app(HashEmbedder(), settings, speech=ears))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client


async def test_json_is_the_default(audio, ears):
    answer = await audio.post(TRANSCRIBE, files=FILE, data=MODEL)
    assert answer.status_code == 200
    assert answer.json() == {"text": "guten Tag", "usage": {"type": "duration", "seconds": 3}}
    model, files, wish = ears.calls[0]
    assert (model, files, wish.task, wish.words) == (EAR.id, [b"guten Tag"], "transcribe", False)


@pytest.mark.parametrize(
    ("kind", "media", "body"),
    [
        ("text", "text/plain", "guten Tag\n"),
        ("srt", "application/x-subrip", "1\n00:00:00,000 --> 00:00:02,500\nguten Tag\n\n"),
        ("vtt", "text/vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nguten Tag\n\n"),
    ],
)
async def test_other_kinds(audio, kind, media, body):
    answer = await audio.post(TRANSCRIBE, files=FILE, data={**MODEL, "response_format": kind})
    assert (answer.headers["content-type"].split(";")[0], answer.text) == (media, body)


async def test_everything_that_is_known(audio, ears):
    data = {**MODEL, "response_format": "verbose_json", "prompt": "Grüße", "temperature": "0.5", "language": "de"}
    answer = await audio.post(TRANSCRIBE, files=FILE, data={**data, "timestamp_granularities[]": ["word", "segment"]})
    told = answer.json()
    assert (told["language"], told["duration"], told["task"]) == ("german", 2.5, "transcribe")
    assert told["words"] == [{"word": "guten Tag", "start": 0.0, "end": 1.0}]
    assert told["segments"][0]["temperature"] == 0.5
    wish = ears.calls[0][2]
    assert (wish.language, wish.prompt, wish.temperature, wish.words) == ("de", "Grüße", 0.5, True)
    plain = (await audio.post(TRANSCRIBE, files=FILE, data=data)).json()
    assert "words" not in plain
    assert not ears.calls[1][2].words


async def test_a_translation(audio, ears):
    answer = await audio.post(TRANSLATE, files=FILE, data={"model": "whisper-1", "response_format": "verbose_json"})
    assert answer.json()["task"] == "translate"
    assert ears.calls[0][2].task == "translate"


@pytest.mark.parametrize(
    ("door", "files", "data", "param", "code"),
    [
        (TRANSCRIBE, FILE, {}, "model", "missing_required_parameter"),
        (TRANSCRIBE, None, MODEL, "file", "missing_required_parameter"),
        (TRANSCRIBE, FILE, {**MODEL, "response_format": "xml"}, "response_format", "invalid_value"),
        (TRANSCRIBE, FILE, {**MODEL, "temperature": "2"}, "temperature", "invalid_value"),
        (TRANSCRIBE, FILE, {**MODEL, "temperature": "warm"}, "temperature", "invalid_value"),
        (TRANSCRIBE, FILE, {**MODEL, "stream": "true"}, "stream", "unsupported_parameter"),
        (TRANSCRIBE, FILE, {**MODEL, "include[]": "logprobs"}, "include", "unsupported_parameter"),
        (TRANSCRIBE, FILE, {**MODEL, "lang": "de"}, "lang", "unknown_parameter"),
        (TRANSCRIBE, FILE, {**MODEL, "timestamp_granularities[]": "word"}, "timestamp_granularities", "invalid_value"),
        (TRANSCRIBE, FILE, {**MODEL, "language": "xx"}, None, "invalid_value"),
        (TRANSCRIBE, {"file": ("a.wav", b"bad")}, MODEL, "file", "invalid_value"),
        (TRANSLATE, FILE, {**MODEL, "language": "de"}, "language", "unknown_parameter"),
        (TRANSLATE, FILE, {**MODEL, "timestamp_granularities[]": "word"}, "timestamp_granularities[]", None),
    ],
)
async def test_what_is_wrong_is_told_by_its_name(audio, door, files, data, param, code):
    # a form without a file is still a multipart one here
    answer = await audio.post(door, files=files or {"other": (None, "x")}, data=data)
    if files is None:
        answer = await audio.post(door, files={"model": (None, EAR.id)})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code


async def test_parameters_that_change_nothing_are_taken(audio):
    data = {**MODEL, "stream": "false", "chunking_strategy": "auto"}
    assert (await audio.post(TRANSCRIBE, files=FILE, data=data)).status_code == 200


async def test_a_model_that_is_not_there(audio):
    answer = await audio.post(TRANSCRIBE, files=FILE, data={"model": "whisper-2"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "Did you mean 'whisper-1'" in answer.text


async def test_no_form(audio):
    answer = await audio.post(TRANSCRIBE, json=MODEL)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_content_type")


async def test_a_form_that_breaks_off(audio):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await audio.post(TRANSCRIBE, content=b"--x\r\nContent-Dispos", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("size", [2 * 2**20 + 1, 4 * 2**20])
async def test_a_file_that_is_too_large(audio, ears, size):
    answer = await audio.post(TRANSCRIBE, files={"file": ("a.wav", b"\0" * size)}, data=MODEL)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert not ears.calls


async def test_one_that_just_fits(audio, ears):
    answer = await audio.post(TRANSCRIBE, files={"file": ("a.wav", b"a" * (2 * 2**20))}, data=MODEL)
    assert answer.status_code == 200
    assert len(ears.calls[0][1][0]) == 2 * 2**20


async def test_nobody_is_there_to_hear(audio, ears):
    ears.ready_answer = Readiness(False, "no worker that takes whisper work is connected")
    answer = await audio.post(TRANSCRIBE, files=FILE, data=MODEL)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


async def test_short_ones_that_wait_are_heard_together_and_long_ones_alone(audio, ears):
    ears.gate.clear()

    def post(content: bytes, **data: str) -> asyncio.Task:
        return asyncio.create_task(audio.post(TRANSCRIBE, files={"file": ("a.wav", content)}, data={**MODEL, **data}))

    first = post(b"first")
    await ears.wait_for_calls(1)
    others = [post(b"one"), post(b"two"), post(b"bad"), post(b"drei", language="de"), post(b"long" * 300_000)]
    await ears.wait_for_calls(4)
    ears.gate.set()
    assert (await first).json()["text"] == "first"
    answers = await asyncio.gather(*others)
    assert [one.status_code for one in answers] == [200, 200, 400, 200, 200]
    assert answers[0].json()["text"] == "one"
    assert sorted(sorted(one[:4] for one in files) for _, files, _ in ears.calls) == [
        [b"bad", b"one", b"two"],
        [b"drei"],
        [b"firs"],
        [b"long"],
    ]


async def test_models_are_listed_with_the_others(audio):
    listed = [one["id"] for one in (await audio.get("/v1/models")).json()["data"]]
    assert EAR.id in listed
    assert len(listed) > 1
    assert (await audio.get("/v1/models/whisper-1")).json()["id"] == EAR.id


async def test_the_document_tells_the_form(audio):
    document = (await audio.get("/openapi.json")).json()
    content = document["paths"][TRANSCRIBE]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert content["required"] == ["file", "model"]
    assert set(content["properties"]) >= {"file", "model", "language", "response_format"}
    assert (
        "language"
        not in document["paths"][TRANSLATE]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"][
            "properties"
        ]
    )


async def test_without_ears_there_is_no_door(client):
    assert (await client.post(TRANSCRIBE, files=FILE, data=MODEL)).status_code == 404
