"""Every route of the OpenAPI document × every kind of caller (A4): it opens to whom it should, and to nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from brush import Brush, Eye
from donors_service import Donor, join
from ears import Ears
from hash_embedder import HashEmbedder
from jobs_service import BASE, EMBED, SECRET, WORKER_TOKEN, Patience, claim, token, with_settings
from script_engine import ScriptEngine

from idlegrid.api.batches.folder import FileFolder
from idlegrid.api.http import create_app
from idlegrid.api.http.jobs_door import JobDoor
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid.store import Store

pytestmark = pytest.mark.slow

PUBLIC = {"/healthz", "/readyz"}
WORKERS, ADMINS = "/api/v1/workers/{worker_id}/", ("/api/v1/admin/", "/metrics")
DOORS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/audio/", "/v1/images/"),
    *("/v1/files", "/v1/batches", "/api/v1/jobs", "/api/v1/admin/deployments", f"{WORKERS}announce"),
)
"""Each must be among the routes that are tried."""
Send = Callable[[str, str], Awaitable[httpx.Response]]


@dataclass
class Scene:
    """A service with every door, which wants keys; two donors; a job of one client that the first donor works on, and a
    file and a batch of that client.
    """

    client: httpx.AsyncClient
    store: Store
    own: Donor
    other: Donor
    job_id: str
    attempt: str
    file_id: str
    batch_id: str

    def fill(self, path: str) -> str:
        values = {"{worker_id}": self.own.id, "{job_id}": self.job_id, "{key_id}": "k", "{enrolment_id}": "e"}
        values |= {"{file_id}": self.file_id, "{batch_id}": self.batch_id}
        for name, value in {**values, "{model_id}": "script"}.items():
            path = path.replace(name, value)
        assert "{" not in path, f"{path}: this test doesn't know what to fill in"
        return path

    async def keyed(self, method: str, path: str, key: str | None, **headers: str) -> httpx.Response:
        said = headers | ({"X-API-Key": key} if key else {})
        return await self.client.request(method.upper(), path, headers=said)

    async def by(self, donor: Donor, method: str, path: str, *, sign: bool = True, **more: str) -> httpx.Response:
        headers = donor.signed(method.upper(), path) if sign else {"X-Worker-Token": donor.held.token}
        return await self.client.request(method.upper(), path, headers=headers | more)


@pytest.fixture
async def scene(store: Store, tmp_path: Path):
    folder = tmp_path / "files"
    FileFolder(folder).open()
    settings = with_settings(api={"auth": True}, jobs={"files_folder": str(folder)})
    door = JobDoor(store, settings, secret=SECRET, patience=Patience(sync=0.01, pull=0.01, look=0.01, stream=0.02))
    llm = EngineBackend(ScriptEngine(), aliases=("script",))
    app = create_app(HashEmbedder(), settings, llm, door, speech=Ears(), painter=Brush(), viewer=Eye())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
        own, other = await join(client, store, tmp_path), await join(client, store, tmp_path)
        key = store.keys.create("a", {"jobs"}, client_id="a")[1]
        answer = await client.post("/api/v1/jobs", json=EMBED, headers={"X-API-Key": key})
        claimed = claim(store, answer.json()["job_id"])
        upload = {"files": {"file": ("in.jsonl", b"{}")}, "data": {"purpose": "batch"}}
        file = (await client.post("/v1/files", headers={"X-API-Key": key}, **upload)).json()["id"]
        wanted = {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"}
        batch = (await client.post("/v1/batches", headers={"X-API-Key": key}, json=wanted)).json()["id"]
        yield Scene(client, store, own, other, claimed.job.id, token(claimed.job.id, claimed.fence), file, batch)


def callers(scene: Scene) -> dict[str, Send]:
    """Kind of caller → how it asks."""
    keys = {
        name: scene.store.keys.create(name, scopes, client_id=name[0], requests_per_minute=10_000)[1]
        for name, scopes in {
            "client a": {"jobs"},
            "b, another client": {"jobs"},
            "nodes": {"nodes"},
            "an admin": {"admin"},
            "revoked key": {"jobs", "admin", "nodes"},
        }.items()
    }
    scene.store.keys.revoke(keys["revoked key"].split("_")[1])
    attempt = {"X-Attempt-Token": scene.attempt}
    return {
        "nobody": lambda method, path: scene.keyed(method, path, None),
        **{
            name: (lambda method, path, key=key: scene.keyed(method, path, key))  # type: ignore[misc]
            for name, key in keys.items()
        },
        "the grid's worker token": lambda m, p: scene.keyed(m, p, None, **{"X-Worker-Token": WORKER_TOKEN}),
        "an attempt's token alone": lambda m, p: scene.keyed(m, p, None, **attempt),
        "the worker": lambda m, p: scene.by(scene.own, m, p, **attempt),
        "the worker, unsigned": lambda m, p: scene.by(scene.own, m, p, sign=False, **attempt),
        "another worker": lambda m, p: scene.by(scene.other, m, p, **attempt),
    }


def opens(path: str, method: str) -> set[str]:
    """Who is let in at a path, written down once more."""
    everybody = {"client a", "b, another client"}
    if path.startswith("/api/v1/workers/"):
        if path.endswith("/register"):
            return set()
        if path.endswith("/config"):
            return {"the worker", "an admin"} | ({"the worker, unsigned"} if method == "get" else set())
        return {"the worker"}
    if path.startswith(ADMINS):
        return {"an admin"}
    return {"an admin", "nodes"} if path == "/api/v1/state" else everybody


def expected(answer: httpx.Response) -> bool:
    """Whether the caller was let in."""
    return answer.status_code not in (401, 403) and "locked_out" not in answer.text


async def test_every_route_opens_to_whom_it_should(scene: Scene):
    document = (await scene.client.get("/openapi.json")).json()["paths"]
    routes = [(method, path) for path, methods in document.items() for method in methods if path not in PUBLIC]
    assert len(routes) >= 60
    for door in DOORS:
        assert any(path.startswith(door) for _, path in routes), door
    let_in: set[str] = set()
    for caller, send in callers(scene).items():
        for method, path in routes:
            scene.store.donors.unlock(scene.own.id, _by())
            answer = await send(method, scene.fill(path))
            assert answer.status_code < 500 or answer.status_code in (503, 504), (caller, method, path, answer.text)
            wanted = caller in opens(path, method)
            assert expected(answer) == wanted, (caller, method, path, answer.status_code, answer.text)
            if wanted:
                let_in.add(path)
    closed = {path for _, path in routes} - let_in
    assert closed == {"/api/v1/workers/register"}, "the control: each of the others opened to somebody"


async def test_expired_and_revoked_tokens_open_nothing(scene: Scene):
    document = (await scene.client.get("/openapi.json")).json()["paths"]
    routes = [(m, p) for p, methods in document.items() for m in methods if p.startswith(WORKERS)]
    expire = "UPDATE credentials SET expires_at = 1 WHERE kind = 'access'"
    with scene.store._database.write() as session:
        session.run(expire, {})
    for method, path in routes:
        answer = await scene.by(scene.own, method, scene.fill(path), **{"X-Attempt-Token": scene.attempt})
        renews = path.endswith("refresh-token")
        assert (answer.status_code in (401, 429)) is not renews, (method, path, answer.text)
    scene.store.credentials.revoke(scene.own.id, _by())
    for method, path in routes:
        answer = await scene.by(scene.own, method, scene.fill(path), **{"X-Attempt-Token": scene.attempt})
        assert answer.status_code in (401, 429), (method, path, answer.text)


async def test_the_jobs_of_another_client_are_not_there(scene: Scene):
    """API1: for every route with a job's id."""
    document = (await scene.client.get("/openapi.json")).json()["paths"]
    routes = [(m, p) for p, methods in document.items() for m in methods if p.startswith("/api/v1/jobs/{job_id}")]
    assert len(routes) >= 4
    strangers = scene.store.keys.create("b", {"jobs"}, client_id="b")[1]
    owners = scene.store.keys.create("a", {"jobs"}, client_id="a")[1]
    for method, path in routes:
        answer = await scene.keyed(method, scene.fill(path), strangers)
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found"), (method, path)
    for method, path in sorted(routes):  # "delete" first, and the job is still there: it is only cancelled
        assert (await scene.keyed(method, scene.fill(path), owners)).status_code != 404, (method, path)


@pytest.mark.parametrize("name", ["file_id", "batch_id"])
async def test_files_and_batches_of_another_client_are_not_there(scene: Scene, name: str):
    document = (await scene.client.get("/openapi.json")).json()["paths"]
    routes = [(m, p) for p, methods in document.items() for m in methods if f"{{{name}}}" in p]
    assert len(routes) >= 2
    strangers = scene.store.keys.create("b", {"jobs"}, client_id="b")[1]
    owners = scene.store.keys.create("a", {"jobs"}, client_id="a")[1]
    for method, path in routes:
        answer = await scene.keyed(method, scene.fill(path), strangers)
        assert (answer.status_code, answer.json()["error"]["code"][-9:]) == (404, "not_found"), (method, path)
    for method, path in sorted(routes, key=lambda route: route[0] == "delete"):
        assert (await scene.keyed(method, scene.fill(path), owners)).status_code == 200, (method, path)


async def test_clients_are_told_nothing_that_opens_a_door(scene: Scene):
    """API3: no token, digest, secret or address of a worker in what a client reads."""
    key = scene.store.keys.create("a", {"jobs"}, client_id="a")[1]
    held = scene.own.held
    for path in (f"/api/v1/jobs/{scene.job_id}", "/api/v1/jobs", f"/api/v1/jobs/{scene.job_id}/why", "/api/v1/regions"):
        text = (await scene.keyed("get", path, key)).text
        for secret in (held.token, held.refresh_token, held.signing_secret, scene.attempt, "sha256", "digest"):
            assert secret not in text, path
    admin = scene.store.keys.create("admin", {"admin"})[1]
    listed = (await scene.keyed("get", "/api/v1/admin/workers", admin)).text
    assert scene.own.id in listed
    for secret in (held.token, held.refresh_token, held.signing_secret):
        assert secret not in listed


def _by() -> Any:
    from idlegrid.grid.store import By

    return By("tests")
