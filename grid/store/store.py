"""The store of a grid: one database, SQLite or PostgreSQL."""

from __future__ import annotations

from .events import EventStore
from .jobs import JobStore
from .keys import KeyStore
from .workers import WorkerStore


class Store:
    """What a grid keeps. Make it with `open_store`; safe to use from many threads; not across a fork."""

    jobs: JobStore
    events: EventStore
    keys: KeyStore
    workers: WorkerStore

    def upgrade(self) -> None:
        """Bring the database to this version's schema. Several processes may do it at once. Raises StoreUnavailable."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises StoreUnavailable when the database doesn't answer or is not at this version's schema."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all connections and end the thread that watches for events."""
        raise NotImplementedError


def open_store(
    url: str | None = None, *, pool_size: int = 16, timeout: float = 5.0, priority_step: float = 60.0
) -> Store:
    """The store at an SQLAlchemy URL; without one, the embedded SQLite file in the user's data folder.

    `timeout` bounds each wait for a connection or a lock, in seconds. `priority_step`: waiting so many seconds counts
    as much as one step of priority. Connects at the first use. Raises ValueError on a URL of another database.
    """
    raise NotImplementedError
