"""Revision 0003: donors that register: enrolments, tokens in families, nonces, audit; what workers report and are told,
and what is known of their past.

The table of credentials is made anew: before this revision nothing ever wrote to it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

revision = "0003"
down_revision = "0002"

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("attempts", Column("verdicts", sa.Text))
    op.create_index("ix_attempts_worker", "attempts", ["worker_id", "begun_at"])
    op.drop_index("ix_usage_worker", "usage")
    op.create_index("ix_usage_worker", "usage", ["worker_id", "at"])
    _workers()
    op.drop_table("credentials")
    _credentials()
    op.create_table(
        "enrolments",
        Column("id", NAME, primary_key=True),
        Column("prefix", NAME, nullable=False, unique=True),
        Column("digest", sa.Text, nullable=False),
        Column("owner", NAME),
        Column("created_at", sa.BigInteger, nullable=False),
        Column("expires_at", sa.BigInteger, nullable=False),
        Column("used_at", sa.BigInteger),
        Column("worker_id", NAME),
        Column("revoked_at", sa.BigInteger),
    )
    op.create_table(
        "nonces",
        Column("key_id", NAME, primary_key=True),
        Column("nonce", NAME, primary_key=True),
        Column("at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_nonces_at", "nonces", ["at"])
    op.create_table(
        "audit",
        Column("seq", NUMBER, primary_key=True, autoincrement=True),
        Column("at", sa.BigInteger, nullable=False),
        Column("kind", NAME, nullable=False),
        Column("worker_id", NAME),
        Column("actor", sa.Text),
        Column("address", sa.Text),
        Column("detail", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_worker", "audit", ["worker_id", "seq"])
    op.create_index("ix_sessions_ended", "sessions", ["ended_at", "id"])
    op.create_table(
        "histories", Column("worker_id", NAME, primary_key=True), Column("history", sa.Text, nullable=False)
    )
    op.create_table(
        "marks",
        Column("name", NAME, primary_key=True),
        Column("at", sa.BigInteger, nullable=False),
        Column("id", NAME, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        # heartbeats change the same few rows all the time: leave room beside them
        op.execute("ALTER TABLE workers SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02)")


def _workers() -> None:
    for column in (
        Column("gpu_count", sa.Integer, nullable=False, server_default="0"),
        Column("models", sa.Text),
        Column("direct_url", sa.Text),
        Column("role", sa.Text, nullable=False, server_default="hybrid"),
        Column("owner", NAME),
        Column("incarnation", sa.Text),
        Column("paused_reason", sa.Text),
        Column("report", sa.Text),
        Column("commands", sa.Text, nullable=False, server_default="[]"),
        Column("reliability", sa.Text),
        Column("blocked_at", sa.BigInteger),
        Column("unlocked_at", sa.BigInteger),
    ):
        op.add_column("workers", column)


def _credentials() -> None:
    op.create_table(
        "credentials",
        Column("id", NAME, primary_key=True),
        Column("worker_id", NAME, sa.ForeignKey("workers.id", ondelete="CASCADE"), nullable=False),
        Column("kind", NAME, nullable=False),
        Column("prefix", NAME, nullable=False),
        Column("digest", sa.Text, nullable=False),
        Column("family", NAME, nullable=False),
        Column("generation", sa.Integer, nullable=False),
        Column("created_at", sa.BigInteger, nullable=False),
        Column("expires_at", sa.BigInteger),
        Column("spent_at", sa.BigInteger),
        Column("sealed", sa.Text),
        Column("revoked_at", sa.BigInteger),
    )
    op.create_index("ux_credentials_prefix", "credentials", ["kind", "prefix"], unique=True)
    op.create_index("ix_credentials_worker", "credentials", ["worker_id", "kind"])
