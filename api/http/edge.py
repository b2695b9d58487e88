"""The outermost layer: what holds for every answer, whatever the routes do.

An id for the request, bounded bodies, known host names, headers, and an answer even where a route fails.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, internal_error
from .problems import in_form

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_VALID_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


_CLOSE = {"connection": "close"}


class Edge:
    """ASGI middleware. `max_body`: bytes at a path. `hosts` None: any host name."""

    def __init__(self, app: ASGIApp, *, max_body: Callable[[str], int], hosts: Collection[str] | None) -> None:
        self._app, self._max_body, self._hosts = app, max_body, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_from(headers.get(REQUEST_ID))
        scope.setdefault("state", {})["request_id"] = request_id
        path, max_body = scope["path"], self._max_body(scope["path"])
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                answer = MutableHeaders(scope=message)
                answer[REQUEST_ID] = request_id
                for name, value in _HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            self._admit(headers, max_body)
            await self._app(scope, _bounded(receive, max_body), send_with_headers)
        except ApiError as refusal:
            await in_form(path, refusal)(scope, receive, send_with_headers)
        except Exception:
            log.exception("request %s failed", request_id)
            if started:
                raise
            await in_form(path, internal_error())(scope, receive, send_with_headers)

    def _admit(self, headers: Headers, max_body: int) -> None:
        """Raise ApiError for a host name that is not ours, or a body that says that it is too large."""
        host = re.sub(r":\d+$", "", headers.get("host", "")).lower()
        if self._hosts is not None and host not in self._hosts:
            # a page of the web that lets its own name point at this machine must not reach us with a visitor's browser
            raise ApiError(421, "This service is not known under that host name (setting api.allowed_hosts).")
        if int(_digits(headers.get("content-length"))) > max_body:
            raise ApiError(413, _too_large(max_body), code="request_too_large", headers=_CLOSE)


def _bounded(receive: Receive, max_body: int) -> Receive:
    """`receive`, which raises once more than the largest body has come in."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > max_body:
            # the framework lets an HTTPException pass while it reads the body, and nothing else
            raise HTTPException(413, _too_large(max_body), headers=_CLOSE)
        return message

    return bounded


def _too_large(max_body: int) -> str:
    return f"The request is larger than {max_body} bytes (settings api.max_body_mb and, for media, fetch.max_mb)."


def request_id_from(given: str | None) -> str:
    """The client's own id if it is harmless (1-128 letters, digits, ``._:-``), else a new one."""
    return given if given is not None and _VALID_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def _digits(text: str | None) -> str:
    return text if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else "0"
