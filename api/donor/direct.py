"""Direct mode: a worker's own HTTP endpoint, for clients that hold a ticket of the grid. An ASGI app.

::

    POST /v1/direct/{job_type}   X-Ticket: …   the params → the result; an llm job with "stream": events
    GET  /v1/direct/proof?challenge=…          what only this worker can answer
    GET  /healthz

Without a ticket nothing is read and nothing is told but the proof, which needs a secret to be of any use.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from ...grid.credentials import Credentials
from ...grid.job_types import JobType, UnknownJobTypeError, job_type
from ...grid.tenants import of_direct_client
from ...grid.tickets import HEADER, BadTicket, Ticket, TooManyTickets, check, proof
from .direct_work import LATER, NoPlace, Places, Trouble, Work, refusal, trouble_of
from .spent_tickets import SpentTickets

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
LONGEST, USUAL = 3600.0, 300.0
"""Seconds that one job may have, and has if its client doesn't say."""
BODY_PATIENCE = 30.0
"""Seconds in which a request's body must have come."""
ALIVE_EVERY = 10.0
"""Seconds of silence after which a stream says that it lives."""
UNREAD = 60.0
"""Seconds that a client may leave an answer unread."""
_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


class Endpoint:
    """What the endpoint is made of. Belongs to one event loop."""

    def __init__(
        self,
        places: Places,
        credentials: Callable[[], Credentials],
        spent: SpentTickets,
        *,
        max_body: int,
        kinds: Callable[[str], JobType] = job_type,
    ) -> None:
        """`credentials`: those in force. `max_body`: bytes. `kinds`: the job types that are known."""
        self._places, self._credentials, self._spent = places, credentials, spent
        self._max_body, self._kinds = max_body, kinds
        self._count = 0

    def app(self) -> Starlette:
        """The endpoint as an ASGI app."""
        return Starlette(
            routes=[
                Route("/v1/direct/proof", _told(self._proof), methods=["GET"]),
                Route("/v1/direct/{job_type}", _told(self._job), methods=["POST"]),
                Route("/healthz", _told(_health), methods=["GET"]),
            ],
            exception_handlers={HTTPException: _no_route, Exception: _broken},
        )

    async def _proof(self, request: Request) -> Response:
        held = self._credentials()
        try:
            said = proof(held.key, held.worker_id, request.query_params.get("challenge", ""))
        except ValueError as error:
            raise Trouble(422, "invalid_request", str(error)) from None
        return _json({"worker_id": held.worker_id, "proof": said})

    async def _job(self, request: Request) -> Response:
        """The ticket is spent before anything of the body is read: it opens one try, however that ends."""
        name = request.path_params["job_type"]
        ticket = self._open(request.headers.get(HEADER, ""), name)
        kind = self._kind(name)
        seconds = _seconds(request)
        params = _params(kind, await _body(request, self._max_body))
        self._count += 1
        work = Work(kind, params, seconds, f"direct-{name}-{self._count}", of_direct_client(ticket.client_id))
        try:
            work.start(self._places)
        except NoPlace as no:
            raise refusal(no.verdict) from None
        return Answer(work, streams=getattr(params, "stream", False) is True)

    def _open(self, text: str, name: str) -> Ticket:
        """The ticket, if it opens this job type here and now, and the owner takes work at all. Raises Trouble."""
        now, ticket = datetime.now(UTC), self._checked(text, name)
        if not (verdict := self._places.standing()):
            raise refusal(verdict)
        try:
            self._spent.spend(ticket, now)
        except BadTicket as bad:
            raise Trouble(401, "invalid_ticket", f"{HEADER}: {bad}") from None
        except (TooManyTickets, OSError) as full:
            logger.warning("no ticket can be taken: %s", full)
            raise Trouble(503, "no_tickets", "no more tickets are taken now", retry_after=LATER) from None
        return ticket

    def _checked(self, text: str, name: str) -> Ticket:
        held = self._credentials()
        try:
            return check(held.key, text, datetime.now(UTC), worker_id=held.worker_id, job_type=name)
        except BadTicket as bad:
            raise Trouble(401, "invalid_ticket", f"{HEADER}: {bad}") from None

    def _kind(self, name: str) -> JobType:
        try:
            return self._kinds(name)
        except UnknownJobTypeError:
            raise Trouble(422, "type_not_supported", "this worker has no such job type") from None


class Answer(Response):
    """A job's result once it is there, or its stream; the job stops when its client goes."""

    def __init__(self, work: Work, *, streams: bool) -> None:
        super().__init__()
        self._work, self._streams = work, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        telling = asyncio.create_task(self._tell(scope, receive, send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait((telling, gone), return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        finally:
            self._work.stop(Trouble(503, "cancelled", "its client went away"))
            telling.cancel()
            gone.cancel()
            await asyncio.gather(telling, gone, return_exceptions=True)
            self._work.answered.set()

    async def _tell(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._work.events()) as events:
            try:
                first = await anext(events)
                while not self._streams and isinstance(first, str):
                    first = await anext(events)
            except Trouble as trouble:
                await _problem(trouble)(scope, receive, send)
                return
            if self._streams:
                await self._stream(first, events, send)
            else:
                head = {**_HEADERS, "content-type": "application/json"}
                await Response(first, headers=head)(scope, receive, send)

    async def _stream(self, first: str | bytes, events: AsyncGenerator[str | bytes, None], send: Send) -> None:
        head = {**_HEADERS, "content-type": "text/event-stream", "x-accel-buffering": "no"}
        raw = [(name.encode(), value.encode()) for name, value in head.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await _say(send, _event(first))
        following = asyncio.ensure_future(_next(events))
        try:
            while True:
                done, _ = await asyncio.wait((following,), timeout=ALIVE_EVERY)
                if not done:
                    await _say(send, b": alive\n\n")
                    continue
                said = following.result()
                if said is None:
                    break
                await _say(send, _event(said))
                following = asyncio.ensure_future(_next(events))
        except Trouble as trouble:
            await _say(send, _line("error", json.dumps(trouble.document).encode()))
        finally:
            following.cancel()
        await _say(send, b"", more=False)


async def _next(events: AsyncGenerator[str | bytes, None]) -> str | bytes | None:
    return await anext(events, None)


async def _say(send: Send, body: bytes, *, more: bool = True) -> None:
    message: Message = {"type": "http.response.body", "body": body, "more_body": more}
    async with asyncio.timeout(UNREAD):
        await send(message)


def _event(said: str | bytes) -> bytes:
    if isinstance(said, str):
        return _line("tokens", json.dumps({"text": said}).encode())
    return _line("result", said)


def _line(kind: str, data: bytes) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _seconds(request: Request) -> float:
    said = request.query_params.get("timeout_seconds")
    if said is None:
        return USUAL
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= LONGEST:
        raise Trouble(422, "invalid_request", f"timeout_seconds: above 0, to {LONGEST:g}")
    return seconds


async def _body(request: Request, most: int) -> bytes:
    """The body, as long as it is JSON, not too large and comes in time."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Trouble(415, "unsupported_media_type", "Send the body as JSON, with Content-Type: application/json.")
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told[:20]) > most:
        raise Trouble(413, "request_too_large", f"at most {most:,} bytes are read")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Trouble(413, "request_too_large", f"at most {most:,} bytes are read")
    except TimeoutError:
        raise Trouble(408, "too_slow", f"the body must have come within {BODY_PATIENCE:g} s") from None
    return bytes(body)


def _params(kind: JobType, body: bytes) -> BaseModel:
    try:
        return kind.Params.model_validate_json(body)
    except ValidationError as error:
        raise trouble_of(error) from None


async def _health(_: Request) -> Response:
    return _json({"status": "ok"})


def _told(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The route, with what it refuses as a problem document."""

    async def answered(request: Request) -> Response:
        try:
            return await route(request)
        except Trouble as trouble:
            return _problem(trouble)

    return answered


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    code = "method_not_allowed" if status == 405 else "unknown_url"
    return _problem(Trouble(status, code, "There is nothing like this here."))


async def _broken(_: Request, error: Exception) -> Response:
    logger.error("a request of direct mode failed: %s", type(error).__name__)
    return _problem(Trouble(500, "internal_error", "The worker had an error."))


def _problem(trouble: Trouble) -> Response:
    close = {"connection": "close"} if trouble.status in (401, 408, 413) else {}  # what follows of its body is not read
    return _json(trouble.document, trouble.status, {**trouble.headers, **close}, MEDIA_TYPE)


def _json(
    document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None, kind: str | None = None
) -> Response:
    return JSONResponse(document, status, headers={**_HEADERS, **(headers or {})}, media_type=kind)
