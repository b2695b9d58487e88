"""Chat with pictures: who answers it, what is shown to the model, and what is refused."""

from __future__ import annotations

import base64

import httpx
import openai
import pytest
from brush import EYE, Eye
from hash_embedder import HashEmbedder
from script_engine import TEXT, ScriptEngine
from sse import events
from tiny_llava import as_png, scene

from idlegrid.actors.vision.look import Turn
from idlegrid.api.fetching import FetchFailed, FetchLimits, FetchRefused
from idlegrid.api.http import create_app
from idlegrid.api.http.embedder import Readiness
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid.config import Settings

PNG = as_png(scene())
DATA = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


class Web:
    """What is behind some addresses."""

    limits = FetchLimits()

    async def fetch(self, url, *, kind, limits=None):
        if "private" in url:
            raise FetchRefused("10.0.0.1 is no public address")
        if "gone" in url:
            raise FetchFailed("the server said 404")
        return PNG * 2


@pytest.fixture
def eye():
    return Eye()


@pytest.fixture
def app(eye):
    return create_app(HashEmbedder(), Settings(), EngineBackend(ScriptEngine()), viewer=eye, fetcher=Web())


@pytest.fixture
async def chat(app):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:

        async def post(messages, **more):
            return await client.post("/v1/chat/completions", json={"model": EYE.id, "messages": messages} | more)

        yield post


def shown(*urls, text="what is this?"):
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


async def test_pictures_come_as_files_whatever_names_them(chat, eye):
    answer = await chat(shown(DATA, "https://example.org/a.png"), seed=3)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["choices"][0]["message"]["content"] == f"{[len(PNG), 2 * len(PNG)]} 3"
    assert (told["object"], told["model"], told["choices"][0]["finish_reason"]) == ("chat.completion", EYE.id, "stop")
    assert told["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    [(model, [look])] = eye.calls
    assert (model, look.turns) == (EYE.id, (Turn("user", (None, None, "what is this?")),))
    assert look.pictures == (PNG, PNG * 2)
    assert (look.wish.max_tokens, look.wish.temperature, look.wish.top_p) == (1024, 1.0, 1.0)


async def test_a_conversation_and_how_it_is_answered(chat, eye):
    talk = [{"role": "developer", "content": "be brief"}, *shown(DATA), {"role": "assistant", "content": "a fox"}]
    talk.append({"role": "user", "content": "sure?"})
    options = {"max_completion_tokens": 9, "temperature": 0, "top_p": 0.5, "stop": ["."], "n": 2, "seed": 1}
    told = (await chat(talk, **options)).json()
    [(_, looks)] = eye.calls
    assert [turn.role for turn in looks[0].turns] == ["system", "user", "assistant", "user"]
    wish = looks[0].wish
    assert (wish.max_tokens, wish.temperature, wish.top_p, wish.stop, wish.seed) == (9, 0.0, 0.5, (".",), 1)
    assert [one["index"] for one in told["choices"]] == [0, 1]
    assert looks[1].wish.seed != 1
    assert told["usage"]["completion_tokens"] == 6


async def test_text_alone_is_answered_too(chat, eye):
    assert (await chat([{"role": "user", "content": "hello"}])).status_code == 200
    assert eye.calls[0][1][0].pictures == ()


async def test_a_stream_has_the_answer_in_one_piece(chat):
    answer = await chat(shown(DATA), stream=True, stream_options={"include_usage": True}, seed=3)
    assert answer.headers["content-type"].startswith("text/event-stream")
    first, last, usage = events(answer.content)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": f"{[len(PNG)]} 3"}
    assert (last["choices"][0]["finish_reason"], usage["choices"]) == ("stop", [])
    assert usage["usage"]["total_tokens"] == 10
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_a_model_that_reads_text_is_asked_as_before_and_refuses_pictures(chat, eye):
    answer = await chat([{"role": "user", "content": "hi"}], model="tests/script")
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    answer = await chat(shown(DATA), model="tests/script")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "messages[0].content[0].type")
    assert "This model reads text only" in error["message"]
    assert "idlegrid models --type vision" in error["message"]
    assert not eye.calls


@pytest.mark.parametrize(
    ("messages", "more", "param", "what"),
    [
        (shown("https://private.example/a.png"), {}, "messages[0].content[0].image_url", "no public address"),
        (shown("https://gone.example/a.png"), {}, "messages", "the server said 404"),
        (shown("data:image/png;base64,%%"), {}, "messages[0].content[0].image_url", "no Base64"),
        (shown("data:text/html;base64,PGI+"), {}, "messages[0].content[0].image_url", "no image of a known format"),
        (shown(*[DATA] * 17), {}, "messages", "at most 16"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, "messages[0].content[0].image_url", "`url`"),
        ([{"role": "user", "content": [{"type": "video"}]}], {}, "messages[0].content[0].type", "'video'"),
        (shown(DATA), {"logprobs": True}, "logprobs", "for models that see"),
        (shown(DATA), {"response_format": {"type": "json_object"}}, "response_format", "in text alone"),
        (shown(DATA), {"tools": [{}]}, "tools", "not supported"),
        (shown(DATA), {"stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
        ([{"role": "user", "content": "bad"}], {}, "messages", "too long"),
    ],
)
async def test_what_is_wrong_is_told_by_name(chat, messages, more, param, what):
    answer = await chat(messages, **more)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert what in error["message"]


async def test_nobody_there(chat, eye):
    eye.ready_answer = Readiness(False, "no worker that takes vision work is connected")
    answer = await chat(shown(DATA))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")


async def test_the_official_client(app):
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
    async with openai.AsyncOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none", http_client=http) as client:
        said = await client.chat.completions.create(model="eye", messages=shown(DATA), seed=3)
        assert said.choices[0].message.content == f"{[len(PNG)]} 3"
        stream = await client.chat.completions.create(model="eye", messages=shown(DATA), seed=3, stream=True)
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(parts) == f"{[len(PNG)]} 3"
        assert EYE.id in [one.id async for one in client.models.list()]
