"""Direct mode in a worker process: the endpoint in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn

from ...grid.config import Settings
from ...grid.config.donor import Direct
from ...grid.credentials import Credentials
from ..patient_http import PatientProtocol
from .direct import Endpoint
from .direct_work import CannotListen, Places
from .spent_tickets import FILE, SpentTickets

CONNECTIONS = 128
"""Connections at the same time; beyond it 503."""
KEEP_ALIVE = 30
"""Seconds for which an idle connection is kept."""
STARTING = 30.0
PARTING = 2.0


class DirectServer:
    """Serves an ASGI app on `direct.host` and `direct.port` until `stop`."""

    def __init__(self, make: Callable[[], Any], direct: Direct) -> None:
        """`make` is called on the loop that serves. Raises CannotListen: a taken port, or no such certificate."""
        self._make, self._direct = make, direct
        self._server: uvicorn.Server | None = None
        self._ready = threading.Event()
        self._tls = _tls(direct)
        self._socket = _listening(direct)
        self._thread = threading.Thread(target=self._run, name="idlegrid-direct", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        """Serve from now on. Raises CannotListen."""
        self._thread.start()
        if not self._ready.wait(STARTING) or self._server is None:
            raise CannotListen(f"the endpoint at {self.url} did not start")

    def stop(self) -> None:
        """Close the endpoint; what it still answers is cut off after `PARTING` seconds."""
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(2 * PARTING)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        config = uvicorn.Config(
            self._make(),
            http=PatientProtocol,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=int(PARTING),
        )
        config.load()
        config.ssl = self._tls
        self._server = uvicorn.Server(config)
        self._ready.set()  # connections wait in the socket's queue from here on
        await self._server.serve(sockets=[self._socket])


def serve_direct(
    places: Places, credentials: Callable[[], Credentials], settings: Settings, folder: Path
) -> DirectServer:
    """The endpoint of a worker, serving. `folder` keeps its tickets. Raises CannotListen, OSError."""
    spent, most = SpentTickets(folder / FILE, datetime.now(UTC)), int(settings.api.max_body_mb * 1_000_000)
    server = DirectServer(Endpoint(places, credentials, spent, max_body=most).app, settings.direct)
    server.start()
    return server


def _listening(direct: Direct) -> socket.socket:
    family = socket.AF_INET6 if ":" in direct.host else socket.AF_INET
    try:
        listening = socket.create_server((direct.host, direct.port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        told = error.strerror or str(error)
        raise CannotListen(f"direct mode can't listen on {direct.host}:{direct.port}: {told} (direct.port)") from error
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _tls(direct: Direct) -> ssl.SSLContext | None:
    if direct.tls_cert is None or direct.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(direct.tls_cert, direct.tls_key)
    except (OSError, ssl.SSLError) as error:
        told = error.strerror or str(error)
        raise CannotListen(f"{direct.tls_cert} with {direct.tls_key} is no certificate with its key: {told}") from error
    return context
