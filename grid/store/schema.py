"""The tables, for both databases. What changes here needs a migration (`migrations/`); a test compares the two.

Instants are µs since the epoch (UTC) in `BigInteger`; JSON is text of our own, which is read whole or not at all.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

metadata = MetaData()

NAME = Text().with_variant(Text(collation="C"), "postgresql")
"""Compared byte by byte, whatever the database's locale."""
NUMBER = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite counts up by itself only in what it calls INTEGER."""

jobs = Table(
    "jobs",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("type", NAME, nullable=False),
    Column("status", NAME, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("region", NAME),
    Column("allow_cross_region", Boolean, nullable=False),
    Column("bound_to", NAME, nullable=False, server_default=""),  # the region it may not leave; '': it may run anywhere
    Column("timeout_us", BigInteger, nullable=False),
    Column("client_id", NAME, nullable=False),
    Column("client_ip", Text),
    Column("trace_id", Text),
    Column("idempotency_key", NAME),
    Column("body_sha256", Text),
    Column("created_at", BigInteger, nullable=False),
    Column(
        "due_at", BigInteger, nullable=False
    ),  # created_at - priority x step: the queue's order, which never changes
    Column("not_before", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("deadline", BigInteger),
    Column("completed_at", BigInteger),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("holder", Text),
    Column("lease_until", BigInteger),
    Column("worker_id", NAME),
    Column("incarnation", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("errors", Integer, nullable=False, server_default="0"),
    Column("deaths", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("killed", Text, nullable=False, server_default="[]"),
    Column("excluded", Text, nullable=False, server_default="[]"),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("progress", Text),
    Column("error_code", Text),
    Column("error", Text),
    Column("params", Text, nullable=False),  # the last one: SQLite reads what stands before it without it
)
Index(
    "ux_jobs_idempotency",
    jobs.c.client_id,
    jobs.c.idempotency_key,
    unique=True,
    postgresql_where=text("idempotency_key IS NOT NULL"),
    sqlite_where=text("idempotency_key IS NOT NULL"),
)
Index("ix_jobs_client", jobs.c.client_id, jobs.c.id)
for _name, _columns, _status in (
    ("ix_jobs_lane", ("type", "bound_to", "due_at", "id"), "queued"),
    ("ix_jobs_waiting", ("created_at",), "queued"),
    ("ix_jobs_lease", ("type", "lease_until"), "running"),
):
    _where = text(f"status = '{_status}'")
    Index(_name, *(jobs.c[column] for column in _columns), postgresql_where=_where, sqlite_where=_where)
_ended = text("completed_at IS NOT NULL")
Index("ix_jobs_ended", jobs.c.completed_at, postgresql_where=_ended, sqlite_where=_ended)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", NAME, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("fence", BigInteger, primary_key=True, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("worker_id", NAME),
    Column("incarnation", Text),
    Column("claimed_at", BigInteger, nullable=False),
    Column("begun_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("outcome", Text),
    Column("detail", Text),
)

results = Table(
    "results",
    metadata,
    Column("job_id", NAME, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("result", Text, nullable=False),
)

usage = Table(  # no foreign key: what was used is still known when the job is deleted
    "usage",
    metadata,
    Column("job_id", NAME, primary_key=True),
    Column("client_id", NAME, nullable=False),
    Column("type", NAME, nullable=False),
    Column("worker_id", NAME, nullable=False),
    Column("seconds", Float, nullable=False),  # as the worker measured
    Column("held_us", BigInteger, nullable=False),  # from begin to completion, by the database's clock
    Column("units", Text),
    Column("at", BigInteger, nullable=False),
)
Index("ix_usage_type", usage.c.type, usage.c.at)
Index("ix_usage_worker", usage.c.worker_id)

outbox = Table(
    "outbox",
    metadata,
    Column("seq", NUMBER, primary_key=True, autoincrement=True),
    Column("job_id", NAME, nullable=False),
    Column("kind", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    sqlite_autoincrement=True,  # a number is never given twice, not even after its row is gone
)
Index("ix_outbox_job", outbox.c.job_id, outbox.c.seq)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("prefix", NAME, nullable=False, unique=True),
    Column("sha256", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("client_id", NAME, nullable=False),
    Column("requests_per_minute", Integer),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
)

workers = Table(
    "workers",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("region", NAME),
    Column("country", Text),
    Column("city", Text),
    Column("gpu_model", Text),
    Column("gpu_memory_gb", Float, nullable=False),
    Column("supported_types", Text, nullable=False),
    Column("config", Text),
    Column("config_version", Integer, nullable=False, server_default="0"),
    Column("registered_at", BigInteger, nullable=False),
    Column("last_heartbeat", BigInteger),
)

sessions = Table(  # one stay of a worker: what its online stability is counted from
    "sessions",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("worker_id", NAME, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("graceful", Boolean),
    ForeignKeyConstraint(["worker_id"], ["workers.id"], ondelete="CASCADE"),
)
Index("ix_sessions_worker", sessions.c.worker_id, sessions.c.started_at)

credentials = Table(  # hashes only, of tokens of any kind
    "credentials",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("worker_id", NAME, nullable=False),
    Column("kind", Text, nullable=False),
    Column("prefix", NAME, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    ForeignKeyConstraint(["worker_id"], ["workers.id"], ondelete="CASCADE"),
)
Index("ix_credentials_prefix", credentials.c.prefix)
