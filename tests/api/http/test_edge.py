"""What holds for every answer."""

from __future__ import annotations

import json

import httpx
import pytest

from idlegrid.api.http.edge import request_id_from

REQUESTS = [
    ("GET", "/healthz", 200),
    ("GET", "/readyz", 200),
    ("GET", "/v1/models", 200),
    ("GET", "/v1/nothing", 404),
    ("GET", "/v1/models/", 404),
    ("GET", "/v1/models/no/such-model", 404),
    ("DELETE", "/v1/models", 405),
    ("GET", "/v1/embeddings", 405),
    ("POST", "/v1/embeddings", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), REQUESTS)
async def test_every_answer_has_an_id_and_errors_have_one_shape(client, method, path, status):
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    if status >= 400:
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_the_clients_id_is_echoed_if_it_is_harmless(client):
    answer = await client.get("/healthz", headers={"x-request-id": "trace-42:a.b_c"})
    assert answer.headers["x-request-id"] == "trace-42:a.b_c"


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "a\nb", "é", "<script>"])
def test_any_other_id_is_replaced(given):
    assert request_id_from(given).startswith("req_")
    assert request_id_from(given) != request_id_from(given)


async def test_a_defect_is_a_500_that_tells_nothing(client, caplog):
    body = {"model": "hash", "input": "crash"}
    answer = await client.post("/v1/embeddings", json=body, headers={"x-request-id": "find-me"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "find-me")
    assert answer.json()["error"]["type"] == "server_error"
    assert "machine room" not in answer.text
    assert "find-me" in caplog.text, "the log has it under the same id"


@pytest.mark.parametrize("says_its_length", [True, False])
async def test_a_body_that_is_too_large_is_413(client, says_its_length):
    body = json.dumps({"model": "hash", "input": "x" * 20_000}).encode()

    async def in_pieces():
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    headers = {"content-type": "application/json"}
    content = body if says_its_length else in_pieces()
    answer = await client.post("/v1/embeddings", content=content, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (b"{", "application/json", "invalid_json"),
        (b"[]", "application/json", "invalid_body"),
        (b"\xff", "application/json", None),
        (b"[" * 9000, "application/json", None),
        (b'{"model": "hash", "input": "x"}', "text/plain", "invalid_body"),
    ],
    ids=["torn", "a list", "not UTF-8", "deep", "without the content type"],
)
async def test_a_body_that_is_no_json_object_is_400(client, content, content_type, code):
    answer = await client.post("/v1/embeddings", content=content, headers={"content-type": content_type})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code or code is None


async def test_a_foreign_host_name_is_refused_on_loopback(client):
    """DNS rebinding: a web page's own name that points at this machine."""
    answer = await client.get("/v1/models", headers={"host": "evil.example:8000"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (421, "invalid_request_error")
    for known in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert (await client.get("/v1/models", headers={"host": known})).status_code == 200


async def test_the_schema_names_no_release(client: httpx.AsyncClient):
    schema = (await client.get("/openapi.json")).json()
    assert schema["info"]["version"] == "1"
    assert "/v1/embeddings" in schema["paths"]
