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
    Column("verdicts", Text),  # what placement said of the donors when it was given
)
Index("ix_attempts_worker", attempts.c.worker_id, attempts.c.begun_at)

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
Index("ix_usage_worker", usage.c.worker_id, usage.c.at)

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
    Column("gpu_count", Integer, nullable=False, server_default="0"),
    Column("models", Text),  # ids it is restricted to; null: any model of its types
    Column("direct_url", Text),  # as the donor says: nobody here ever follows it
    Column("role", Text, nullable=False, server_default="hybrid"),
    Column("owner", NAME),  # of the enrolment that let it in
    Column("incarnation", Text),  # the process that was heard of last
    Column("paused_reason", Text),
    Column("report", Text),  # the rest of its last heartbeat
    Column("commands", Text, nullable=False, server_default="[]"),  # for the worker, until a heartbeat shows them done
    Column("reliability", Text),  # the score and its terms, as they were counted last
    Column("blocked_at", BigInteger),  # by an administrator
    Column("unlocked_at", BigInteger),  # failures before it lock nobody out
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
Index("ix_sessions_ended", sessions.c.ended_at, sessions.c.id)  # open ones, too

histories = Table(  # what attempts and stays say of a worker, added up: they may be deleted then
    "histories",
    metadata,
    Column("worker_id", NAME, primary_key=True),
    Column("history", Text, nullable=False),
)

marks = Table(  # how far the adding up has come
    "marks",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("id", NAME, nullable=False),
)

credentials = Table(  # of tokens only keyed digests
    "credentials",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("worker_id", NAME, nullable=False),
    Column("kind", NAME, nullable=False),  # access, refresh or signing
    Column("prefix", NAME, nullable=False),  # the public beginning of a token; of a signing secret its id
    Column("digest", Text, nullable=False),  # HMAC-SHA256 of the token under the grid's secret; '' for a signing secret
    Column("family", NAME, nullable=False),  # all that came of one registration
    Column("generation", Integer, nullable=False),  # grows by one with each refresh
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("spent_at", BigInteger),  # when a refresh token was turned into the next generation
    Column("sealed", Text),  # encrypted: a signing secret; the successors of a spent refresh token, for the retry
    Column("revoked_at", BigInteger),
    ForeignKeyConstraint(["worker_id"], ["workers.id"], ondelete="CASCADE"),
)
Index("ux_credentials_prefix", credentials.c.kind, credentials.c.prefix, unique=True)
Index("ix_credentials_worker", credentials.c.worker_id, credentials.c.kind)

enrolments = Table(  # tokens that let one donor in, once
    "enrolments",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("prefix", NAME, nullable=False, unique=True),
    Column("digest", Text, nullable=False),
    Column("owner", NAME),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Column("worker_id", NAME),  # who came with it
    Column("revoked_at", BigInteger),
)

nonces = Table(  # signed requests that were accepted: each once
    "nonces",
    metadata,
    Column("key_id", NAME, primary_key=True),
    Column("nonce", NAME, primary_key=True),
    Column("at", BigInteger, nullable=False),
)
Index("ix_nonces_at", nonces.c.at)

audit = Table(  # what was done with access to the grid; no foreign key: it outlives what it tells of
    "audit",
    metadata,
    Column("seq", NUMBER, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", NAME, nullable=False),
    Column("worker_id", NAME),
    Column("actor", Text),  # who did it: a client, a worker's id, or the command line
    Column("address", Text),
    Column("detail", Text, nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_audit_worker", audit.c.worker_id, audit.c.seq)

deployments = Table(  # language models that are wanted; no foreign key: whoever serves them is no row
    "deployments",
    metadata,
    Column("model", NAME, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("wanted", Boolean, nullable=False),  # false: withdrawn, and not gone yet
    Column("version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),  # who changed it last
    Column("report", Text),  # of whoever serves it
    Column("reported_at", BigInteger),
)

leases = Table(  # of processes, for what only one may do
    "leases",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("holder", NAME, nullable=False),
    Column("place", Text),  # base URL at which it is reached
    Column("fence", BigInteger, nullable=False),  # grows with each other holder
    Column("until", BigInteger, nullable=False),
)

files = Table(  # of clients; their content lies in a folder
    "files",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("client_id", NAME, nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("purpose", NAME, nullable=False),
    Column("sha256", NAME, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
)
Index("ix_files_client", files.c.client_id, files.c.created_at, files.c.id)
Index("ix_files_expires", files.c.expires_at)

batches = Table(  # of requests in a file
    "batches",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("client_id", NAME, nullable=False),
    Column("endpoint", NAME, nullable=False),
    Column("input_file_id", NAME, nullable=False),  # no foreign key: the client may delete it
    Column("status", NAME, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("instants", Text, nullable=False),  # status → when it came to it
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("output_file_id", NAME),
    Column("error_file_id", NAME),
    Column("errors", Text),  # why the input can't be used
    Column("metadata", Text),  # the client's own
    Column("fence", BigInteger, nullable=False),  # raised at every claim
    Column("holder", NAME),
    Column("lease_until", BigInteger, nullable=False),
)
Index("ix_batches_client", batches.c.client_id, batches.c.created_at, batches.c.id)
Index("ix_batches_status", batches.c.status, batches.c.created_at)

batch_parts = Table(  # of a batch's lines, those that are computed
    "batch_parts",
    metadata,
    Column("batch_id", NAME, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("fence", BigInteger, nullable=False),  # of whose files count
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
)
