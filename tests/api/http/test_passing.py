"""Chat that another process serves is passed on to it, with the client's key, and comes back as it is written."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
import pytest
from hash_embedder import HashEmbedder
from jobs_service import BASE, SECRET, with_settings
from script_engine import ScriptEngine
from sse import events

from idlegrid.api.http import create_app
from idlegrid.api.http.jobs_door import JobDoor
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.api.http.passing import Passing
from idlegrid.grid.tenants import Salts

CHAT = "/v1/chat/completions"
ASK = {"model": "script", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}


@dataclass
class There:
    holder: str = "the other"
    place: str | None = "http://127.0.0.1:9001"


@dataclass
class Pair:
    """A process that serves, and one that passes on to it."""

    near: httpx.AsyncClient
    far: httpx.AsyncClient
    engine: ScriptEngine


@pytest.fixture
def other() -> There:
    return There()


@pytest.fixture
async def pair(store, other):
    settings, engine = with_settings(api={"auth": True}), ScriptEngine()

    async def nothing() -> list[str]:
        return ["at home"]

    def door() -> JobDoor:
        return JobDoor(store, settings, secret=SECRET)

    backend = EngineBackend(engine, aliases=("script",))
    far = httpx.ASGITransport(create_app(HashEmbedder(), settings, backend, door()))

    def through(app):
        return Passing(app, elsewhere=lambda: other, here=nothing, timeout=5, transport=far)

    near = httpx.ASGITransport(create_app(HashEmbedder(), settings, EngineBackend(ScriptEngine()), door(), through))
    key = {"X-API-Key": store.keys.create("k", {"jobs"})[1]}
    async with (
        httpx.AsyncClient(transport=near, base_url=BASE, headers=key) as one,
        httpx.AsyncClient(transport=far, base_url=BASE, headers=key) as two,
    ):
        yield Pair(one, two, engine)


async def test_the_answer_is_that_of_the_other(pair):
    there, here = await pair.far.post(CHAT, json=ASK), await pair.near.post(CHAT, json=ASK)
    assert here.status_code == 200, here.text
    assert here.json()["choices"] == there.json()["choices"]
    assert here.headers["content-type"] == there.headers["content-type"]


async def test_a_stream_comes_through(pair):
    async with pair.near.stream("POST", CHAT, json={**ASK, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        chunks = events(await answer.aread())
    assert chunks[-1]["choices"][0]["finish_reason"]


async def test_whose_it_is_comes_through(pair, store):
    """Cached prefixes are each client's own, and the same for a client by both ways."""
    bob = {"X-API-Key": store.keys.create("b", {"jobs"}, client_id="bob")[1]}
    for who in (pair.near, pair.far):
        for key in ({}, bob):
            assert (await who.post(CHAT, json=ASK, headers=key)).status_code == 200
    one, other, again, other_again = [request.salt for request in pair.engine.requests]
    assert (again, other_again) == (one, other)
    assert other == Salts(SECRET).of("bob") != one


async def test_a_refusal_comes_through(pair):
    answer = await pair.near.post(CHAT, json={**ASK, "max_tokens": 0})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_tokens")


async def test_who_may_not_ask_here_asks_nobody(pair):
    answer = await pair.near.post(CHAT, json=ASK, headers={"X-API-Key": "wrong"})
    assert answer.status_code == 401


async def test_what_is_served_here_stays_here(pair):
    answer = await pair.near.post(CHAT, json={**ASK, "model": "At Home"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found"), "of this one's own list"
    for broken in (b"{", b"[]", b'{"model": 3}'):
        answer = await pair.near.post(CHAT, content=broken, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text


async def test_nothing_is_passed_on_twice(pair):
    answer = await pair.near.post(CHAT, json=ASK, headers={"X-Idlegrid-Passed": "somebody"})
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


async def test_who_serves_can_not_be_reached(pair, other):
    other.place = None
    answer = await pair.near.post(CHAT, json=ASK)
    assert answer.status_code == 503
    assert "api.peer_url" in answer.text


async def test_who_serves_does_not_answer():
    async def app(scope, receive, send):
        raise AssertionError("nothing is served here")

    async def nothing():
        return []

    there = There(place="http://127.0.0.1:1")
    passing = Passing(app, elsewhere=lambda: there, here=nothing, timeout=5)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(passing), base_url=BASE) as client:
        answer = await client.post(CHAT, json=ASK)
    assert answer.status_code == 503
    assert "does not answer (ConnectError)" in answer.json()["error"]["message"]
