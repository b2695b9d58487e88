"""The HTTP service of the grid as a worker sees it, over the real store, without a network: it can be away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx

from idlegrid.api.http.app import create_app
from idlegrid.api.http.embedder import EmbedAnswer, Input, Readiness, ServedModel
from idlegrid.api.http.jobs_door import JobDoor
from idlegrid.grid import capability
from idlegrid.grid.config import Settings
from idlegrid.grid.store import Claim, NewJob, Store
from idlegrid.pipelines.dispatch.work_order import WorkOrder

SECRET = b"of the tests only, 32 bytes long"
URL = "http://127.0.0.1"


class NoEmbedder:
    """Serves nothing: durable jobs don't need it."""

    async def models(self) -> Sequence[ServedModel]:
        return []

    async def embed(
        self, model_id: str, inputs: Sequence[Input], *, normalize: bool = True, background: bool = False
    ) -> EmbedAnswer:
        raise NotImplementedError

    async def ready(self, model_id: str | None = None) -> Readiness:
        return Readiness(ok=True)


class Service(httpx.BaseTransport):
    """The real application on a loop of its own, as a transport for a plain thread."""

    def __init__(self, store: Store, *, lease: float = 2.0, **jobs: Any) -> None:
        self.store = store
        self.settings = Settings.model_validate({"jobs": {"lease": lease, **jobs}, "api": {"worker_token": "token"}})
        self.away = False
        """Nobody listens."""
        self.asked: list[str] = []
        self._door = JobDoor(store, self.settings, secret=SECRET)
        self._app = httpx.ASGITransport(create_app(NoEmbedder(), self.settings, None, self._door))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("nobody listens", request=request)
        body = request.read()
        self.asked.append(request.url.path.rpartition("/")[2])

        async def ask() -> httpx.Response:
            answer = await self._app.handle_async_request(
                httpx.Request(request.method, request.url, headers=request.headers, content=body)
            )
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(60)

    def close(self) -> None:
        """The client that it belongs to was closed; others may go on."""

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._door.close()

    def claimed(self, type_: str, params: dict[str, Any] | None = None, **fields: Any) -> tuple[Claim, WorkOrder]:
        """A new job, claimed as a dispatcher does."""
        job = self.store.jobs.accept(NewJob(type=type_, params=params or {}, **fields)).job
        return self.claim(job.id)

    def claim(self, job_id: str) -> tuple[Claim, WorkOrder]:
        job = self.store.jobs.get(job_id)
        assert job is not None
        lease = self.settings.jobs.lease
        [claim] = self.store.jobs.claim(types=[job.type], limit=1, lease=lease, holder="test", only=job_id)
        return claim, self.work_order(claim)

    def work_order(self, claim: Claim) -> WorkOrder:
        job = claim.job
        expires = claim.lease_until + timedelta(seconds=job.timeout_seconds + 3600)
        return WorkOrder(
            job_id=job.id,
            fence=claim.fence,
            type=job.type,
            params=dict(job.params),
            timeout_seconds=job.timeout_seconds,
            lease_seconds=self.settings.jobs.lease,
            token=capability.mint(SECRET, job.id, claim.fence, expires),
            api=(URL,),
            max_result_bytes=int(self.settings.jobs.max_result_mb * 1_000_000),
        )
