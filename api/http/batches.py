"""`/v1/batches`: many requests in a file, answered within a day, as OpenAI's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from ...grid.batch_rules import BatchStatus
from ...grid.store import BatchRecord, NotCancellable, Store, TooManyBatches
from .auth import principal
from .bodies import Body
from .errors import ApiError
from .files import call, existing

WINDOWS = {"24h": 86_400.0}
"""What OpenAI calls the completion window → seconds."""
MAX_METADATA = 16
MOST_OPEN = 100
"""Batches of one client that have not ended."""


class BatchRequest(Body):
    """The body of `POST /v1/batches`."""

    input_file_id: Annotated[str, Field(max_length=64)]
    endpoint: Annotated[str, Field(max_length=64, description="The `url` of every request in the file.")]
    completion_window: Literal["24h"]
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None,
        Field(max_length=MAX_METADATA),
    ] = None
    output_expires_after: Annotated[Any, Field(description="Taken and not used: a setting says it.")] = None


class Counts(BaseModel):
    """Requests of a batch."""

    total: int
    completed: int
    failed: int


class BatchProblem(BaseModel):
    """What is wrong with a line of the input."""

    code: str
    message: str
    param: str | None
    line: int


class BatchProblems(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchProblem]


class BatchDocument(BaseModel):
    """A batch, as OpenAI shows it."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchProblems | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, batch: BatchRecord) -> BatchDocument:
        problems = [BatchProblem(**problem) for problem in batch.errors]
        window = (batch.expires_at - batch.created_at).total_seconds()
        return cls(
            id=batch.id,
            endpoint=batch.endpoint,
            errors=BatchProblems(data=problems) if problems else None,
            input_file_id=batch.input_file_id,
            completion_window=f"{round(window / 3600)}h",
            status=batch.status,
            output_file_id=batch.output_file_id,
            error_file_id=batch.error_file_id,
            created_at=int(batch.created_at.timestamp()),
            expires_at=int(batch.expires_at.timestamp()),
            request_counts=Counts(total=batch.total, completed=batch.completed, failed=batch.failed),
            metadata=None if batch.metadata is None else dict(batch.metadata),
            **_instants(batch.instants),
        )


class BatchList(BaseModel):
    """Batches, the newest first."""

    object: Literal["list"] = "list"
    data: list[BatchDocument]
    first_id: str | None
    last_id: str | None
    has_more: bool


def _nothing() -> None:
    pass


def batches_router(store: Store, endpoints: Collection[str], made: Callable[[], None] = _nothing) -> APIRouter:
    """The routes. `endpoints`: what can be asked for in a batch here. `made` is called when there is a new one."""
    router = APIRouter(prefix="/v1/batches", tags=["batches"])

    @router.post("", response_model=BatchDocument)
    async def create(body: BatchRequest, request: Request) -> BatchDocument:
        """Have the requests of a file computed, with what the grid has left over."""
        client = principal(request).client_id
        if body.endpoint not in endpoints:
            known = ", ".join(sorted(endpoints))
            message = f"Invalid value for 'endpoint': {body.endpoint[:100]!r}. Here it is one of {known}."
            raise ApiError(400, message, param="endpoint", code="invalid_value")
        file = await existing(store, body.input_file_id, client, param="input_file_id")
        if file.purpose != "batch":
            message = f"The file {file.id} has the purpose {file.purpose!r}, not 'batch'."
            raise ApiError(400, message, param="input_file_id", code="invalid_value")
        window = WINDOWS[body.completion_window]
        wanted: dict[str, Any] = {"window": window, "metadata": body.metadata, "most_open": MOST_OPEN}
        try:
            batch = await call(store.batches.create, client, body.endpoint, file.id, **wanted)
        except TooManyBatches as error:
            message = f"You have too many batches: {error}. Wait for one, or cancel one."
            raise ApiError(429, message, code="too_many_batches", headers={"Retry-After": "60"}) from None
        made()
        return BatchDocument.of(batch)

    @router.get("", response_model=BatchList)
    async def list_batches(
        request: Request,
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> BatchList:
        """Your batches, the newest first."""
        found = await call(store.batches.list, principal(request).client_id, after=after, limit=limit + 1)
        data = [BatchDocument.of(batch) for batch in found[:limit]]
        ids = [batch.id for batch in data]
        first, last = (ids[0], ids[-1]) if ids else (None, None)
        return BatchList(data=data, first_id=first, last_id=last, has_more=len(found) > limit)

    @router.get("/{batch_id}", response_model=BatchDocument)
    async def retrieve(batch_id: str, request: Request) -> BatchDocument:
        """How a batch stands."""
        return BatchDocument.of(_there(await call(store.batches.get, batch_id, principal(request).client_id), batch_id))

    @router.post("/{batch_id}/cancel", response_model=BatchDocument)
    async def cancel(batch_id: str, request: Request) -> BatchDocument:
        """End a batch early. What was computed by then is in its output."""
        try:
            found = await call(store.batches.cancel, batch_id, principal(request).client_id)
        except NotCancellable as error:
            raise ApiError(409, f"Cannot cancel: {error}.", param="batch_id", code="batch_not_cancellable") from None
        return BatchDocument.of(_there(found, batch_id))

    return router


def _there(found: BatchRecord | None, batch_id: str) -> BatchRecord:
    if found is None:
        raise ApiError(404, f"No batch found with id '{batch_id[:100]}'.", param="batch_id", code="batch_not_found")
    return found


def _instants(known: Mapping[BatchStatus, datetime]) -> dict[str, Any]:
    told = [status for status in BatchStatus if status is not BatchStatus.VALIDATING]
    return {f"{status}_at": int(known[status].timestamp()) if status in known else None for status in told}
