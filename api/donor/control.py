"""How the command line speaks with the running agent: HTTP over a Unix socket that only its owner can open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..quiet_server import QuietServer
from .face import AgentFace, AgentStatus, LogLine

PATIENCE = 15.0
"""Seconds that an agent has to answer."""
_STATUS = TypeAdapter(AgentStatus)
_LINES = TypeAdapter(list[LogLine])


class NotRunning(ConnectionError):
    """No agent answers. The message says what to do."""


def control_app(face: AgentFace, page: Callable[[], str | None]) -> Starlette:
    """The doors of the socket. `page`: the URL of the owner's page, None without one."""

    async def status(_: Request) -> Response:
        return JSONResponse({"status": _plain(asdict(face.status())), "page": page()})

    async def pause(request: Request) -> Response:
        seconds = (await request.json())["seconds"]
        await face.pause(None if seconds is None else float(seconds))
        return await status(request)

    async def resume(request: Request) -> Response:
        await face.resume()
        return await status(request)

    async def drain(request: Request) -> Response:
        await face.drain()
        return await status(request)

    async def change(request: Request) -> Response:
        said = await request.json()
        try:
            await face.set(str(said["key"]), str(said["value"]))
        except ValueError as error:
            return JSONResponse({"detail": str(error)}, 422)
        return await status(request)

    async def logs(request: Request) -> Response:
        after, limit = (int(request.query_params.get(name, usual)) for name, usual in (("after", 0), ("limit", 200)))
        return JSONResponse([_plain(asdict(line)) for line in face.log_lines(after, limit)])

    return Starlette(
        routes=[
            Route("/status", status, methods=["GET"]),
            Route("/logs", logs, methods=["GET"]),
            Route("/pause", pause, methods=["POST"]),
            Route("/resume", resume, methods=["POST"]),
            Route("/drain", drain, methods=["POST"]),
            Route("/set", change, methods=["POST"]),
        ]
    )


class Control:
    """The command line's side. Every method raises NotRunning when no agent answers."""

    def __init__(self, path: Path) -> None:
        """`path`: of the socket."""
        self._path = path

    def status(self) -> tuple[AgentStatus, str | None]:
        """How the agent is, and the URL of its page."""
        return self._status("GET", "/status")

    def pause(self, seconds: float | None) -> AgentStatus:
        """Free the device now; None: until `resume`."""
        return self._status("POST", "/pause", {"seconds": seconds})[0]

    def resume(self) -> AgentStatus:
        """Take work again."""
        return self._status("POST", "/resume")[0]

    def drain(self) -> AgentStatus:
        """Finish what runs, then end."""
        return self._status("POST", "/drain")[0]

    def set(self, key: str, value: str) -> AgentStatus:
        """Change a setting. Raises ValueError with what is allowed."""
        return self._status("POST", "/set", {"key": key, "value": value})[0]

    def logs(self, after: int = 0, limit: int = 200) -> list[LogLine]:
        """Lines of the log, oldest first."""
        return _LINES.validate_python(self._ask("GET", f"/logs?after={after}&limit={limit}"))

    def _status(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[AgentStatus, str | None]:
        said = self._ask(method, path, body)
        return _STATUS.validate_python(said["status"]), said["page"]

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            self._knock()
            transport = httpx.HTTPTransport(uds=str(self._path))
            with httpx.Client(transport=transport, base_url="http://agent", timeout=PATIENCE) as client:
                response = client.request(method, path, json=body)
        except (OSError, httpx.TransportError):
            raise NotRunning("no agent runs here; `gpu-worker start` starts it") from None
        if response.status_code == 422:
            raise ValueError(response.json()["detail"])
        response.raise_for_status()
        return response.json()

    def _knock(self) -> None:
        """Raises OSError: nobody listens. (httpcore leaves its socket open then.)"""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.connect(str(self._path))


@contextlib.asynccontextmanager
async def listening(path: Path, app: Any) -> AsyncIterator[None]:
    """Serve `app` at the Unix socket `path` (0600) while the context is open. What lay there is replaced."""
    try:
        async with serving(app, _bound(path)):
            yield
    finally:
        _remove(path)


@contextlib.asynccontextmanager
async def serving(app: Any, place: socket.socket) -> AsyncIterator[None]:
    """Serve `app` at a bound socket while the context is open; the socket is closed in the end."""
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, server_header=False, proxy_headers=False
    )
    config.timeout_graceful_shutdown = 2
    server = QuietServer(config)
    running = asyncio.create_task(server.serve(sockets=[place]))
    try:
        await server.answers.wait()
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([running])
        place.close()


def _bound(path: Path) -> socket.socket:
    _remove(path)
    place = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # nobody else may ever have opened it
    try:
        place.bind(str(path))
    finally:
        os.umask(mask)
    return place


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """As JSON types; instants in ISO form."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return [_plain(part) for part in value]
    return value.isoformat() if isinstance(value, datetime) else value
