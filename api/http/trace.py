"""Which trace a request belongs to, and one line in the log for each."""

from __future__ import annotations

import logging
import re
import secrets
from time import perf_counter

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..logs import logger

log = logger(__name__)

TRACE_ID = "X-Trace-ID"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_VALID = re.compile(r"[0-9a-f]{32}")
_NONE = "0" * 32
_CHATTER = frozenset({"/healthz", "/readyz", "/metrics", "/api/v1/workers/{worker_id}/jobs/{job_id}/progress"})
"""Signs of life and looks at them: logged on the level `debug`."""


class Trace:
    """ASGI middleware: a trace id for every request, in its answer, its log lines and the jobs that it makes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace, begun, status = trace_from(Headers(scope=scope)), perf_counter(), 500
        state = scope.setdefault("state", {})
        state["trace_id"] = trace

        async def send_with_trace(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[TRACE_ID] = trace
            await send(message)

        with structlog.contextvars.bound_contextvars(trace_id=trace, request_id=state.get("request_id")):
            try:
                await self._app(scope, receive, send_with_trace)
            finally:
                route = getattr(scope.get("route"), "path", None)  # the pattern: a path may hold what a client wrote
                log.log(
                    logging.DEBUG if route in _CHATTER and status < 400 else logging.INFO,
                    "http.request",
                    method=scope["method"],
                    route=route,
                    status=status,
                    ms=round((perf_counter() - begun) * 1000, 1),
                    client=getattr(state.get("who"), "client_id", None),
                )


def trace_from(headers: Headers) -> str:
    """The trace of the caller, by W3C's ``traceparent`` or `X-Trace-ID` (32 hex digits), else a new one."""
    parent = _TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    given = parent[1] if parent else headers.get(TRACE_ID, "").lower()
    return given if _VALID.fullmatch(given) and given != _NONE else secrets.token_hex(16)


def trace_id(request: Request) -> str | None:
    """The trace that a request belongs to."""
    found: str | None = getattr(request.state, "trace_id", None)
    return found
