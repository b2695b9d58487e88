"""Workers that registered with a service under test, and speak to it as an agent does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from jobs_service import BASE

from idlegrid.grid.credentials import Credentials, Signer
from idlegrid.grid.store import By, Store

FACTS = {
    "name": "attic",
    "region": "europe-west",
    "gpu_model": "T4",
    "gpu_memory_gb": 15.0,
    "gpu_count": 1,
    "supported_types": ["embedding", "llm"],
}
BEAT = {"status": "online", "incarnation": "i-1", "config_version": 1}
HERE = By("tests")


@dataclass
class Donor:
    """A registered worker with its credentials on disk."""

    client: httpx.AsyncClient
    file: Path
    clock: Callable[[], float] = time.time

    @property
    def held(self) -> Credentials:
        return Credentials.load(self.file)

    @property
    def id(self) -> str:
        return self.held.worker_id

    @property
    def path(self) -> str:
        return f"/api/v1/workers/{self.id}"

    def signed(self, method: str, path: str, body: bytes = b"") -> dict[str, str]:
        """Headers of a request that this worker signs."""
        return Signer(self.file, clock=self.clock).headers(method, f"{BASE}{path}", body)

    async def say(self, door: str, body: Any = None, method: str = "POST", **headers: str) -> httpx.Response:
        """A signed request; `headers` are sent beside, or instead."""
        content = b"" if body is None else httpx.Request("POST", BASE, json=body).content
        signed = self.signed(method, f"{self.path}/{door}", content) | {"Content-Type": "application/json"}
        return await self.client.request(method, f"{self.path}/{door}", content=content, headers={**signed, **headers})

    async def beat(self, **more: Any) -> httpx.Response:
        return await self.say("heartbeat", BEAT | more)

    async def refresh(self, token: str | None = None) -> httpx.Response:
        return await self.say("refresh-token", {"refresh_token": token or self.held.refresh_token})

    def keep(self, **change: Any) -> None:
        """Write other credentials to disk."""
        replace(self.held, **change).save(self.file)


async def join(client: httpx.AsyncClient, store: Store, folder: Path, **facts: Any) -> Donor:
    """A machine that an administrator invited, and that registered."""
    _, token = store.enrolments.create(3600, "ada", HERE)
    answer = await client.post("/api/v1/workers/register", json=FACTS | facts, headers={"X-Enrolment-Token": token})
    assert answer.status_code == 201, answer.text
    told = answer.json()
    names = ("worker_id", "token", "refresh_token", "signing_secret")
    given = {name: told[name] for name in names}
    file = folder / f"{told['worker_id']}.json"
    ends = datetime.fromisoformat(told["token_expires_at"])
    Credentials(server=BASE, token_expires_at=ends, **given).save(file)
    return Donor(client, file)
