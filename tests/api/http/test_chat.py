"""`/v1/chat/completions` in every form, over an engine that says what is known beforehand."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from script_engine import TEXT, ScriptEngine
from sse import events, joined

from idlegrid.api.http import create_app
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid.config import Settings
from idlegrid.grid.tenants import Salts

MESSAGES = [{"role": "user", "content": "Hi"}]
PROMPT = len(b"user: Hi\n")
ALL = len(TEXT.encode()) + 1
"""Tokens of the whole answer, its end included."""


async def post(client: httpx.AsyncClient, **more) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={"model": "script", "messages": MESSAGES} | more)


async def stream(client: httpx.AsyncClient, **more) -> list:
    answer = await post(client, stream=True, **more)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events(answer.content)


async def test_a_whole_answer(llm, engine):
    document = (await post(llm)).json()
    assert document.keys() == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    assert document["id"].startswith("chatcmpl-")
    assert (document["object"], document["model"]) == ("chat.completion", "tests/script")
    assert document["system_fingerprint"] == "fp_abc"
    assert document["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert document["usage"] == {
        "prompt_tokens": PROMPT,
        "completion_tokens": ALL,
        "total_tokens": PROMPT + ALL,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert bytes(engine.requests[0].prompt) == b"user: Hi\n"


async def test_the_chunks_of_a_stream(llm):
    chunks = await stream(llm)
    first, *middle, last = chunks
    assert first["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert joined(chunks) == TEXT
    assert all(chunk["choices"][0]["delta"].keys() == {"content"} for chunk in middle)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in middle)
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    keys = {"id", "object", "created", "model", "system_fingerprint", "choices"}
    assert all(chunk.keys() == keys for chunk in chunks)
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


async def test_usage_comes_last_and_is_null_before(llm):
    *chunks, last = await stream(llm, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == (await post(llm)).json()["usage"]


async def test_usage_in_every_chunk(llm):
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = [chunk["usage"]["completion_tokens"] for chunk in await stream(llm, stream_options=options)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, ALL)


async def test_n_choices_come_with_seeds_of_their_own_and_a_prompt_that_counts_once(llm, engine):
    document = (await post(llm, n=3, seed=7)).json()
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2]
    assert document["usage"]["prompt_tokens"] == PROMPT
    assert document["usage"]["completion_tokens"] == 3 * ALL
    assert document["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    seeds = [request.sampling.seed for request in engine.requests]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    await post(llm, n=3, seed=7)
    assert [request.sampling.seed for request in engine.requests[3:]] == seeds
    chunks = await stream(llm, n=2)
    assert [joined(chunks, index) for index in range(2)] == [TEXT, TEXT]
    reasons = [choice for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(choice["index"] for choice in reasons) == [0, 1]


async def test_without_a_seed_each_request_has_another(llm, engine):
    await post(llm)
    await post(llm)
    first, second = engine.requests
    assert first.sampling.seed != second.sampling.seed


async def test_logprobs(llm):
    document = (await post(llm, max_tokens=2, logprobs=True, top_logprobs=2)).json()
    assert document["choices"][0]["finish_reason"] == "length"
    content = document["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in content] == ["G", "r"]
    assert content[0] == {
        "token": "G",
        "bytes": [71],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "A", "bytes": [65], "logprob": -1.0},
            {"token": "B", "bytes": [66], "logprob": -2.0},
        ],
    }
    chunks = await stream(llm, logprobs=True)
    told = [one for chunk in chunks for one in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert len(told) == ALL
    assert all(one["top_logprobs"] == [] for one in told)
    half = told[2]  # of ü
    assert half["bytes"] is None


async def test_what_is_asked_for_reaches_the_engine(llm, engine):
    await post(
        llm,
        max_completion_tokens=9,
        min_tokens=2,
        temperature=0,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.5,
        logit_bias={"65": 5},
        stop=["three", "zzz"],
        stop_token_ids=[7],
        ignore_eos=True,
        cache_salt="mine",
    )
    (request,) = engine.requests
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.temperature, sampling.top_p) == (9, 2, 0, 0.5)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (0, 0.1, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
    assert (sampling.logit_bias, sampling.stop, sampling.stop_token_ids) == ({65: 5}, ("three", "zzz"), (7,))
    assert (sampling.ignore_eos, sampling.logprobs) == (True, None)
    assert request.salt == Salts().of("local", "mine")
    assert request.timeout == 600


async def test_the_defaults_are_the_apis(llm, engine):
    await post(llm, temperature=None, n=None, stop=None)
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (1, 1, 200 - PROMPT)


async def test_the_text_ends_before_a_stop_string(llm):
    document = (await post(llm, stop="two")).json()
    assert document["choices"][0]["message"]["content"] == "Grüße! One "
    assert document["choices"][0]["finish_reason"] == "stop"
    assert joined(await stream(llm, stop="two")) == "Grüße! One "


FORMATS = [
    ({"response_format": {"type": "text"}}, None, None),
    ({"response_format": {"type": "json_object"}}, {"type": "object"}, None),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, {"type": "object"}, None),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
        {"type": "array"},
        None,
    ),
    ({"structured_outputs": {"json": {"type": "null"}}}, {"type": "null"}, None),
    ({"structured_outputs": {"json": '{"type": "null"}'}}, {"type": "null"}, None),
    ({"structured_outputs": {"regex": "a+"}}, None, "a+"),
    ({"structured_outputs": {"choice": ["yes", "no."]}}, None, r"yes|no\."),
]


@pytest.mark.parametrize(("asked", "schema", "regex"), FORMATS, ids=[json.dumps(row[0])[:50] for row in FORMATS])
async def test_forms_of_the_answer(llm, engine, asked, schema, regex):
    assert (await post(llm, **asked)).status_code == 200
    sampling = engine.requests[0].sampling
    assert (json.loads(sampling.json_schema) if sampling.json_schema else None) == schema
    assert sampling.regex == regex


async def test_messages_of_every_kind_that_a_template_can_show(llm, engine):
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": [], "name": ""},
        {"role": "user", "content": "d"},
    ]
    assert (await post(llm, messages=messages)).status_code == 200
    assert bytes(engine.requests[0].prompt) == b"system: be brief\nuser: ab\nassistant: c\nuser: d\n"


UNSUPPORTED = {
    "tools": [{"type": "function"}],
    "tool_choice": "auto",
    "functions": [{}],
    "function_call": "auto",
    "audio": {"voice": "x"},
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "high",
    "verbosity": "low",
    "web_search_options": {},
    "store": True,
    "service_tier": "flex",
    "moderation": {},
    "prompt_logprobs": 1,
    "use_beam_search": True,
    "length_penalty": 0.5,
    "chat_template": "x",
    "continue_final_message": True,
    "skip_special_tokens": False,
    "priority": 5,
    "guided_json": {},
    "bad_words": ["x"],
}


@pytest.mark.parametrize("name", UNSUPPORTED)
async def test_what_is_not_supported_is_refused_by_name(llm, engine, name):
    answer = await post(llm, **{name: UNSUPPORTED[name]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, name, "unsupported_parameter")
    assert repr(name) in error["message"]
    assert not engine.requests
    assert (await post(llm, **{name: None})).status_code == 200


async def test_values_that_ask_for_nothing_are_taken(llm):
    asked = {"tools": [], "tool_choice": "none", "store": False, "modalities": ["text"], "service_tier": "auto"}
    assert (await post(llm, **asked, user="x", metadata={"a": "b"}, prompt_cache_key="k")).status_code == 200


USER = {"role": "user", "content": "x"}
BAD = [
    ({"tempperature": 1}, "tempperature", "unknown_parameter"),
    ({"stream_options": {"include_usge": True}, "stream": True}, "stream_options.include_usge", "unknown_parameter"),
    ({"response_format": {"type": "xml"}}, "response_format", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
    ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs", None),
    ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"temperature": "1"}, "temperature", "invalid_value"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"min_p": 1.5}, "min_p", "invalid_value"),
    ({"top_k": -2}, "top_k", "invalid_value"),
    ({"presence_penalty": 3}, "presence_penalty", "invalid_value"),
    ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"257": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
    ({"stop": ""}, "stop", "invalid_value"),
    ({"stop": ["a", ""]}, "stop", "invalid_value"),
    ({"stop": ["a"] * 17}, "stop", "invalid_value"),
    ({"stop_token_ids": [257]}, "stop_token_ids", "invalid_value"),
    ({"seed": 2**63}, "seed", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 129}, "n", "invalid_value"),
    ({"n": True}, "n", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "invalid_value"),
    ({"max_tokens": 3, "min_tokens": 4}, "min_tokens", "invalid_value"),
    ({"max_tokens": 200}, "messages", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "x" * 200}]}, "messages", "context_length_exceeded"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "Hi"}, "messages", "invalid_value"),
    ({"messages": ["Hi"]}, "messages[0]", "invalid_value"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value"),
    ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].role", "unsupported_parameter"),
    ({"messages": [USER | {"name": "Eve"}]}, "messages[0].name", "unsupported_parameter"),
    ({"messages": [USER | {"tool_calls": [{}]}]}, "messages[0].tool_calls", "unsupported_parameter"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
        "unsupported_parameter",
    ),
    ({"messages": [USER, USER]}, "messages", "invalid_value"),
    ({"messages": [USER] * 101}, "messages", "invalid_value"),
    ({"messages": [{"role": "user", "content": "please refuse"}]}, None, "invalid_value"),
]


@pytest.mark.parametrize(("change", "param", "code"), BAD, ids=[str(row[0])[:60] for row in BAD])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_bad_request_is_refused_with_the_parameter_named(llm, engine, change, param, code, streamed):
    answer = await post(llm, **({"stream": True} if streamed and "stream_options" not in change else {}) | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code or "invalid_value")
    assert error["type"] == "invalid_request_error"
    assert not engine.requests


async def test_half_a_character_is_refused(llm):
    body = b'{"model": "script", "messages": [{"role": "user", "content": "\\ud800"}]}'
    answer = await llm.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[0].content")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_full_queue_is_told_before_anything_is_sent(llm, engine, streamed):
    engine.queue_limit = 0
    answer = await post(llm, stream=streamed)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert answer.headers["retry-after"] == "2"


async def test_one_choice_without_room_ends_the_others(llm, engine):
    engine.queue_limit = 2
    assert (await post(llm, n=3)).status_code == 429
    assert engine.running == 0
    assert len(engine.aborted) == 2


@pytest.mark.parametrize("streamed", [False, True])
async def test_no_replica_is_told_with_503(llm, engine, streamed):
    engine.closed = True
    answer = await post(llm, stream=streamed)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert int(answer.headers["retry-after"]) > 0


async def test_an_engine_that_breaks_in_the_middle(llm, engine):
    engine.fail_after = 4
    answer = await post(llm)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")
    *chunks, last = await stream(llm)
    assert joined(chunks) == "Grü"
    assert last["error"]["code"] == "generation_failed"
    assert last["error"]["message"] == "The generation failed: the model failed."
    assert not any(choice["finish_reason"] for chunk in chunks for choice in chunk["choices"])


async def test_a_deadline_ends_what_takes_too_long(engine, embedder, monkeypatch):
    monkeypatch.setattr("idlegrid.api.http.llm_door.GRACE", 0)
    engine.gate.clear()
    settings = Settings.model_validate({"api": {"generation_timeout": 0.05}})
    transport = httpx.ASGITransport(create_app(embedder, settings, EngineBackend(engine, aliases=["script"])))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        answer = await post(client)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert engine.running == 0


async def test_an_unknown_model(llm):
    answer = await post(llm, model="tests/scribt")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "tests/script" in answer.json()["error"]["message"]


async def test_what_nobody_foresaw_is_told_without_details(llm, engine, caplog):
    def broken(messages, **options):
        raise KeyError("a secret of the machine room")

    engine.encode_chat = broken
    answer = await post(llm)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "secret" in caplog.text


async def test_the_list_has_models_of_both_kinds(llm):
    listed = (await llm.get("/v1/models")).json()["data"]
    assert [one["id"] for one in listed] == ["tests/hash-8", "tests/not-loaded-yet", "tests/script"]
    assert (await llm.get("/v1/models/SCRIPT")).json()["id"] == "tests/script"
    assert (await llm.get("/v1/models/nothing")).status_code == 404


async def test_ready_while_one_kind_is(llm, engine):
    engine.closed = True
    assert (await llm.get("/readyz")).status_code == 200


async def test_choices_are_generated_at_the_same_time(llm, engine: ScriptEngine):
    engine.gate.clear()
    asking = asyncio.create_task(post(llm, n=3))
    await engine.until(lambda: engine.running == 3)
    engine.gate.set()
    assert len((await asking).json()["choices"]) == 3
