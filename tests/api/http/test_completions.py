"""`/v1/completions` where it differs from chat."""

from __future__ import annotations

import httpx
import pytest
from script_engine import TEXT
from sse import events, joined

ALL = len(TEXT.encode()) + 1


async def post(client: httpx.AsyncClient, prompt="Hi", **more) -> httpx.Response:
    return await client.post("/v1/completions", json={"model": "script", "prompt": prompt} | more)


async def test_a_whole_answer_has_sixteen_tokens_unless_more_are_asked_for(llm):
    document = (await post(llm)).json()
    assert document.keys() == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    assert document["id"].startswith("cmpl-")
    assert document["object"] == "text_completion"
    text = TEXT.encode()[:16].decode()
    assert document["choices"] == [{"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}]
    assert document["usage"]["completion_tokens"] == 16
    (choice,) = (await post(llm, max_tokens=100)).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == (TEXT, "stop")


async def test_the_chunks_of_a_stream(llm):
    answer = await post(llm, max_tokens=100, stream=True, stream_options={"include_usage": True})
    *chunks, last = events(answer.content)
    assert joined(chunks) == TEXT
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {chunk["object"] for chunk in [*chunks, last]} == {"text_completion"}
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == ALL


PROMPTS = [
    ("Hi", [b"Hi"]),
    (["Hi", "Ho"], [b"Hi", b"Ho"]),
    ([72, 105], [b"Hi"]),
    ([[72, 105], [72, 111]], [b"Hi", b"Ho"]),
]


@pytest.mark.parametrize(("prompt", "tokens"), PROMPTS, ids=["text", "texts", "tokens", "lists of tokens"])
async def test_every_form_of_prompt(llm, engine, prompt, tokens):
    document = (await post(llm, prompt, n=2)).json()
    assert [choice["index"] for choice in document["choices"]] == list(range(2 * len(tokens)))
    assert [bytes(request.prompt) for request in engine.requests] == [one for one in tokens for _ in range(2)]
    assert document["usage"]["prompt_tokens"] == 2 * len(tokens)
    assert document["usage"]["prompt_tokens_details"] == {"cached_tokens": 3 * len(tokens)}


async def test_logprobs(llm):
    document = (await post(llm, max_tokens=4, logprobs=1)).json()
    assert document["choices"][0]["logprobs"] == {
        "tokens": ["G", "r", "\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}"],
        "token_logprobs": [-0.5] * 4,
        "top_logprobs": [{"A": -1.0}] * 4,
        "text_offset": [0, 1, 2, 3],
    }
    chunks = events((await post(llm, max_tokens=3, logprobs=0, stream=True)).content)
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [offset for one in told for offset in one["text_offset"]] == [0, 1, 2]


BAD = [
    ({"suffix": "x"}, "suffix", "unsupported_parameter"),
    ({"echo": True}, "echo", "unsupported_parameter"),
    ({"best_of": 2}, "best_of", "invalid_value"),
    ({"messages": []}, "messages", "unknown_parameter"),
    ({"max_completion_tokens": 5}, "max_completion_tokens", "unknown_parameter"),
    ({"prompt": ""}, "prompt", "invalid_value"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": [257]}, "prompt", "invalid_value"),
    ({"prompt": [[1], "x"]}, "prompt", "invalid_value"),
    ({"prompt": ["x"] * 129}, "prompt", "invalid_value"),
    ({"prompt": ["x"] * 65, "n": 2}, "n", "invalid_value"),
    ({"prompt": "x" * 190}, "prompt", "context_length_exceeded"),
    ({"logprobs": 21}, "logprobs", "invalid_value"),
    ({"logprobs": True}, "logprobs", "invalid_value"),
]


@pytest.mark.parametrize(("change", "param", "code"), BAD, ids=[str(row[0])[:40] for row in BAD])
async def test_a_bad_request_is_refused_with_the_parameter_named(llm, engine, change, param, code):
    answer = await llm.post("/v1/completions", json={"model": "script", "prompt": "Hi"} | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert not engine.requests


async def test_values_that_ask_for_nothing_are_taken(llm):
    assert (await post(llm, suffix="", echo=False, best_of=2, n=2)).status_code == 200
