"""A store on each database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import PostgresServer

from idlegrid.grid.store import Store, open_store
from idlegrid.grid.store.schema import metadata

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests

TABLES = ", ".join(metadata.tables)


@pytest.fixture
def emptied_postgres_url(postgres_server: PostgresServer, _postgres_template: str) -> str:
    """One database for all tests of the store, emptied before each: faster than a new one."""
    name = "store_tests"
    with postgres_server.connect() as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {_postgres_template}".encode())
    with postgres_server.connect(name) as connection:
        connection.execute(f"TRUNCATE {TABLES} RESTART IDENTITY".encode())
    return postgres_server.url(name)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database of each kind, with our schema."""
    return str(request.getfixturevalue("emptied_postgres_url" if request.param == "postgres" else "sqlite_url"))


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url, timeout=30.0, secret=lambda: b"a secret of the tests, 32 bytes!") as store:
        yield store
