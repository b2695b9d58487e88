"""The store of a grid: one database, SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from ..vault import Vault
from .audit import AuditStore, By
from .batches import BatchStore
from .credentials import CredentialStore
from .database import Database, make_folder, parsed_url
from .deployments import DeploymentStore
from .donors import DonorStore
from .enrolments import EnrolmentStore
from .errors import StoreUnavailable
from .events import EventStore
from .files import FileStore
from .jobs import JobStore
from .keys import KeyStore
from .leases import LeaseStore
from .migrations import runner
from .nonces import NonceStore
from .postgres import PostgresMoves
from .sessions import SessionStore
from .sqlite import SqliteMoves
from .workers import WorkerStore


class Store:
    """What a grid keeps. Make it with `open_store`; safe to use from many threads; not across a fork."""

    def __init__(self, database: Database, *, priority_step: float, secret: Callable[[], bytes]) -> None:
        self._database = database
        self.events = EventStore(database)
        hot = PostgresMoves() if database.postgres else SqliteMoves()
        self.jobs = JobStore(database, hot, priority_step=priority_step, told=self.events.told)
        self.keys = KeyStore(database)
        self.workers = WorkerStore(database)
        self.sessions = SessionStore(database)
        vault = Vault(secret)
        self.enrolments = EnrolmentStore(database, vault)
        self.credentials = CredentialStore(database, vault)
        self.nonces = NonceStore(database)
        self.donors = DonorStore(database, self.nonces)
        self.audit = AuditStore(database)
        self.deployments = DeploymentStore(database)
        self.leases = LeaseStore(database)
        self.files = FileStore(database)
        self.batches = BatchStore(database)

    def upgrade(self) -> None:
        """Bring the database to this version's schema. Several processes may do it at once. Raises StoreUnavailable."""
        make_folder(self._database.url)
        runner.upgrade(self._database)

    def block(self, worker_id: str, by: By) -> bool:
        """Let nothing of a worker in any more, and give what it runs to others. False: nobody knows it."""
        known = self.donors.block(worker_id, by)
        if known:
            self.jobs.take_back(worker_id, "an administrator has blocked this worker")
        return known

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
    url: str | None = None,
    *,
    pool_size: int = 16,
    timeout: float = 5.0,
    priority_step: float = 60.0,
    secret: Callable[[], bytes] | None = None,
) -> Store:
    """The store at an SQLAlchemy URL; without one, the embedded SQLite file in the user's data folder.

    `timeout` bounds each wait for a connection or a lock, in seconds. `priority_step`: waiting so many seconds counts
    as much as one step of priority. `secret` gives the grid's secret, which protects what donors are let in with; it is
    asked at the first use of those. Connects at the first use. Raises ValueError on a URL of another database.
    """
    database = Database(parsed_url(url), pool_size=pool_size, timeout=timeout)
    return Store(database, priority_step=priority_step, secret=secret or _no_secret)


def _no_secret() -> bytes:
    raise ValueError("this store was opened without the grid's secret: it knows no donors' tokens")
