"""Runs an agent in this process: its log, its place on this machine, its doors for the owner, and the signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import AsyncIterator

from ...grid.credentials import BadCredentials
from ..ports import LOOPBACK, CannotStart
from ..signals import Say, leave_on_signals, quiet
from .agent import Agent
from .control import control_app, listening, serving
from .log import LogRing, logging_to
from .membership import Options
from .page import opening_file, page_app, page_url
from .state import Home, write_private

logger = logging.getLogger(__name__)
PROMISE = "what runs is finished first"


def run_agent(home: Home, options: Options, say: Say) -> None:
    """Work for the grid that this home joined, until a signal, its owner or the grid ends it.

    Raises CannotStart: not joined yet, or an agent runs already; ConfigError.
    """
    ring = LogRing()
    quiet()
    with home.held(), logging_to(home.log, ring):
        asyncio.run(_run(home, options, ring, say))


async def _run(home: Home, options: Options, ring: LogRing, say: Say) -> None:
    try:
        agent = Agent(home, options, ring)
    except FileNotFoundError:
        raise CannotStart("this machine has not joined a grid: gpu-worker join URL TOKEN") from None
    except BadCredentials as error:
        raise CannotStart(str(error)) from None
    leave_on_signals(say, PROMISE, agent.leave, agent.stop_now)
    async with _page(agent, home) as page, listening(home.control_socket, control_app(agent, lambda: page)):
        await agent.run()


@contextlib.asynccontextmanager
async def _page(agent: Agent, home: Home) -> AsyncIterator[str]:
    """The owner's page on loopback while the context is open; yields its URL, with what opens it."""
    place = socket.socket()
    place.bind((LOOPBACK, 0))
    port, token = place.getsockname()[1], secrets.token_urlsafe(32)
    async with serving(page_app(agent, token, port=port), place):
        write_private(home.page_file, opening_file(token, port))
        try:
            yield page_url(token, port)
        finally:
            home.page_file.unlink(missing_ok=True)
