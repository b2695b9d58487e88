"""Revision 0002: the queue has a lane for each region that jobs may not leave; workers, their stays and credentials.

A job bound to a region where nobody works would else be looked at by every claim of every other region.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

revision = "0002"
down_revision = "0001"

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("jobs", Column("bound_to", NAME, nullable=False, server_default=""))
    op.execute("UPDATE jobs SET bound_to = region WHERE region IS NOT NULL AND NOT allow_cross_region")
    waiting = sa.text("status = 'queued'")
    op.drop_index("ix_jobs_queue", "jobs")
    op.create_index(
        "ix_jobs_lane",
        "jobs",
        ["type", "bound_to", "due_at", "id"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
    _workers()
    op.create_table(
        "sessions",
        Column("id", NAME, primary_key=True),
        Column("worker_id", NAME, sa.ForeignKey("workers.id", ondelete="CASCADE"), nullable=False),
        Column("incarnation", sa.Text, nullable=False),
        Column("started_at", sa.BigInteger, nullable=False),
        Column("ended_at", sa.BigInteger),
        Column("graceful", sa.Boolean),
    )
    op.create_index("ix_sessions_worker", "sessions", ["worker_id", "started_at"])
    op.create_table(
        "credentials",
        Column("id", NAME, primary_key=True),
        Column("worker_id", NAME, sa.ForeignKey("workers.id", ondelete="CASCADE"), nullable=False),
        Column("kind", sa.Text, nullable=False),
        Column("prefix", NAME, nullable=False),
        Column("sha256", sa.Text, nullable=False),
        Column("created_at", sa.BigInteger, nullable=False),
        Column("expires_at", sa.BigInteger),
        Column("revoked_at", sa.BigInteger),
    )
    op.create_index("ix_credentials_prefix", "credentials", ["prefix"])


def _workers() -> None:
    op.create_table(
        "workers",
        Column("id", NAME, primary_key=True),
        Column("name", sa.Text, nullable=False),
        Column("status", sa.Text, nullable=False),
        Column("region", NAME),
        Column("country", sa.Text),
        Column("city", sa.Text),
        Column("gpu_model", sa.Text),
        Column("gpu_memory_gb", sa.Float, nullable=False),
        Column("supported_types", sa.Text, nullable=False),
        Column("config", sa.Text),
        Column("config_version", sa.Integer, nullable=False, server_default="0"),
        Column("registered_at", sa.BigInteger, nullable=False),
        Column("last_heartbeat", sa.BigInteger),
    )
