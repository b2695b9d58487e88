"""Keeps what is known of workers' pasts: has it counted, ends the stays of the silent, and tells whoever places work.

The store's half takes its time in a thread of its own; the dispatcher never waits for it, but once: before the first
jobs go out over a new link, the scheduler there knows whom to rely on. A scheduler that was started again remembers
nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from ...grid.job_types import job_types
from ...grid.reliability import History
from ...grid.store import Store, StoreUnavailable
from .link import Link

EVERY = 10.0
"""Seconds between two times that the past is counted and told."""
SILENT_BEATS = 3
"""A worker is gone that missed so many heartbeats."""


@dataclass(frozen=True, slots=True)
class Pasts:
    """What there is to tell."""

    histories: dict[str, History]
    usual: dict[str, float]
    """Job type → how long it usually takes, in s."""
    blocked: frozenset[str] = frozenset()
    """Ids of the workers that an administrator has blocked."""


class Historian:
    """One for each dispatcher; several may count side by side. Its methods may raise StoreUnavailable, LinkLost."""

    def __init__(self, store: Store, *, heartbeat: float, every: float = EVERY) -> None:
        """`heartbeat`: seconds between two heartbeats of a worker."""
        self._store, self._silent, self._every = store, SILENT_BEATS * heartbeat, every
        self._since: float | None = None
        self._due = float("-inf")
        self._work: asyncio.Task[Pasts] | None = None
        self._pasts: Pasts | None = None
        self._heard: Link | None = None

    async def look(self, link: Link) -> None:
        """Have the past counted when it is time, and tell the scheduler behind `link` what came out."""
        now = asyncio.get_running_loop().time()
        self._since = now if self._since is None else self._since
        if self._work is None and now >= self._due:
            self._due = now + self._every
            # after a standstill of the whole grid everybody has time to speak up before being taken for gone
            sweep = now - self._since > self._silent
            self._work = asyncio.create_task(asyncio.to_thread(self._count, sweep))
        if self._work is not None and (self._work.done() or self._pasts is None):
            work, self._work = self._work, None
            self._pasts, self._heard = await work, None
        if self._pasts is not None and self._heard is not link:
            await link.tell(self._pasts.histories, self._pasts.usual, self._pasts.blocked)
            self._heard = link

    async def close(self) -> None:
        """Wait for what is being counted: the store is about to be closed."""
        work, self._work = self._work, None
        if work is not None:
            with suppress(StoreUnavailable):
                await work

    def _count(self, sweep: bool) -> Pasts:
        sessions = self._store.sessions
        if sweep:
            sessions.sweep(self._silent)
        sessions.count()
        histories = sessions.histories()
        sessions.rate(histories, datetime.now(UTC))
        return Pasts(histories, sessions.usual_seconds(job_types()), self._store.donors.blocked())
