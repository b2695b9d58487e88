"""The store of a grid: one database, SQLite or PostgreSQL."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from .database import Database, make_folder, parsed_url
from .errors import StoreUnavailable
from .events import EventStore
from .jobs import JobStore
from .keys import KeyStore
from .migrations import runner
from .postgres import PostgresMoves
from .sqlite import SqliteMoves
from .workers import WorkerStore


class Store:
    """What a grid keeps. Make it with `open_store`; safe to use from many threads; not across a fork."""

    def __init__(self, database: Database, *, priority_step: float) -> None:
        self._database = database
        self.events = EventStore(database)
        hot = PostgresMoves() if database.postgres else SqliteMoves()
        self.jobs = JobStore(database, hot, priority_step=priority_step, told=self.events.told)
        self.keys = KeyStore(database)
        self.workers = WorkerStore(database)

    def upgrade(self) -> None:
        """Bring the database to this version's schema. Several processes may do it at once. Raises StoreUnavailable."""
        make_folder(self._database.url)
        runner.upgrade(self._database)

    def check(self) -> None:
        """Raises StoreUnavailable when the database doesn't answer or is not at this version's schema."""
        at, wanted = runner.current(self._database), runner.head()
        if at != wanted:
            raise StoreUnavailable(f"the database is at revision {at}, this version needs {wanted}: upgrade it first")

    def close(self) -> None:
        """Close all connections and end the thread that watches for events."""
        self.events.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_store(
    url: str | None = None, *, pool_size: int = 16, timeout: float = 5.0, priority_step: float = 60.0
) -> Store:
    """The store at an SQLAlchemy URL; without one, the embedded SQLite file in the user's data folder.

    `timeout` bounds each wait for a connection or a lock, in seconds. `priority_step`: waiting so many seconds counts
    as much as one step of priority. Connects at the first use. Raises ValueError on a URL of another database.
    """
    return Store(Database(parsed_url(url), pool_size=pool_size, timeout=timeout), priority_step=priority_step)
