"""`GET /api/v1/jobs/{id}/events`: what happens to a job, as server-sent events that can be resumed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from ...grid.jobs import JobStatus
from ...grid.store import Event
from .auth import principal
from .jobs_door import JobDoor
from .problems import problems

RETRY_MS = 1000
"""What a browser waits before it comes back."""
BATCH = 500
MOST_DIGITS = 18
_DESCRIPTION = (
    "Events `status`, `progress` and `tokens`, each with its number as `id` and JSON as `data`; the last one is the "
    "final status. A comment every 15 s shows that the stream lives."
)
_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "event": {"type": "string", "enum": ["status", "progress", "tokens"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}
_STREAM = {"description": _DESCRIPTION, "content": {"text/event-stream": {"schema": _EVENT}}}
_NOTHING = {"description": "The job has ended and there is nothing after `Last-Event-ID`: don't come back."}


class Stream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


def events_router(door: JobDoor) -> APIRouter:
    """The route, bound to the store."""
    router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])

    @router.get(
        "/{job_id}/events",
        response_class=Stream,
        responses=problems("job_not_found", beside={200: _STREAM, 204: _NOTHING}),
    )
    async def events(
        job_id: str,
        request: Request,
        last_event_id: Annotated[str | None, Header(description="Go on behind this event.")] = None,
    ) -> Response:
        """Everything that happens to a job, from its beginning or behind `Last-Event-ID`, until it has ended."""
        job = await door.job(job_id, principal(request).sees)
        seq = _number(last_event_id)
        if job.status.final and not await door.call(door.store.events.after, job_id, seq, 1):
            return Response(status_code=204)
        return Stream(follow(door, job_id, seq), headers={"X-Accel-Buffering": "no"})

    return router


async def follow(door: JobDoor, job_id: str, seq: int) -> AsyncIterator[bytes]:
    """The stream: events behind `seq` as they come, signs of life between them, and an end after the final one."""
    patience = door.patience
    ends = time.monotonic() + patience.stream
    yield format_sse_event(retry=RETRY_MS)
    while (left := ends - time.monotonic()) > 0 and not door.ending.is_set():
        events = await door.call(door.store.events.after, job_id, seq, BATCH)
        for event in events:
            yield shown(event)
            seq = event.seq
            if _final(event):
                return
        if len(events) == BATCH:
            continue
        if not events and await _over(door, job_id, seq):
            return
        if not await door.wait_for_event(job_id, seq, min(left, patience.heartbeat)):
            yield format_sse_event(comment="still here")


def shown(event: Event) -> bytes:
    """One event on the wire."""
    data = {**event.data, "at": event.at.isoformat()}
    return format_sse_event(data_str=json.dumps(data), event=event.kind, id=str(event.seq))


async def _over(door: JobDoor, job_id: str, seq: int) -> bool:
    """Whether nothing can come any more: the job was deleted, or it ended and its last event was told."""
    job = await door.call(door.store.jobs.get, job_id)
    if job is None:
        return True
    return job.status.final and not await door.call(door.store.events.after, job_id, seq, 1)


def _final(event: Event) -> bool:
    return event.kind == "status" and JobStatus(event.data["status"]).final


def _number(text: str | None) -> int:
    """The number in `Last-Event-ID`; from the beginning when it is none of ours."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else 0
