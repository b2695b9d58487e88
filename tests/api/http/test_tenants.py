"""A15: no client finds what another's prompts left in the prefix cache, whichever door they took. Counted, not timed.

One engine serves everybody here: the doors of OpenAI's API, batches, durable jobs and tasks of Dask.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import httpx
import pytest
from batches_service import eventually, hasty  # noqa: F401 - a fixture
from hash_embedder import HashEmbedder
from jobs_service import BASE, SECRET, with_settings

from idlegrid.actors.llm.request import Sampling
from idlegrid.actors.llm.resident import lend, take_back
from idlegrid.actors.llm.tasks import answer
from idlegrid.actors.serving.engines import EngineSpec, make_engine
from idlegrid.api.http import create_app
from idlegrid.api.http.jobs_door import JobDoor
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid.job_types import RunContext
from idlegrid.grid.tenants import of_this_user
from idlegrid.pipelines.llm_job import JOB_TYPE

pytestmark = pytest.mark.slow

SECRETS = "the quick brown fox jumps over the lazy dog " * 4


@dataclass
class Grid:
    """A service with keys, and the engine behind it."""

    app: object
    engine: object
    door: JobDoor
    keys: dict[str, str]
    model: str
    asked: int = 0

    def client(self, who: str) -> httpx.AsyncClient:
        headers = {"X-API-Key": self.keys[who]}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=BASE, headers=headers)

    async def found(self, who: str, prompt: str, **more) -> int:
        """Tokens of the prompt that this client finds in the cache."""
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, "temperature": 0} | more
        async with self.client(who) as client:
            answered = await client.post("/v1/completions", json=body)
        assert answered.status_code == 200, answered.text
        return answered.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


@asynccontextmanager
async def grid(store, language_model, folder, **api):
    settings = with_settings(api={"auth": True} | api, jobs={"files_folder": str(folder / "files")})
    spec = EngineSpec(model=str(language_model.folder), dtype="float32", device="cpu")
    engine = make_engine(spec)
    await engine.start()
    lend(spec, engine)
    door = JobDoor(store, settings, secret=SECRET)
    app = create_app(HashEmbedder(), settings, EngineBackend(engine, aliases=("tiny",)), door)
    keys = {who: store.keys.create(who, {"jobs"}, client_id=who)[1] for who in ("ann", "bob")}
    try:
        async with app.router.lifespan_context(app):
            yield Grid(app, engine, door, keys, spec.model)
    finally:
        take_back(engine)
        await engine.close()


async def by_completions(grid, who, prompt):
    await grid.found(who, prompt)


async def by_a_batch(grid, who, prompt):
    body = f'{{"model": "tiny", "prompt": "{prompt}", "max_tokens": 1}}'
    line = f'{{"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {body}}}\n'
    async with grid.client(who) as client:
        sent = await client.post("/v1/files", files={"file": ("in.jsonl", line)}, data={"purpose": "batch"})
        asked = {"input_file_id": sent.json()["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
        made = (await client.post("/v1/batches", json=asked)).json()

        async def now():
            return (await client.get(f"/v1/batches/{made['id']}")).json()

        done = await eventually(now, lambda batch: batch["status"] in ("completed", "failed", "expired"))
        assert done["request_counts"]["completed"] == 1


async def by_a_durable_job(grid, who, prompt):
    """What a worker does with an attempt, with the salt that the service gives it."""
    params = JOB_TYPE.Params(model=grid.model, prompt=prompt, max_tokens=1)
    context = RunContext(salt=grid.door.salts.of(who))
    await asyncio.to_thread(JOB_TYPE.run, params, context)


DOORS = {"completions": by_completions, "batch": by_a_batch, "job": by_a_durable_job}


async def test_no_client_finds_what_another_left(store, language_model, tmp_path):
    async with grid(store, language_model, tmp_path) as here:
        for name, enter in DOORS.items():
            # a durable job's prompt is a question, which begins with the template's own token
            text = f"{name}: {SECRETS}"
            seen = f"<|user|>{text}<|end|><|assistant|>" if name == "job" else text
            await enter(here, "ann", text)
            assert await here.found("bob", seen) == 0, name
            assert await here.found("ann", seen) > 0, f"{name}: the client's own prompts share"
            assert await here.found("ann", seen, cache_salt="apart") == 0, name


async def test_chat_keeps_clients_apart(store, language_model, tmp_path):
    async with grid(store, language_model, tmp_path) as here:
        body = {"model": "tiny", "messages": [{"role": "user", "content": SECRETS}], "max_tokens": 1}
        found = []
        for who in ("ann", "bob", "ann"):
            async with here.client(who) as client:
                usage = (await client.post("/v1/chat/completions", json=body)).json()["usage"]
            found.append(usage["prompt_tokens_details"]["cached_tokens"])
        assert found[:2] == [0, 0]
        assert found[2] > 0


async def test_tasks_of_dask_are_apart_from_the_services_clients(store, language_model, tmp_path):
    async with grid(store, language_model, tmp_path) as here:
        ask = partial(answer, here.model, SECRETS, Sampling(max_tokens=1), raw=True)
        assert (await asyncio.to_thread(ask, salt=of_this_user())).cached_tokens == 0
        assert await here.found("ann", SECRETS) == 0
        assert (await asyncio.to_thread(ask, salt="another user")).cached_tokens == 0
        assert (await asyncio.to_thread(ask, salt=of_this_user())).cached_tokens > 0


async def test_control_where_the_operator_lets_all_share_they_find_it(store, language_model, tmp_path):
    async with grid(store, language_model, tmp_path, share_prefixes=True) as here:
        for name, enter in DOORS.items():
            text = f"{name}: {SECRETS}"
            seen = f"<|user|>{text}<|end|><|assistant|>" if name == "job" else text
            await enter(here, "ann", text)
            assert await here.found("bob", seen) > 0, name
        assert (
            await asyncio.to_thread(answer, here.model, SECRETS, Sampling(max_tokens=1), raw=True)
        ).cached_tokens == 0
        assert await here.found("ann", SECRETS) > 0
