"""`GET /api/v1/state`: one document of the whole grid, from which status pages are fed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ...grid.store import WorkerRecord
from .jobs_bodies import QueueDocument
from .jobs_door import JobDoor
from .jobs_queue import ALIVE, Lookout
from .oracle import Silent
from .problems import problems

VERSION = 1
"""Raised when a field changes its meaning or goes; new fields may come without."""


class PullingWorker(BaseModel):
    """A worker of the store: one that asks for jobs, or that registered."""

    id: str
    name: str
    status: str = Field(description="`online`, `busy`, `draining` or `offline`.")
    region: str | None
    gpu_model: str | None
    gpu_memory_gb: float
    supported_types: list[str]
    total_jobs: int
    success_rate: float | None
    avg_latency_ms: float | None
    last_heartbeat: datetime | None

    @classmethod
    def of(cls, worker: WorkerRecord, now: datetime) -> PullingWorker:
        facts, heard = worker.facts, worker.last_heartbeat
        here = heard is not None and now - heard < ALIVE
        return cls(
            id=facts.id,
            name=facts.name,
            status=facts.status if here else "offline",
            region=facts.region,
            gpu_model=facts.gpu_model,
            gpu_memory_gb=facts.gpu_memory_gb,
            supported_types=sorted(facts.supported_types),
            total_jobs=worker.total_jobs,
            success_rate=worker.success_rate,
            avg_latency_ms=worker.avg_latency_ms,
            last_heartbeat=heard,
        )


class StateDocument(BaseModel):
    """The whole grid, now."""

    version: int
    time: datetime = Field(description="UTC.")
    queue: QueueDocument
    scheduler: dict[str, Any] | None = Field(description="What the scheduler says. Null: it is silent.")
    silent: str | None = Field(description="Why the scheduler says nothing, if so.")
    workers: list[PullingWorker] = Field(description="The workers in the store; those behind the scheduler are above.")


def state_router(door: JobDoor, lookout: Lookout) -> APIRouter:
    """The route, bound to what it tells of."""
    router = APIRouter(prefix="/api/v1", tags=["state"])

    @router.get("/state", response_model=StateDocument, responses=problems())
    async def state() -> StateDocument:
        """The whole grid: queue, scheduler, workers."""
        said, silent = None, None
        try:
            said = dict(await door.oracle.state())
        except Silent as silence:
            silent = str(silence)
        overview, now = await lookout.look(), datetime.now(UTC)
        workers = await door.call(door.store.workers.list)
        return StateDocument(
            version=VERSION,
            time=now,
            queue=overview.document(),
            scheduler=said,
            silent=silent,
            workers=[PullingWorker.of(worker, now) for worker in workers],
        )

    return router
