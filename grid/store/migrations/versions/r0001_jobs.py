"""Revision 0001: jobs, attempts, results, usage, the outbox of events, and API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

revision = "0001"
down_revision = None

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _jobs()
    _what_hangs_on_jobs()
    op.create_table(
        "outbox",
        Column("seq", NUMBER, primary_key=True, autoincrement=True),
        Column("job_id", NAME, nullable=False),
        Column("kind", sa.Text, nullable=False),
        Column("data", sa.Text, nullable=False),
        Column("at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_job", "outbox", ["job_id", "seq"])
    op.create_table(
        "api_keys",
        Column("id", NAME, primary_key=True),
        Column("prefix", NAME, nullable=False, unique=True),
        Column("sha256", sa.Text, nullable=False),
        Column("name", sa.Text, nullable=False),
        Column("scopes", sa.Text, nullable=False),
        Column("client_id", NAME, nullable=False),
        Column("requests_per_minute", sa.Integer),
        Column("created_at", sa.BigInteger, nullable=False),
        Column("expires_at", sa.BigInteger),
        Column("revoked_at", sa.BigInteger),
        Column("last_used_at", sa.BigInteger),
    )
    if op.get_bind().dialect.name == "postgresql":
        # a queue's rows change often and soon: leave room beside them, and clean up long before a fifth is dead
        op.execute("ALTER TABLE jobs SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02)")


def _jobs() -> None:
    op.create_table(
        "jobs",
        Column("id", NAME, primary_key=True),
        Column("type", NAME, nullable=False),
        Column("status", NAME, nullable=False),
        Column("priority", sa.Integer, nullable=False),
        Column("region", NAME),
        Column("allow_cross_region", sa.Boolean, nullable=False),
        Column("timeout_us", sa.BigInteger, nullable=False),
        Column("client_id", NAME, nullable=False),
        Column("client_ip", sa.Text),
        Column("trace_id", sa.Text),
        Column("idempotency_key", NAME),
        Column("body_sha256", sa.Text),
        Column("created_at", sa.BigInteger, nullable=False),
        Column("due_at", sa.BigInteger, nullable=False),
        Column("not_before", sa.BigInteger, nullable=False),
        Column("started_at", sa.BigInteger),
        Column("deadline", sa.BigInteger),
        Column("completed_at", sa.BigInteger),
        Column("fence", sa.BigInteger, nullable=False, server_default="0"),
        Column("holder", sa.Text),
        Column("lease_until", sa.BigInteger),
        Column("worker_id", NAME),
        Column("incarnation", sa.Text),
        Column("attempts", sa.Integer, nullable=False, server_default="0"),
        Column("errors", sa.Integer, nullable=False, server_default="0"),
        Column("deaths", sa.Integer, nullable=False, server_default="0"),
        Column("losses", sa.Integer, nullable=False, server_default="0"),
        Column("killed", sa.Text, nullable=False, server_default="[]"),
        Column("excluded", sa.Text, nullable=False, server_default="[]"),
        Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.text("false")),
        Column("progress", sa.Text),
        Column("error_code", sa.Text),
        Column("error", sa.Text),
        Column("params", sa.Text, nullable=False),
    )
    op.create_index("ix_jobs_client", "jobs", ["client_id", "id"])
    _partial("ux_jobs_idempotency", ["client_id", "idempotency_key"], "idempotency_key IS NOT NULL", unique=True)
    _partial("ix_jobs_queue", ["type", "due_at", "id"], "status = 'queued'")
    _partial("ix_jobs_waiting", ["created_at"], "status = 'queued'")
    _partial("ix_jobs_lease", ["type", "lease_until"], "status = 'running'")
    _partial("ix_jobs_ended", ["completed_at"], "completed_at IS NOT NULL")


def _partial(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(name, "jobs", columns, unique=unique, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def _what_hangs_on_jobs() -> None:
    def job(**options: bool) -> Column[str]:
        return Column("job_id", NAME, sa.ForeignKey("jobs.id", ondelete="CASCADE"), **options)  # type: ignore[arg-type]

    op.create_table(
        "attempts",
        job(primary_key=True),
        Column("fence", sa.BigInteger, primary_key=True, autoincrement=False),
        Column("holder", sa.Text, nullable=False),
        Column("worker_id", NAME),
        Column("incarnation", sa.Text),
        Column("claimed_at", sa.BigInteger, nullable=False),
        Column("begun_at", sa.BigInteger),
        Column("ended_at", sa.BigInteger),
        Column("outcome", sa.Text),
        Column("detail", sa.Text),
    )
    op.create_table(
        "results",
        job(primary_key=True),
        Column("fence", sa.BigInteger, nullable=False),
        Column("sha256", sa.Text, nullable=False),
        Column("result", sa.Text, nullable=False),
    )
    op.create_table(
        "usage",
        Column("job_id", NAME, primary_key=True),
        Column("client_id", NAME, nullable=False),
        Column("type", NAME, nullable=False),
        Column("worker_id", NAME, nullable=False),
        Column("seconds", sa.Float, nullable=False),
        Column("held_us", sa.BigInteger, nullable=False),
        Column("units", sa.Text),
        Column("at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_usage_type", "usage", ["type", "at"])
    op.create_index("ix_usage_worker", "usage", ["worker_id"])
