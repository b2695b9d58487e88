"""The language models of one HTTP service: those that it was told to serve itself, and the store's deployments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp

from ..grid import catalogue
from ..grid.config import Settings
from ..grid.deployments import DeploymentSpec
from ..pipelines.llm.lack import Limits
from ..pipelines.llm.service import LlmService
from .desired import deployment_of
from .following import Follower
from .http.jobs_door import JobDoor
from .http.passing import Passing
from .llm_backend import ServiceBackend
from .oracle import SchedulerOracle

WAIT = 60.0
"""Seconds that a request waits for a replica."""
LOADS = 30.0
"""Seconds for a donor that came back at the last moment to load its layers."""
EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - that is what they mean
"""Hosts at which nobody can be called."""


@dataclass(frozen=True, slots=True)
class LanguageModels:
    """What the HTTP service needs of them."""

    chat: ServiceBackend
    follower: Follower

    def passing(self, settings: Settings, app: ASGIApp) -> Passing:
        """Around the application: what another process serves is passed on to it."""
        return Passing(
            app,
            elsewhere=lambda: self.follower.elsewhere,
            here=self._names,
            timeout=settings.api.generation_timeout,
        )

    async def _names(self) -> Collection[str]:
        return {name for model in await self.chat.here() for name in (model.id, *model.aliases)}


@contextlib.asynccontextmanager
async def language_models(
    address: str, models: Sequence[str], jobs: JobDoor, *, must_answer: bool
) -> AsyncIterator[LanguageModels]:
    """Replicas on their way as soon as the follower is started; clients are told while there is none yet.

    `models`: those that this process serves whatever the store says. Raises NoScheduler when one must answer.
    """
    names = dict.fromkeys(catalogue.canonical(model, "llm") for model in models)
    own = [deployment_of(DeploymentSpec(model=name)) for name in names]
    board = SchedulerOracle(address)
    holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        back = jobs.settings.api.return_wait
        async with LlmService(
            address, own, wait=max(WAIT, back + LOADS), limits=Limits(back=back), must_answer=must_answer
        ) as service:
            follower = Follower(jobs.store, service, holder, own=own, board=board)
            try:
                chat = ServiceBackend(service, lambda: follower.elsewhere.models if follower.elsewhere else ())
                yield LanguageModels(chat, follower)
            finally:
                await asyncio.shield(follower.close())
    finally:
        await board.close()


def place_of(settings: Settings, url: str) -> str | None:
    """Where other processes of the grid reach the service that listens at `url`. None: nobody can say."""
    if settings.api.peer_url is not None:
        return settings.api.peer_url.rstrip("/")
    return None if settings.api.host in EVERYWHERE else url
