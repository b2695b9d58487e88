"""Brings a database to a revision: one process at a time, the whole way or not at all."""

from __future__ import annotations

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from ..database import Database
from ..errors import StoreUnavailable

LOCK = 0x1D7E_6A1D
"""The key of PostgreSQL's advisory lock: whoever upgrades a grid's database holds it."""


def _scripts() -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", f"{__package__}:")
    config.set_main_option("path_separator", "os")
    return config, ScriptDirectory.from_config(config)


def head() -> str:
    """The revision that this version of the code works with."""
    revision = _scripts()[1].get_current_head()
    assert revision is not None
    return revision


def revisions() -> list[str]:
    """All revisions, the first one first."""
    return [script.revision for script in _scripts()[1].walk_revisions()][::-1]


def current(database: Database) -> str | None:
    """The revision that the database is at; None: it is empty."""
    with database.read() as session:
        return MigrationContext.configure(session.connection).get_current_revision()


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the database to a revision. Raises StoreUnavailable when it is newer than this version of the code."""
    with database.write() as session:
        _wait_for_our_turn(session.connection, database)
        known = set(revisions())
        at = MigrationContext.configure(session.connection).get_current_revision()
        if at is not None and at not in known:
            raise StoreUnavailable(
                f"the database is at revision {at}, which a newer version made: upgrade this program"
            )
        _migrate(session.connection, revision)


def _wait_for_our_turn(connection: Connection, database: Database) -> None:
    """On PostgreSQL an advisory lock until the transaction ends; SQLite's write lock is held already."""
    if database.postgres:
        connection.execute(text("SET LOCAL lock_timeout = '120s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def _migrate(connection: Connection, revision: str) -> None:
    config, scripts = _scripts()

    def steps(at: tuple[str, ...], _context: MigrationContext) -> list[object]:
        return scripts._upgrade_revs(revision, at)  # type: ignore[arg-type, return-value]

    with EnvironmentContext(config, scripts, fn=steps, destination_rev=revision) as environment:
        environment.configure(connection=connection, transaction_per_migration=False)
        environment.run_migrations()
