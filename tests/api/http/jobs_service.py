"""The service with its doors for jobs, over a real store, and workers that speak to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from fastapi import FastAPI
from hash_embedder import HashEmbedder

from idlegrid.api.fetching import Fetched
from idlegrid.api.http import create_app
from idlegrid.api.http.jobs_door import JobDoor, Patience
from idlegrid.api.http.oracle import Oracle
from idlegrid.grid.capability import HEADER, mint
from idlegrid.grid.config import Settings
from idlegrid.grid.jobs import Ask
from idlegrid.grid.store import Claim, Store

SECRET = b"a secret of the tests, 32 bytes!"
WORKER_TOKEN = "a worker's token of the tests"
BASE = "http://127.0.0.1:8000"
EMBED = {"type": "embedding", "params": {"texts": ["a lease", "a fence"]}}
RESULT = {"embeddings": [[0.6, 0.8], [0.8, 0.6]], "dimensions": 2, "usage": {"prompt_tokens": 4, "total_tokens": 4}}


def with_settings(**sections: Mapping[str, Any]) -> Settings:
    api = {"max_body_mb": 0.05, "worker_token": WORKER_TOKEN, "auth": False} | dict(sections.pop("api", {}))
    return Settings.model_validate({"api": api, "fetch": {"max_mb": 0.001}, **sections})


@dataclass
class Service:
    """One process's worth of service."""

    store: Store
    settings: Settings = field(default_factory=with_settings)
    oracle: Oracle | None = None
    patience: Patience = field(default_factory=lambda: Patience(sync=60, pull=2, heartbeat=0.05, look=0.02))
    client_address: str = "127.0.0.1"
    scheduler: str | None = None
    fetcher: Fetched | None = None

    def app(self) -> FastAPI:
        door = JobDoor(
            self.store,
            self.settings,
            secret=SECRET,
            oracle=self.oracle,
            patience=self.patience,
            scheduler=self.scheduler,
            fetcher=self.fetcher,
        )
        return create_app(HashEmbedder(), self.settings, jobs=door)

    @asynccontextmanager
    async def client(self, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app(), client=(self.client_address, 4711))
        headers = {"X-API-Key": key} if key else {}
        async with httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers) as client:
            yield client

    def key(self, *scopes: str, **more: Any) -> str:
        """The secret of a new key."""
        return self.store.keys.create("test", frozenset(scopes or ("jobs",)), **more)[1]


@dataclass
class Worker:
    """A worker that got its job somehow, and speaks to the doors."""

    client: httpx.AsyncClient
    claim: Claim
    id: str = "w-1"
    incarnation: str = "i-1"
    token: str = ""

    def __post_init__(self) -> None:
        self.token = self.token or token(self.claim.job.id, self.claim.fence)

    async def say(self, door: str, **body: Any) -> httpx.Response:
        path = f"/api/v1/workers/{self.id}/jobs/{self.claim.job.id}/{door}"
        words = {"fence": self.claim.fence, "incarnation": self.incarnation} | body
        return await self.client.post(path, json=words, headers={HEADER: self.token})

    async def begin(self) -> httpx.Response:
        return await self.say("progress", begin=True)

    async def complete(self, **body: Any) -> httpx.Response:
        return await self.say("complete", **({"success": True, "result": RESULT, "processing_time": 0.5} | body))

    async def fail(self, code: str = "error", **error: Any) -> httpx.Response:
        return await self.say("complete", success=False, error={"code": code, "message": "it broke"} | error)


def token(job_id: str, fence: int, seconds: float = 3600) -> str:
    return mint(SECRET, job_id, fence, datetime.now(UTC) + timedelta(seconds=seconds))


def claim(store: Store, job_id: str | None = None, lease: float = 30.0) -> Claim:
    """Claim a job as a dispatcher does."""
    (claimed,) = store.jobs.claim(types=["embedding", "llm"], limit=1, lease=lease, holder="tests", only=job_id)
    return claimed


class Says:
    """A scheduler that says what the test wants."""

    def __init__(self, workers: Sequence[Mapping[str, Any]] = (), opinions: Sequence[Mapping[str, Any]] = ()) -> None:
        self.workers, self.opinions = list(workers), list(opinions)
        self.asked: list[Ask] = []

    async def state(self) -> Mapping[str, Any]:
        return {"version": 1, "workers": self.workers}

    async def why(self, key: str) -> Mapping[str, Any]:
        return {"version": 1, "key": key}

    async def explain(self, ask: Ask, key: str) -> Sequence[Mapping[str, Any]]:
        self.asked.append(ask)
        return self.opinions


def hand(id_: str, slots: int = 1, running: int = 0, **facts: Any) -> dict[str, Any]:
    """A row of the scheduler's state."""
    row = {
        "id": id_,
        "name": id_,
        "region": "europe-west",
        "state": "online" if running < slots else "busy",
        "running": running,
        "max_concurrent_jobs": slots,
        "supported_types": ["embedding", "llm"],
    }
    return row | facts
