"""The store: jobs, results, events, keys and workers in SQLite or PostgreSQL. Needs the extra `api`."""

from ..job_rules import Stale
from .errors import IdempotencyConflict, QueueFull, StoreUnavailable
from .events import EventStore
from .jobs import JobStore
from .keys import KeyStore
from .store import Store, open_store
from .values import (
    Accepted,
    ApiKey,
    Attempt,
    Claim,
    Event,
    NewJob,
    Page,
    Placement,
    Purged,
    QueueStats,
    Renewal,
    TypeStats,
    WorkerFacts,
    WorkerRecord,
)
from .workers import WorkerStore

__all__ = [
    "Accepted",
    "ApiKey",
    "Attempt",
    "Claim",
    "Event",
    "EventStore",
    "IdempotencyConflict",
    "JobStore",
    "KeyStore",
    "NewJob",
    "Page",
    "Placement",
    "Purged",
    "QueueFull",
    "QueueStats",
    "Renewal",
    "Stale",
    "Store",
    "StoreUnavailable",
    "TypeStats",
    "WorkerFacts",
    "WorkerRecord",
    "WorkerStore",
    "open_store",
]
