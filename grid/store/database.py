"""One database behind a pool of connections: SQLite or PostgreSQL, with the habits that keep what was promised."""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

from platformdirs import user_data_path
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, InternalError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from .errors import StoreUnavailable
from .grouping import Turns

Row = Mapping[str, Any]

LOCK_POLL = 0.002
"""Longest pause in seconds between two tries for SQLite's write lock."""
POSTGRES_NOW = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"
POSTGRES_OPTIONS = " ".join(
    f"-c {option}"
    for option in (
        "synchronous_commit=on",
        "timezone=UTC",
        # All that we ask goes through an index. A plan is made once for a statement and must not depend on how full
        # the tables were at that moment: a queue is empty at times.
        "plan_cache_mode=force_generic_plan",
        "enable_seqscan=off",
        "enable_bitmapscan=off",
        "enable_hashjoin=off",
        "enable_mergejoin=off",
        "jit=off",
    )
)
MISSING = ("UndefinedTable", "UndefinedColumn")
DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite+pysqlite"}
HOW_TO_NAME = "name one as sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE (IDLEGRID_DATABASE_URL)"


def default_url() -> URL:
    """The embedded database: a file in the user's data folder."""
    return URL.create("sqlite+pysqlite", database=str(user_data_path("idlegrid", appauthor=False) / "idlegrid.db"))


def parsed_url(url: str | None) -> URL:
    """The URL with our driver in it. Raises ValueError on a database that is none of the two."""
    if url is None:
        return default_url()
    try:
        parsed = make_url(url)
    except Exception as error:
        raise ValueError(f"the database's URL can't be read: {HOW_TO_NAME}") from error  # the URL may hold a password
    driver = DRIVERS.get(parsed.get_backend_name())
    if driver is None or (parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")):
        raise ValueError(f"jobs can't be kept in {parsed.render_as_string()!r}: {HOW_TO_NAME}")
    return parsed.set(drivername=driver)


@lru_cache(maxsize=256)
def psycopg_style(statement: str) -> str:
    """A statement with `:name` parameters as psycopg wants it; `:name::type` and strings without colons are safe."""
    return re.sub(r"(?<![:\w]):([a-z_]\w*)", r"%(\1)s", statement.replace("%", "%%"))


class Database:
    """Connections that either read, or write in one transaction that waits for the disk. Made lazily, thread-safe.

    PostgreSQL: single statements run without BEGIN and COMMIT around them. SQLite: every write takes the lock first
    (`BEGIN IMMEDIATE`), so that none fails in its middle; the threads of a process queue for its one writer.
    """

    def __init__(self, url: URL, *, pool_size: int, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        self._turns = Turns()
        self.postgres = url.get_backend_name() == "postgresql"
        if self.postgres:
            self._writer: Engine = _postgres_engine(url, pool_size, timeout)
            self._reader: Engine = self._writer.execution_options(isolation_level="AUTOCOMMIT")
        else:
            self._writer = _sqlite_writer(url, timeout)
            self._reader = _sqlite_reader(url, pool_size, timeout)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """For SELECTs; on PostgreSQL each statement sees what is committed when it starts."""
        with self._connected(self._reader) as connection:
            yield Session(connection, self.postgres)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed at the end of the block, rolled back when it raises."""
        turn = nullcontext() if self.postgres else self._turns.turn(self.timeout)
        with turn, self._connected(self._writer) as connection, connection.begin():
            yield Session(connection, self.postgres)

    @contextmanager
    def single(self) -> Iterator[Session]:
        """For one statement that writes: on PostgreSQL it is its own transaction."""
        with self.read() if self.postgres else self.write() as session:
            yield session

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()

    @contextmanager
    def _connected(self, engine: Engine) -> Iterator[Connection]:
        try:
            with engine.connect() as connection:
                yield connection
        except PoolTimeout as error:
            raise StoreUnavailable(f"no connection to the database was free within {self.timeout:g} s") from error
        except (OperationalError, InterfaceError, InternalError) as error:
            raise StoreUnavailable(f"the database can't be used now: {_first_line(error)}") from error
        except ProgrammingError as error:
            if type(error.orig).__name__ in MISSING:
                raise StoreUnavailable("the database has not the schema of this version: upgrade it first") from error
            raise
        except DatabaseError as error:
            if type(error) is DatabaseError:  # SQLite's word for a file that is damaged, or none of its own
                raise StoreUnavailable(f"the database can't be used: {_first_line(error)}") from error
            raise


class Session:
    """One connection while it is ours. SQL has `:name` parameters; `{now}` is the database's instant in µs."""

    __slots__ = ("_now", "connection", "postgres")

    def __init__(self, connection: Connection, postgres: bool) -> None:
        self.connection = connection
        self.postgres = postgres
        self._now: int | None = None

    @property
    def now(self) -> int:
        """The database's instant, read once for a session: inside a write it is later than any earlier write's."""
        if self._now is None:
            # SQLite is in this process: its clock is this machine's, and its own functions know only milliseconds
            self._now = int(self.all("SELECT {now} AS now", {})[0]["now"]) if self.postgres else _clock()
        return self._now

    def all(self, statement: str, parameters: Row) -> list[Row]:
        """Run a statement, give its rows."""
        return [row._mapping for row in self._execute(statement, parameters).fetchall()]

    def first(self, statement: str, parameters: Row) -> Row | None:
        """Run a statement, give its first row."""
        rows = self.all(statement, parameters)
        return rows[0] if rows else None

    def run(self, statement: str, parameters: Row) -> int:
        """Run a statement, give the number of rows that it changed."""
        return int(self._execute(statement, parameters).rowcount)

    def _execute(self, statement: str, parameters: Row) -> Any:
        if self.postgres:
            statement = psycopg_style(statement.replace("{now}", POSTGRES_NOW))
        elif "{now}" in statement:
            statement, parameters = statement.replace("{now}", ":now"), {**parameters, "now": self.now}
        return self.connection.exec_driver_sql(statement, dict(parameters))


def _clock() -> int:
    return time.time_ns() // 1000


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__


def _postgres_engine(url: URL, pool_size: int, timeout: float) -> Engine:
    seconds = max(2, round(timeout))
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        pool_use_lifo=True,
        hide_parameters=True,  # an error must not carry a prompt into a log
        connect_args={
            "connect_timeout": seconds,
            "application_name": "idlegrid",
            "options": f"-c lock_timeout={int(timeout * 1000)} {POSTGRES_OPTIONS}",
            "keepalives_idle": 10,
            "keepalives_interval": seconds,
            "keepalives_count": 3,
            "tcp_user_timeout": 4 * seconds * 1000,
        },
    )


def _sqlite_reader(url: URL, pool_size: int, timeout: float) -> Engine:
    engine = _sqlite_engine(url, pool_size, timeout)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _sqlite_writer(url: URL, timeout: float) -> Engine:
    """SQLite's own way to wait for a lock pauses longer and longer, up to 0.1 s: among busy processes one of them may
    never be lucky. So this one tries often, at random moments, and gives up when its time is over."""
    engine = _sqlite_engine(url, 1, timeout)

    @event.listens_for(engine, "connect")
    def no_waiting(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA busy_timeout=0")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        _patiently(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"), timeout)

    return engine


def _patiently(locking: Callable[[], object], timeout: float) -> None:
    """Try until the lock is ours; after `timeout` seconds the refusal is raised, any other error at once."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            locking()
        except (OperationalError, sqlite3.OperationalError) as error:
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0, LOCK_POLL))  # noqa: S311 - no secret
        else:
            return


def _is_locked(error: OperationalError | sqlite3.OperationalError) -> bool:
    code = getattr(error.orig if isinstance(error, OperationalError) else error, "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _sqlite_engine(url: URL, pool_size: int, timeout: float) -> Engine:
    engine = create_engine(
        url,
        paramstyle="named",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args={
            "timeout": timeout,
            "check_same_thread": False,
            "isolation_level": None,
            "cached_statements": 256,
        },
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # A new file changes its journal once, and processes that do so at once find it locked: SQLite does not always
        # wait here, as each of them may hold what the other one waits for. So the waiting is ours.
        connection.execute("PRAGMA busy_timeout=0")
        _patiently(lambda: connection.execute("PRAGMA journal_mode=WAL"), timeout)
        connection.execute(f"PRAGMA busy_timeout={int(timeout * 1000)}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def make_folder(url: URL) -> None:
    """The folder of an SQLite file, for its owner only: prompts and results lie there."""
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
