"""The store for a process that serves: opened, brought to this version's schema, waited for while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ..grid.config import Settings
from ..grid.secret import load_secret
from ..grid.store import Store, StoreUnavailable, open_store
from .parent import supervised
from .ports import CannotStart

RETRY = 1.0
"""Seconds between two tries to reach a database that is away."""


@asynccontextmanager
async def opened(settings: Settings, stop: asyncio.Event) -> AsyncIterator[Store | None]:
    """The configured store, ready for use; None when `stop` came first.

    Raises CannotStart for a URL that is none, and, in a process that nobody starts again, when the database is away.
    """
    try:
        store = connected(settings)
    except ValueError as error:
        raise CannotStart(f"database.url: {error}") from error
    try:
        yield store if await _upgraded(store, stop) else None
    finally:
        await asyncio.to_thread(store.close)


def connected(settings: Settings) -> Store:
    """The configured store, not looked at yet. Raises ValueError."""
    database, jobs = settings.database, settings.jobs
    return open_store(
        database.url,
        pool_size=database.pool_size,
        timeout=database.timeout,
        priority_step=jobs.priority_step,
        secret=lambda: load_secret(database.secret_file),
    )


async def _upgraded(store: Store, stop: asyncio.Event) -> bool:
    while not stop.is_set():
        try:
            await asyncio.to_thread(store.upgrade)
            return True
        except StoreUnavailable as error:
            if not supervised():
                raise CannotStart(f"the database can't be used: {error}") from error
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RETRY)
    return False
