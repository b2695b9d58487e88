"""The service with its doors for files and batches, over a real store and a real folder, and models without time."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from hash_embedder import HashEmbedder
from jobs_service import BASE, SECRET, with_settings
from script_engine import ScriptEngine

from idlegrid.api.batches import runner as running
from idlegrid.api.batches.embedding_lines import EmbeddingLines
from idlegrid.api.batches.endpoints import Endpoint
from idlegrid.api.batches.folder import FileFolder
from idlegrid.api.batches.llm_lines import llm_endpoints
from idlegrid.api.batches.runner import BatchRunner
from idlegrid.api.http import create_app
from idlegrid.api.http.jobs_door import JobDoor
from idlegrid.api.http.llm_door import LlmDoor
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.api.http.metrics import LlmMetrics
from idlegrid.api.http.models import Models

PATIENCE = 30.0
EMBEDDINGS, CHAT, COMPLETIONS = "/v1/embeddings", "/v1/chat/completions", "/v1/completions"


class Scene:
    """A service, a client of it, and what works on its batches."""

    def __init__(self, store, folder, embedder, engine, settings):
        backend = EngineBackend(engine, aliases=("script",))
        self.store, self.folder, self.embedder, self.engine = store, FileFolder(folder), embedder, engine
        self.app = create_app(embedder, settings, backend, JobDoor(store, settings, secret=SECRET))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=BASE)
        door = LlmDoor(backend, Models(backend), settings.api, LlmMetrics())
        embeddings = EmbeddingLines(embedder, Models(embedder), settings.api)
        embeddings.part_lines = 10
        self.endpoints: dict[str, Endpoint] = {EMBEDDINGS: embeddings, **llm_endpoints(door)}
        self.folder.open()

    def runner(self, **options):
        return BatchRunner(self.store, self.folder, self.endpoints, **{"most_lines": 1000, "lives": 3600.0, **options})

    async def batch(self, endpoint, bodies, **more):
        lines = [{"custom_id": f"r{n}", "method": "POST", "url": endpoint, "body": one} for n, one in enumerate(bodies)]
        return await self.batch_of("".join(json.dumps(line) + "\n" for line in lines), endpoint, **more)

    async def batch_of(self, text, endpoint=EMBEDDINGS, **more):
        sent = await self.client.post("/v1/files", files={"file": ("in.jsonl", text)}, data={"purpose": "batch"})
        asked = {"input_file_id": sent.json()["id"], "endpoint": endpoint, "completion_window": "24h", **more}
        answer = await self.client.post("/v1/batches", json=asked)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def get(self, batch):
        return (await self.client.get(f"/v1/batches/{batch['id']}")).json()

    async def until(self, batch, *statuses):
        return await eventually(lambda: self.get(batch), lambda now: now["status"] in statuses)

    async def content(self, file_id):
        if file_id is None:
            return []
        text = (await self.client.get(f"/v1/files/{file_id}/content")).text
        return [json.loads(line) for line in text.splitlines()]


async def eventually(ask, good):
    """What `ask` says, once it is good."""
    async with asyncio.timeout(PATIENCE):
        while not good(now := await ask()):  # noqa: ASYNC110 - another process may be asked for
            await asyncio.sleep(0.02)
    return now


async def eventually_true(fact):
    async def ask():
        return fact()

    await eventually(ask, bool)


def texts(number):
    return [{"model": "hash", "input": f"text {n}"} for n in range(number)]


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(running, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(running, "HOLD_EVERY", 0.05)
    for module in ("endpoints", "embedding_lines"):
        monkeypatch.setattr(f"idlegrid.api.batches.{module}.FIRST_PAUSE", 0.02)


@pytest.fixture
async def scene(store, tmp_path):
    settings = with_settings(jobs={"files_folder": str(tmp_path / "files")})
    scene = Scene(store, tmp_path / "files", HashEmbedder(), ScriptEngine(), settings)
    yield scene
    await scene.client.aclose()


@pytest.fixture
async def works(scene):
    runner = scene.runner()
    runner.start()
    yield scene
    await runner.close()
