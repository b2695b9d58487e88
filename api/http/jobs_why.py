"""`GET /api/v1/jobs/{id}/why`: who was considered for a job, what each says to it, and what was tried so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from ...grid.jobs import Ask, JobRecord, JobStatus
from ...grid.placement import explain
from ...grid.store import Attempt
from ...grid.verdicts import Reason
from ...scheduler_plugins.placer import lot
from .auth import principal
from .jobs import Intake
from .jobs_bodies import AttemptDocument, WhyDocument, WorkerOpinion
from .jobs_door import JobDoor, ask_of
from .jobs_queue import alive
from .known_donors import Usual, donor_of, load_of
from .oracle import Silent
from .problems import problems

VERSION = 1
"""Raised when a field changes its meaning or goes; new fields may come without."""


class Witness:
    """Asks every worker what it would say to a piece of work, however it gets its work."""

    def __init__(self, door: JobDoor) -> None:
        self._door, self._usual = door, Usual(door.store)

    async def opinions(self, ask: Ask, key: str) -> tuple[list[WorkerOpinion], str | None]:
        """Everybody's, best first, then who refuses; and why those behind the scheduler are missing, if they are."""
        unheard: str | None = None
        try:
            pushed = [_opinion(row) for row in await self._door.oracle.explain(ask, key)]
        except Silent as silence:
            pushed, unheard = [], str(silence)
        known = {opinion.worker for opinion in pushed}
        pulling = [opinion for opinion in await self._pulling(ask, key) if opinion.worker not in known]
        return sorted([*pushed, *pulling], key=lambda one: (one.score is None, -(one.score or 0.0))), unheard

    async def anybody(self, ask: Ask, key: str) -> bool:
        """Whether somebody would take it now."""
        told, _ = await self.opinions(ask, key)
        return any(opinion.verdict == Reason.ACCEPTED for opinion in told)

    async def _pulling(self, ask: Ask, key: str) -> list[WorkerOpinion]:
        now = datetime.now(UTC)
        here = alive(await self._door.call(self._door.store.workers.list), now)
        pairs = [(donor_of(worker), load_of(worker)) for worker in here]
        timed = await self._door.call(self._usual.timed, ask)
        told = explain(timed, pairs, now, lambda donor_id: lot(key, donor_id, now))
        return [WorkerOpinion.pulling(*one) for one in told]


def why_router(door: JobDoor, intake: Intake, witness: Witness) -> APIRouter:
    """The route, bound to the store and the scheduler."""
    router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])

    @router.get("/{job_id}/why", response_model=WhyDocument, responses=problems("job_not_found"))
    async def why(job_id: str, request: Request) -> WhyDocument:
        """Why a job waits, or where it ran: every worker that is considered, its verdict and the reason."""
        job = await door.job(job_id, principal(request).sees)
        attempts = await door.call(door.store.jobs.attempts, job_id)
        ask = ask_of(job)
        tries = [AttemptDocument.of(attempt) for attempt in attempts]
        placement = next((one.placement for one in reversed(tries) if one.placement is not None), None)
        if not job.status.final and job.worker_id is None:  # whatever was said of earlier attempts: it is nobody's now
            placement = None
            told, unheard = await witness.opinions(ask, job.id)
        else:
            told, unheard = placement.workers if placement else [], None
        place = await door.call(intake.place, job)
        wait = await intake.wait(job, place)
        return WhyDocument(
            version=VERSION,
            job_id=job.id,
            status=job.status,
            summary=summary(job, told, attempts, place, unheard),
            queue_position=place,
            estimated_wait_seconds=wait,
            ask=ask.to_annotation(),
            workers=told,
            placed_at=placement.at if placement else None,
            unheard=unheard,
            attempts=tries,
        )

    return router


def summary(
    job: JobRecord,
    told: Sequence[WorkerOpinion],
    attempts: Sequence[Attempt],
    place: int | None,
    unheard: str | None,
) -> str:
    """Where the job stands, in one sentence."""
    tries = _tries(attempts)
    match job.status:
        case JobStatus.RUNNING:
            stop = ", and is told to stop" if job.cancel_requested else ""
            return f"runs on {job.worker_id}{stop}{tries}" if job.worker_id else f"is on its way to a worker{tries}"
        case JobStatus.COMPLETED:
            return f"was completed by {job.worker_id}{tries}"
        case JobStatus.QUEUED:
            return f"waits{_why_waiting(told, place, unheard)}{tries}"
        case _:
            return f"ended as {job.status}: {job.error or 'no reason was given'}{tries}"


def _why_waiting(told: Sequence[WorkerOpinion], place: int | None, unheard: str | None) -> str:
    refusals = Counter(opinion.verdict for opinion in told if opinion.verdict != Reason.ACCEPTED)
    if len(told) > sum(refusals.values()):
        ahead = (place or 1) - 1
        return f" for its turn: {ahead} of its type go before it" if ahead else " to be given to a worker: it is next"
    if unheard is not None and not told:
        return f": no worker is known, {unheard}"
    if not told:
        return ": no worker is here"
    listed = ", ".join(f"{count} × {reason}" for reason, count in refusals.most_common())
    moments = [opinion.retry_at for opinion in told if opinion.retry_at is not None]
    return f": nobody may take it now ({listed})" + (f"; time helps at {min(moments).isoformat()}" if moments else "")


def _tries(attempts: Iterable[Attempt]) -> str:
    over = Counter(attempt.outcome for attempt in attempts if attempt.outcome not in (None, "completed", "released"))
    return f" (tried before: {', '.join(f'{count} × {word}' for word, count in over.items())})" if over else ""


def _opinion(row: Mapping[str, Any]) -> WorkerOpinion:
    return WorkerOpinion.model_validate({"path": "dask"} | {name: row.get(name) for name in _FIELDS})


_FIELDS = ("worker", "name", "region", "verdict", "detail", "retry_at", "score")
