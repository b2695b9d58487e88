"""Every route × every kind of caller, keys, scopes and rates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hash_embedder import HashEmbedder
from jobs_service import BASE, EMBED, SECRET, WORKER_TOKEN, Service, token, with_settings
from script_engine import ScriptEngine
from starlette.routing import Route

from idlegrid.api.http import create_app
from idlegrid.api.http.auth import ADMIN, JOBS, KEY_FRESH, NODES, KeyRing
from idlegrid.api.http.jobs_door import JobDoor
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.api.http.problems import Problem
from idlegrid.grid.config import Settings
from idlegrid.grid.store import Store

PUBLIC = {"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect"}
"""Written down here once more, on purpose: a route becomes public in two places or not at all."""
WORKERS = "/api/v1/workers/"
ID = "0" * 32


def whole_app(store: Store, **api: object) -> FastAPI:
    """The application with every door that there is."""
    settings = with_settings(api={"auth": True} | api)
    door = JobDoor(store, settings, secret=SECRET)
    return create_app(HashEmbedder(), settings, EngineBackend(ScriptEngine(), aliases=("script",)), door)


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of everything that can be called."""
    found, waiting = [], list(app.routes)
    while waiting:
        route = waiting.pop()
        if hasattr(route, "original_router"):  # FastAPI keeps included routers whole; each path has its prefix already
            waiting += route.original_router.routes
            continue
        assert isinstance(route, (Route, APIRoute)), f"{route!r}: a kind of route that this test doesn't know"
        path = route.path.replace("{job_id}", ID).replace("{worker_id}", "w-1").replace("{key_id}", "k")
        path = path.replace("{model_id:path}", "script").replace("{enrolment_id}", "e")
        path = path.replace("{file_id}", "file-1").replace("{batch_id}", "batch_1")
        assert "{" not in path, path
        found += [(method, path) for method in sorted(route.methods or ())]
    return found


def wanted(path: str) -> set[str]:
    """The scopes that open a path, written down once more."""
    if path.startswith("/api/v1/admin/") or path == "/metrics":
        return {ADMIN}
    return {ADMIN, NODES} if path == "/api/v1/state" else {JOBS}


@pytest.fixture
async def everybody(store: Store):
    """The service and a client of it without a key."""
    app = whole_app(store)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
        yield app, client


def credentials(store: Store) -> dict[str, tuple[dict[str, str], str]]:
    """Kind of caller → its headers, and the code with which it is refused."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    revoked, secret = store.keys.create("revoked", {JOBS, ADMIN, NODES})
    store.keys.revoke(revoked.id)
    expired = store.keys.create("expired", {JOBS, ADMIN, NODES}, expires_at=past)[1]
    return {
        "no key": ({}, "api_key_required"),
        "an empty key": ({"X-API-Key": ""}, "api_key_required"),
        "no key at all": ({"X-API-Key": "' OR 1=1 --"}, "invalid_api_key"),
        "a key nobody made": ({"X-API-Key": f"ig_abcdefgh_{'x' * 43}"}, "invalid_api_key"),
        "a wrong key with a right prefix": ({"X-API-Key": secret[:12] + "y" * 43}, "invalid_api_key"),
        "a revoked key": ({"X-API-Key": secret}, "invalid_api_key"),
        "an expired key": ({"X-API-Key": expired}, "invalid_api_key"),
        "as bearer": ({"Authorization": f"Bearer {secret}"}, "invalid_api_key"),
        "a worker's token": ({"X-API-Key": WORKER_TOKEN, "X-Worker-Token": WORKER_TOKEN}, "invalid_api_key"),
        "only a worker's token": ({"X-Worker-Token": WORKER_TOKEN}, "api_key_required"),
        "only an attempt's token": ({"X-Attempt-Token": token(ID, 1)}, "api_key_required"),
    }


async def test_whatever_is_not_public_needs_a_key(store: Store, everybody):
    app, client = everybody
    doors = [(method, path) for method, path in routes(app) if path not in PUBLIC and not path.startswith(WORKERS)]
    assert len(doors) >= 20
    for caller, (headers, code) in credentials(store).items():
        for method, path in doors:
            answer = await client.request(method, path, headers=headers)
            assert answer.status_code == 401, (caller, method, path, answer.text)
            assert answer.headers["www-authenticate"]
            if method != "HEAD":
                body = answer.json()
                told = body["code"] if path.startswith("/api/") else body["error"]["code"]
                assert told == code, (caller, method, path)


async def test_every_scope_opens_its_routes_and_no_other(store: Store, everybody):
    app, client = everybody
    for scope in (JOBS, ADMIN, NODES):
        headers = {"X-API-Key": store.keys.create(scope, {scope})[1]}
        for method, path in routes(app):
            if path in PUBLIC or path.startswith(WORKERS):
                continue
            answer = await client.request(method, path, headers=headers)
            assert answer.status_code not in (401, 500), (scope, method, path, answer.text)
            assert (answer.status_code == 403) == (scope not in wanted(path)), (scope, method, path, answer.text)


async def test_workers_doors_open_to_workers_only(store: Store, everybody):
    app, client = everybody
    every_scope = store.keys.create("all", {JOBS, ADMIN, NODES})[1]
    past = token(ID, 1, seconds=-1)
    forged = token(ID, 1)[:-4] + "0000"
    other = token("1" * 32, 1)
    callers = [
        {},
        {"X-API-Key": every_scope},
        {"Authorization": f"Bearer {every_scope}"},
        {"X-Worker-Token": "another", "X-Attempt-Token": past},
        {"X-Worker-Token": "é".encode("latin-1"), "X-Attempt-Token": forged},
        {"X-Worker-Token": WORKER_TOKEN.upper(), "X-Attempt-Token": other},
        {"X-Attempt-Token": "v1.x.y.z"},
    ]
    every_door = [(method, path) for method, path in routes(app) if path.startswith(WORKERS)]
    doors = [(method, path) for method, path in every_door if not path.endswith("/config")]  # administrators' too
    assert len(doors) == 9
    for headers in callers:
        for method, path in doors:
            answer = await client.request(method, path, headers=headers, json={"fence": 1, "incarnation": "i"})
            locked = answer.status_code == 429 and answer.json()["code"] == "locked_out"
            assert answer.status_code == 401 or locked, (headers, method, path, answer.text)


async def test_public_routes_need_nothing(everybody):
    app, client = everybody
    assert {path for _, path in routes(app)} >= PUBLIC
    for path in PUBLIC:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/api/v1/nothing", "/v1/nothing", "/", "/api/v1/jobs/", "/api/v1/workers/w/x", "//healthz"]
)
async def test_what_is_not_there_needs_a_key_too(everybody, path):
    _, client = everybody
    assert (await client.get(path)).status_code == 401


async def test_without_a_worker_token_nobody_asks_for_jobs(store: Store):
    transport = httpx.ASGITransport(whole_app(store, worker_token=None))
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
        for headers in ({}, {"X-Worker-Token": ""}, {"X-Worker-Token": WORKER_TOKEN}):
            answer = await client.get("/api/v1/workers/w/next-job?wait=0&types=llm", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "pull_closed")


async def test_both_headers_hold_keys(store: Store, everybody):
    _, client = everybody
    secret = store.keys.create("x", {JOBS})[1]
    for headers in (
        {"X-API-Key": secret},
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": f"bearer {secret}"},
    ):
        assert (await client.get("/api/v1/jobs", headers=headers)).status_code == 200
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
    assert (await client.get("/v1/models", headers={"Authorization": f"Basic {secret}"})).status_code == 401


def test_a_service_that_wants_keys_needs_a_store():
    """Fails closed: off loopback there is no service without keys."""
    for api in ({"host": "0.0.0.0"}, {"auth": True}):
        with pytest.raises(ValueError, match=r"api\.auth"):
            create_app(HashEmbedder(), Settings.model_validate({"api": api}))


async def test_a_rate_is_kept_for_each_key(store: Store):
    service = Service(store, with_settings(api={"auth": True}, jobs={"requests_per_minute": 3}))
    async with service.client() as client:
        mine, other = service.key(), service.key(requests_per_minute=1000)
        codes = [(await client.get("/api/v1/jobs", headers={"X-API-Key": mine})).status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        refused = await client.post("/api/v1/jobs", json=EMBED, headers={"X-API-Key": mine})
        assert refused.json()["code"] == "rate_limited"
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        openai = await client.get("/v1/models", headers={"X-API-Key": mine})
        assert (openai.status_code, openai.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        for _ in range(10):
            assert (await client.get("/api/v1/jobs", headers={"X-API-Key": other})).status_code == 200


async def test_a_key_is_believed_for_a_second_and_no_longer(store: Store):
    now, looked = 100.0, []

    async def find(secret: str):
        looked.append(secret)
        return store.keys.find(secret)

    ring = KeyRing(find, 100, clock=lambda: now)
    key, secret = store.keys.create("x", {JOBS})
    for _ in range(5):
        assert (await ring.principal(secret)).key_id == key.id
    assert len(looked) == 1
    store.keys.revoke(key.id)
    now += KEY_FRESH + 0.01
    for _ in range(2):
        with pytest.raises(Problem, match="revoked"):
            await ring.principal(secret)
    assert len(looked) == 3, "what is refused is never remembered"


async def test_a_store_that_is_away_lets_nobody_in(tmp_path, store: Store):
    service = Service(store, with_settings(api={"auth": True}, database={"timeout": 0.2}))
    secret = service.key()
    async with service.client() as client:
        store.close()
        for file in tmp_path.glob("grid.db*"):
            file.unlink()
        (tmp_path / "grid.db").mkdir()
        for path, code in (("/api/v1/jobs", None), ("/v1/models", "error")):
            answer = await client.get(path, headers={"X-API-Key": secret})
            body = answer.json()[code] if code else answer.json()
            assert (answer.status_code, body["code"]) == (503, "store_unavailable")
            assert answer.headers["retry-after"]
