"""The donor's page on loopback: its routes. Rendered here, without a build step, and whole without its script."""

from __future__ import annotations

import html
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from . import page_html
from .face import AgentFace, NotAllowed
from .page_door import Door, Keys, cookie_name, page_url
from .page_week import next_morning

__all__ = ["opening_file", "page_app", "page_url"]

FORM_BYTES = 16_384
"""A form of this page is far smaller."""
LOG_LINES = 100
HOUR = 3600.0


def page_app(
    face: AgentFace, token: str, *, port: int, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> ASGIApp:
    """The page of `face` as an ASGI app that answers as ``127.0.0.1:port`` or ``localhost:port`` only.

    `token`: the secret of `page_url`, which opens it; at least 128 bits of chance. Raises ValueError on a short one.
    """
    if len(token) < 22:
        raise ValueError(f"the page's token has {len(token)} characters: take secrets.token_urlsafe(32)")
    keys = Keys(token)
    page = _Page(face, keys, port, clock)
    routes = [
        Route("/", page.show, methods=["GET"]),
        Route("/open", page.open, methods=["GET"]),
        Route("/page.css", _asset("page.css", "text/css"), methods=["GET"]),
        Route("/page.js", _asset("page.js", "text/javascript"), methods=["GET"]),
        Route("/pause", page.pause, methods=["POST"]),
        Route("/resume", page.resume, methods=["POST"]),
        Route("/drain", page.drain, methods=["POST"]),
        Route("/limits", page.limits, methods=["POST"]),
    ]
    return Door(Starlette(routes=routes), keys, port=port)


def opening_file(token: str, port: int) -> str:
    """HTML of a file (0600) that opens the page.

    The machine's other users can see what stands on a browser's command line, the secret of a URL too.
    """
    return _hop(page_url(token, port))


def _hop(url: str) -> str:
    target = html.escape(url)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={target}">'
        f'<title>gpu-worker</title><a href="{target}">Open the page of this machine</a></html>'
    )


def _asset(name: str, media_type: str) -> Callable[[Request], Response]:
    content = (files(__package__) / name).read_bytes()
    return lambda _request: Response(content, media_type=media_type)


class _Page:
    """The routes of one agent's page."""

    def __init__(self, face: AgentFace, keys: Keys, port: int, clock: Callable[[], datetime]) -> None:
        self.face = face
        self.keys = keys
        self.port = port
        self.clock = clock

    async def show(self, request: Request) -> Response:
        """The whole page."""
        return self._page(said=request.query_params.get("said", ""))

    async def open(self, request: Request) -> Response:
        """Exchanges the URL's secret for a session, and leads to a URL without it."""
        if not self.keys.is_token(request.query_params.get("token", "")):
            text = "This link is not, or no longer, valid: the agent makes a new one at each start.\n"
            return PlainTextResponse(f"{text}Open this page by the command: gpu-worker page\n", 401)
        # a browser that comes from another site (a file, too) withholds a strict cookie for a whole chain of redirects
        led = request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        response: Response = RedirectResponse("/", 303) if led else HTMLResponse(_hop("/"))
        response.set_cookie(cookie_name(self.port), self.keys.open(), httponly=True, samesite="strict")
        return response

    async def pause(self, request: Request) -> Response:
        """Form `for`: ``hour``, ``tomorrow`` or ``resume``."""
        how_long = dict(await _form(request)).get("for")
        now = self.clock()
        if how_long == "hour":
            await self.face.pause(HOUR)
        elif how_long == "tomorrow":
            zone = page_html.time_zone_of(self.face.status())
            await self.face.pause((next_morning(now, zone) - now).total_seconds())
        elif how_long == "resume":
            await self.face.pause(None)
        else:
            raise HTTPException(422, "for: hour, tomorrow or resume")
        return _back("paused")

    async def resume(self, _request: Request) -> Response:
        """Take work again."""
        await self.face.resume()
        return _back("started")

    async def drain(self, _request: Request) -> Response:
        """Finish what runs, then leave."""
        await self.face.drain()
        return _back("finishing")

    async def limits(self, request: Request) -> Response:
        """A form with settings of the load control; those that differ are set, all of them or none."""
        shown = {item.key: item.value for item in page_html.settings(self.face.status())}
        typed = {name: value.strip() for name, value in await _form(request)}
        unknown = sorted(set(typed) - set(shown))
        if unknown:
            raise HTTPException(422, f"no such limit: {', '.join(unknown)[:200]}")
        changes = {name: value for name, value in typed.items() if value != shown[name]}
        try:
            if changes:
                await self.face.set_many(changes)
        except NotAllowed as error:
            return self._page(typed=typed, errors=error.refused)
        return _back("saved")

    def _page(
        self, *, said: str = "", typed: dict[str, str] | None = None, errors: dict[str, str] | None = None
    ) -> Response:
        text = page_html.render(
            self.face.status(),
            self.face.log_lines(limit=LOG_LINES),
            self.clock(),
            said=said,
            typed=typed or {},
            errors=errors or {},
        )
        return HTMLResponse(text, 422 if errors else 200)


def _back(said: str) -> Response:
    """To the page, which then says what was done; a reload does not do it again."""
    return RedirectResponse(f"/?said={said}", 303)


async def _form(request: Request) -> list[tuple[str, str]]:
    """The fields of a form as browsers send them. Raises HTTPException on anything else, and on a large one."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "send a form: application/x-www-form-urlencoded")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_BYTES:
            raise HTTPException(413, f"more than {FORM_BYTES} bytes")
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise HTTPException(400, "not a form") from None
