"""Heartbeats of registered workers, and their goodbyes. Cheap: many at once are one statement."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ...grid.store import Beat
from ..logs import logger
from .auth import proving, worker
from .donor_bodies import HeardDocument, HeartbeatBody, ScoreDocument, StatusDocument
from .jobs_door import JobDoor
from .problems import Problem, problems
from .worker_bodies import WorkerId

log = logger(__name__)

OWN = ("invalid_worker_token", "invalid_signature", "clock_skew", "replayed", "worker_blocked", "locked_out")
"""What every request that a worker must sign may be refused with."""
_REPORTED = ("gpu_memory_used_gb", "gpu_info", "running", "waiting", "kv_cache", "config_version")


def heartbeat_router(door: JobDoor) -> APIRouter:
    """The routes, bound to the store."""
    router = APIRouter(prefix="/api/v1/workers", tags=["donors"])
    donors, interval = door.store.donors, door.settings.heartbeat_interval

    @router.post(
        "/{worker_id}/heartbeat",
        response_model=HeardDocument,
        responses=problems("invalid_json", *OWN, "unsupported_media_type", "request_too_large"),
    )
    async def heartbeat(worker_id: WorkerId, body: HeartbeatBody, request: Request) -> HeardDocument:
        """Say that this worker lives, and hear what the grid wants of it."""
        beat = Beat(
            worker_id=worker_id,
            status=body.kept_status,
            incarnation=body.incarnation,
            paused_reason=body.paused_reason,
            report=_report(body),
        )
        who, answer = await proving(request, lambda proof: door.call(donors.heartbeat, beat, proof))
        if answer is None:
            raise gone()
        return HeardDocument(
            config_changed=answer.config_version != body.config_version,
            config_version=answer.config_version,
            commands=[order.value for order in answer.commands],
            reliability=None if answer.reliability is None else ScoreDocument.model_validate(answer.reliability),
            heartbeat_interval=interval,
            token_expires_at=who.token_expires_at,
            scheduler_address=door.scheduler,
        )

    @router.post("/{worker_id}/drain", response_model=StatusDocument, responses=problems(*OWN))
    async def drain(worker_id: WorkerId, request: Request) -> StatusDocument:
        """Say that this worker takes nothing new; what runs is finished."""
        return await leave(worker_id, request, "draining")

    @router.post("/{worker_id}/offline", response_model=StatusDocument, responses=problems(*OWN))
    async def offline(worker_id: WorkerId, request: Request) -> StatusDocument:
        """Say goodbye: the stay ends as it should, which costs nothing of the worker's score."""
        return await leave(worker_id, request, "offline")

    async def leave(worker_id: str, request: Request, status: str) -> StatusDocument:
        worker(request)
        if not await door.call(donors.leave, worker_id, status):
            raise gone()
        log.info("worker.left", worker=worker_id, status=status)
        return StatusDocument(status=status)

    return router


def gone() -> Problem:
    """The worker's row was deleted while it was asking."""
    return Problem("invalid_worker_token", "This worker is not known any more: join again.")


def _report(body: HeartbeatBody) -> dict[str, Any]:
    return body.model_dump(include=set(_REPORTED), exclude_none=True)
