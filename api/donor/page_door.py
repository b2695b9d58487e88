"""Who may see and use the donor's page: its own user, in a browser that came by the opened URL.

The page listens on loopback, which is no protection by itself: every page that the user's browser shows can send
requests there (CSRF), can even read the answers under a name that it lets point to 127.0.0.1 (DNS rebinding), and so
can every other user of the machine. Hence: the Host must be ours, a change must come from our own page, and without the
secret of the opened URL, or the session that it opened, nothing is told.
"""

from __future__ import annotations

import hmac
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SESSIONS = 32
"""So many browsers may have the page open; one more, and the oldest must be opened anew."""
READING = ("GET", "HEAD")
OPEN_TO_ALL = frozenset({"/page.css", "/page.js"})
"""Paths that say nothing of this machine."""
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not `no-referrer`: with it a browser sends `Origin: null` with our own forms
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served."""

    status: int
    """HTTP status."""
    text: str
    """For the person who sees it."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What opens the page: the secret of the URL, and the sessions that it has opened."""

    token: str
    """The secret in the opened URL."""
    sessions: deque[str] = field(default_factory=lambda: deque(maxlen=SESSIONS))

    def open(self) -> str:
        """A new session. It is not the token: a browser sends a cookie to every port of its host."""
        session = secrets.token_urlsafe(32)
        self.sessions.append(session)
        return session

    def is_token(self, given: str) -> bool:
        """Whether this is the secret of the URL."""
        return _same(given, self.token)

    def is_session(self, given: str) -> bool:
        """Whether this session was opened, and not so long ago that others took its place."""
        matches = [_same(given, one) for one in self.sessions]  # all of them: the time does not tell which
        return any(matches)


def _same(given: str, expected: str) -> bool:
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


def cookie_name(port: int) -> str:
    """Name of the session's cookie: cookies know no ports, and a machine may have several agents."""
    return f"gpu_worker_{port}"


def foreign(method: str, headers: Headers, port: int) -> Refusal | None:
    """Why a request did not come from this page's own address; None when it did.

    The Host of every request, and the Origin of every change, must be this page's. A browser always sends an Origin
    with a POST; a request without one comes from a program, and for programs there is the command line. Nor may another
    page take in what is here, as a frame, a script or data: it may only lead to it.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or hosts[0] not in {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}:
        return Refusal(421, f"This page answers as 127.0.0.1:{port} or localhost:{port} only.")
    near = headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    if method in READING:
        led = near or headers.get("sec-fetch-dest", "") == "document"
        return None if led else Refusal(403, "Only this page itself may read this.")
    if headers.getlist("origin") != [f"http://{hosts[0]}"] or not near:
        return Refusal(403, "A change must come from this page itself.")
    return None


class Door:
    """Serves `inner` to those who may, with the headers that keep a browser from doing more than the page asks."""

    def __init__(self, inner: ASGIApp, keys: Keys, *, port: int) -> None:
        self.inner = inner
        self.keys = keys
        self.port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; other scopes are the inner app's."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.inner(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refuse(scope)
        if refusal is None:
            await self.inner(scope, receive, dressed)
        else:
            await PlainTextResponse(refusal.text + "\n", refusal.status)(scope, receive, dressed)

    def _refuse(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        refusal = foreign(scope["method"], headers, self.port)
        if refusal is not None or (scope["path"] in OPEN_TO_ALL and scope["method"] in READING):
            return refusal
        opening = scope["path"] == "/open" and scope["method"] in READING  # it looks at the token itself
        if opening or self.keys.is_session(cookie_parser(headers.get("cookie", "")).get(cookie_name(self.port), "")):
            return None
        return Refusal(401, "Open this page by the command: gpu-worker page")


def page_url(token: str, port: int) -> str:
    """The URL that opens the page."""
    return f"http://127.0.0.1:{port}/open?token={token}"
