"""Passes requests for language models on to the process of the grid that serves them, when it is not this one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Protocol

import httpx
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, unavailable

PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
PASSED = "x-idlegrid-passed"
"""Header of what was passed on once: it is not passed on again."""
CONNECT = 5.0
"""Seconds that the other process has to take a connection."""
_OWN = frozenset(
    {"host", "content-length", "connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}
)
"""Headers that belong to one connection, and are not passed on."""


class Other(Protocol):
    """The process that serves."""

    @property
    def holder(self) -> str:
        """Its name."""
        ...

    @property
    def place(self) -> str | None:
        """Base URL at which it is reached."""
        ...


class Passing:
    """ASGI middleware, behind the gate: who may not ask here, asks nobody."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        elsewhere: Callable[[], Other | None],
        here: Callable[[], Awaitable[Collection[str]]],
        timeout: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`elsewhere`: who serves the deployments, if it is another process. `here`: names of the models that this
        process serves. `timeout`: longest silence of the other one, in s.
        """
        self._app, self._elsewhere, self._here = app, elsewhere, here
        self._timeout, self._transport = httpx.Timeout(timeout, connect=CONNECT), transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        other = self._elsewhere()
        if other is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        body = await request.body()
        if _model(body).lower() in {name.lower() for name in await self._here()} | {""}:
            await self._app(scope, _again(body, receive), send)
            return
        try:
            await self._pass(other, request, body, send)
        except ApiError as error:
            await error.response()(scope, receive, send)

    async def _pass(self, other: Other, request: Request, body: bytes, send: Send) -> None:
        """Send it on, and the answer back as it comes; a client that goes away ends both. Raises ApiError."""
        if PASSED in request.headers:
            raise unavailable("Another process serves this model from now on.", retry_after=1.0)
        if other.place is None:
            raise unavailable(
                f"The process {other.holder} serves this model; set api.peer_url there, so that it can be reached.",
                retry_after=5.0,
            )
        headers = [(name, value) for name, value in request.headers.items() if name not in _OWN]
        async with httpx.AsyncClient(timeout=self._timeout, trust_env=False, transport=self._transport) as client:
            url = other.place.rstrip("/") + request.url.path
            asked = client.build_request("POST", url, content=body, headers=[*headers, (PASSED, other.holder)])
            try:
                answer = await client.send(asked, stream=True)
            except httpx.TransportError as error:
                why = f"The process that serves this model does not answer ({type(error).__name__})."
                raise unavailable(why, retry_after=2.0) from error
            try:
                kept = {name: value for name, value in answer.headers.items() if name not in _OWN}
                response = StreamingResponse(_pieces(answer), answer.status_code, headers=kept)
                await response(request.scope, request.receive, send)
            finally:
                await answer.aclose()


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it comes. One that breaks off is told to the client by the end of its connection."""
    async for piece in answer.aiter_raw():
        yield piece


def _model(body: bytes) -> str:
    """The model that is asked for; empty where it can't be read: then it is refused here."""
    try:
        asked = json.loads(body)
    except ValueError:
        return ""
    model = asked.get("model") if isinstance(asked, dict) else None
    return model if isinstance(model, str) else ""


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, for the application; what the client says after it comes from the client."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
