from __future__ import annotations

import asyncio
import base64

import httpx
import numpy as np
import pytest
import uvicorn

from idlegrid.api.http import create_app
from idlegrid.api.http.embedder import Readiness
from idlegrid.grid.config import Settings

HASH = "tests/hash-8"


async def post(client: httpx.AsyncClient, input, **more) -> httpx.Response:  # noqa: A002
    return await client.post("/v1/embeddings", json={"model": HASH, "input": input} | more)


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("one two", ["one two"]),
        (["one", "two three"], ["one", "two three"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
    ids=["string", "strings", "tokens", "lists of tokens"],
)
async def test_every_form_of_input(client, embedder, value, inputs):
    answer = await post(client, value)
    assert answer.status_code == 200
    document = answer.json()
    assert document.keys() == {"object", "data", "model", "usage"}
    assert (document["object"], document["model"]) == ("list", HASH)
    tokens = sum(embedder.count(one) for one in inputs)
    assert document["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    for index, (row, one) in enumerate(zip(document["data"], inputs, strict=True)):
        assert (row["object"], row["index"]) == ("embedding", index)
        assert np.array_equal(np.float32(row["embedding"]), embedder.vector(one))


async def test_base64_holds_the_same_values(client):
    plain = (await post(client, "text", encoding_format="float")).json()["data"][0]["embedding"]
    coded = (await post(client, "text", encoding_format="base64")).json()["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(coded), "<f4"), np.float32(plain))


async def test_dimensions_keep_the_first_values_at_length_one(client, embedder):
    row = np.float32((await post(client, "text", dimensions=3)).json()["data"][0]["embedding"])
    whole = embedder.vector("text")[:3]
    assert row == pytest.approx(whole / np.linalg.norm(whole))


async def test_a_model_can_be_asked_for_by_its_alias(client):
    answer = await client.post("/v1/embeddings", json={"model": "HASH", "input": "x", "user": "somebody"})
    assert answer.json()["model"] == HASH


BAD = [
    ({"input": ""}, "input", "invalid_value"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": ["good", ""]}, "input", "invalid_value"),
    ({"input": [[1], []]}, "input", "invalid_value"),
    ({"input": ["text", [1]]}, "input", "invalid_value"),
    ({"input": [True]}, "input", "invalid_value"),
    ({"input": [1.0, 2]}, "input", "invalid_value"),
    ({"input": [1, True]}, "input", "invalid_value"),
    ({"input": [-1]}, "input", "invalid_value"),
    ({"input": [1000]}, "input", "invalid_value"),
    ({"input": [2**70]}, "input", "invalid_value"),
    ({"input": {"text": "x"}}, "input", "invalid_value"),
    ({"input": None}, "input", "invalid_value"),
    ({"input": ["x"] * 101}, "input", "invalid_value"),
    ({"input": list(range(33))}, "input", "context_length_exceeded"),
    ({"input": "long long text"}, "input", "invalid_input"),
    ({"input": "x", "dimensions": 0}, "dimensions", "invalid_value"),
    ({"input": "x", "dimensions": 9}, "dimensions", "invalid_value"),
    ({"input": "x", "dimensions": "3"}, "dimensions", "invalid_value"),
    ({"input": "x", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
    ({"input": "x", "model": 5}, "model", "invalid_value"),
    ({"input": "x", "dimension": 3}, "dimension", "unknown_parameter"),
    ({}, "input", "missing_required_parameter"),
]


@pytest.mark.parametrize(("change", "param", "code"), BAD, ids=[str(row[0])[:40] for row in BAD])
async def test_a_bad_request_is_refused_with_the_parameter_named(client, embedder, change, param, code):
    answer = await client.post("/v1/embeddings", json={"model": HASH} | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert not embedder.calls or code == "invalid_input"


async def test_what_is_no_unicode_is_refused(client):
    headers = {"content-type": "application/json"}
    answer = await client.post("/v1/embeddings", content=b'{"model":"hash","input":"\\ud800"}', headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")
    answer = await client.post("/v1/embeddings", content=b'{"model":"\\ud800","input":"x"}', headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")
    answer = await client.post("/v1/embeddings", content=b'{"\\ud800":1}', headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_parameter")


async def test_a_bad_input_is_told_by_its_number_in_the_request(client):
    answer = await post(client, ["good"] * 50 + ["long"] + ["good"] * 5)
    assert answer.status_code == 400
    assert "entry 50: This model's maximum context length" in answer.json()["error"]["message"]


async def test_a_mistyped_parameter_gets_a_suggestion(client):
    message = (await post(client, "x", dimension=3)).json()["error"]["message"]
    assert message == "Unknown parameter: 'dimension'. Did you mean 'dimensions'?"


async def test_dimensions_of_a_model_that_is_not_loaded_yet_are_checked_on_its_answer(client):
    body = {"model": "tests/not-loaded-yet", "input": "x", "dimensions": 9}
    answer = await client.post("/v1/embeddings", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "dimensions")


async def test_an_unknown_model_is_not_found(client):
    answer = await client.post("/v1/embeddings", json={"model": "tests/hash-88", "input": "x"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "Did you mean 'tests/hash-8'?" in error["message"]


async def test_texts_of_clients_are_in_no_error(client):
    for body in ({"input": ["my secret", 5]}, {"input": "my secret", "user": 5}, {"input": {"my secret": 1}}):
        answer = await client.post("/v1/embeddings", json={"model": HASH} | body)
        assert answer.status_code == 400
        assert "my secret" not in answer.text


async def test_without_a_worker_the_client_is_told_when_to_come_back(client, embedder):
    embedder.ready_answer = Readiness(False, "every worker is outside its working hours")
    answer = await post(client, "x")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "every worker is outside its working hours" in answer.json()["error"]["message"]
    assert not embedder.calls


async def test_a_full_queue_is_429_with_retry_after(embedder):
    settings = Settings.model_validate(
        {"api": {"max_queue": 1, "max_batches_in_flight": 1}, "inference": {"batch": {"max_batch_size": 1}}}
    )
    transport = httpx.ASGITransport(create_app(embedder, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        embedder.gate.clear()
        first = asyncio.create_task(post(client, "computes"))
        await embedder.wait_for_calls(1)
        others = [asyncio.create_task(post(client, "waits")) for _ in range(2)]
        done, pending = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        (refused,) = done
        assert refused.result().status_code == 429
        assert int(refused.result().headers["retry-after"]) >= 1
        assert refused.result().json()["error"]["code"] == "rate_limit_exceeded"
        embedder.gate.set()
        assert [one.status_code for one in await asyncio.gather(first, *pending)] == [200, 200]


async def test_a_late_answer_is_504(embedder):
    embedder.gate.clear()
    settings = Settings.model_validate({"api": {"request_timeout": 0.01}})
    transport = httpx.ASGITransport(create_app(embedder, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await post(client, "x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


async def test_a_client_that_leaves_has_its_work_cancelled(embedder, settings):
    """Speaks ASGI itself: the server's word that the client left is a message of that protocol."""
    embedder.gate.clear()
    app = create_app(embedder, settings)
    messages: asyncio.Queue = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b'{"model": "hash", "input": "x"}', "more_body": False})
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "method": "POST", "path": "/v1/embeddings", "raw_path": b"/v1/embeddings", "query_string": b"",
        "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip

    async def send(message) -> None:
        pass

    call = asyncio.create_task(app(scope, messages.get, send))
    await embedder.wait_for_calls(1)
    messages.put_nowait({"type": "http.disconnect"})
    async with asyncio.timeout(5):
        await call
    assert embedder.cancelled == 1


async def test_a_closed_connection_cancels_the_work_on_a_real_server(embedder, settings):
    embedder.gate.clear()
    server = uvicorn.Server(uvicorn.Config(create_app(embedder, settings), port=0, log_level="warning", ws="none"))
    socket = server.config.bind_socket()
    socket.listen()  # from here on the kernel takes connections, whenever the server is up
    serving = asyncio.create_task(server.serve(sockets=[socket]))
    host, port = socket.getsockname()
    body = b'{"model": "hash", "input": "x"}'
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    _, writer = await asyncio.open_connection(host, port)
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await embedder.wait_for_calls(1)
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        await embedder.given_up.wait()
        server.should_exit = True
        await serving
    socket.close()


async def test_requests_that_arrive_together_share_a_batch(client, embedder):
    embedder.gate.clear()
    first = asyncio.create_task(post(client, "first"))
    await embedder.wait_for_calls(1)
    others = [asyncio.create_task(post(client, f"other {index}")) for index in range(32)]
    await embedder.wait_for_calls(2)
    embedder.gate.set()
    answers = await asyncio.gather(first, *others)
    assert {answer.status_code for answer in answers} == {200}
    assert len(embedder.calls) < 33
    for index, answer in enumerate(answers[1:]):
        row = np.float32(answer.json()["data"][0]["embedding"])
        assert np.array_equal(row, embedder.vector(f"other {index}"))
