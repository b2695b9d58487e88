"""Durable jobs: where they are kept, how long, and how they are retried."""

from __future__ import annotations

from pathlib import Path

from .fields import Section, setting
from .kinds import NonEmpty


class Database(Section):
    """The store of jobs, keys and workers."""

    url: NonEmpty | None = setting(
        None,
        "SQLAlchemy URL of the database.",
        variable="IDLEGRID_DATABASE_URL",
        unset="an SQLite file in the user's data folder",
        allowed="sqlite:///… or postgresql+psycopg://…",
        secret=True,
    )
    pool_size: int = setting(
        16, "Connections of one process.", variable="IDLEGRID_DATABASE_POOL_SIZE", unit="connections", ge=1, le=256
    )
    timeout: float = setting(
        5.0, "Longest wait for a connection or a lock.", variable="IDLEGRID_DATABASE_TIMEOUT", unit="s", gt=0, le=60
    )
    secret_file: Path | None = setting(
        None,
        "File with the secret that signs workers' capabilities; the same for every process of a grid.",
        variable="IDLEGRID_DATABASE_SECRET_FILE",
        unset="made in the user's data folder",
        allowed="a path",
    )


class Jobs(Section):
    """The queue of jobs."""

    lease: float = setting(
        30.0,
        "A job whose worker is silent for so long goes to another.",
        variable="IDLEGRID_JOBS_LEASE",
        unit="s",
        ge=1,
        le=3600,
    )
    max_attempts: int = setting(
        3, "Tries of a job that fails or kills its worker.", variable="IDLEGRID_JOBS_MAX_ATTEMPTS", ge=1, le=20
    )
    max_queued: int = setting(
        1_000_000, "Jobs that may wait; beyond it 429.", variable="IDLEGRID_JOBS_MAX_QUEUED", unit="jobs", ge=1
    )
    max_wait: float = setting(
        86_400.0, "A job that waits longer ends as timeout.", variable="IDLEGRID_JOBS_MAX_WAIT", unit="s", ge=1
    )
    priority_step: float = setting(
        60.0,
        "Waiting so long counts as much as one step of priority: so nobody starves.",
        variable="IDLEGRID_JOBS_PRIORITY_STEP",
        unit="s",
        gt=0,
    )
    max_result_mb: float = setting(
        100.0,
        "Size of one result; beyond it the attempt fails.",
        variable="IDLEGRID_JOBS_MAX_RESULT_MB",
        unit="MB",
        gt=0,
        le=1024,
    )
    retention_days: float = setting(
        30.0,
        "Ended jobs and their results are deleted after it.",
        variable="IDLEGRID_JOBS_RETENTION_DAYS",
        unit="days",
        gt=0,
    )
    requests_per_minute: int = setting(
        6000,
        "Requests of one API key, unless the key says otherwise; beyond it 429.",
        variable="IDLEGRID_JOBS_REQUESTS_PER_MINUTE",
        ge=1,
    )
    files_folder: Path | None = setting(
        None,
        "Where clients' files lie, and the parts of batches; a folder that every API process sees.",
        variable="IDLEGRID_JOBS_FILES_FOLDER",
        unset="made in the user's data folder",
        allowed="a path",
    )
    max_file_mb: float = setting(
        200.0, "Size of one file of a client.", variable="IDLEGRID_JOBS_MAX_FILE_MB", unit="MB", gt=0, le=10_000
    )
    max_files_gb: float = setting(
        20.0, "All files of one client; beyond it 413.", variable="IDLEGRID_JOBS_MAX_FILES_GB", unit="GB", gt=0
    )
    max_batch_lines: int = setting(
        50_000, "Requests of one batch.", variable="IDLEGRID_JOBS_MAX_BATCH_LINES", unit="requests", ge=1, le=1_000_000
    )
