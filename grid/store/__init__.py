"""The store: jobs, results, events, keys, workers and deployments in SQLite or PostgreSQL. Needs the extra `api`."""

from ..job_rules import Stale
from .audit import AuditStore, By
from .batches import BatchPart, BatchRecord, BatchStore, NotCancellable, TooManyBatches
from .beats import NotProved
from .credentials import BadRefreshToken, CredentialStore, TooManyWorkers
from .deployments import SERVING, AlreadyDeployed, DeploymentRecord, DeploymentStore
from .donor_values import (
    Answer,
    AuditEntry,
    Beat,
    DonorRecord,
    Enrolment,
    NewWorker,
    Proof,
    Registration,
    Standing,
    TokenPair,
    Versioned,
)
from .donors import DonorStore, VersionConflict
from .enrolments import BadEnrolment, EnrolmentStore
from .errors import IdempotencyConflict, QueueFull, StoreUnavailable
from .events import EventStore
from .files import FileRecord, FileStore, NewFile, QuotaExceeded
from .jobs import JobStore
from .keys import KeyStore
from .leases import Lease, LeaseStore
from .nonces import NonceStore
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
    "SERVING",
    "Accepted",
    "AlreadyDeployed",
    "Answer",
    "ApiKey",
    "Attempt",
    "AuditEntry",
    "AuditStore",
    "BadEnrolment",
    "BadRefreshToken",
    "BatchPart",
    "BatchRecord",
    "BatchStore",
    "Beat",
    "By",
    "Claim",
    "CredentialStore",
    "DeploymentRecord",
    "DeploymentStore",
    "DonorRecord",
    "DonorStore",
    "Enrolment",
    "EnrolmentStore",
    "Event",
    "EventStore",
    "FileRecord",
    "FileStore",
    "IdempotencyConflict",
    "JobStore",
    "KeyStore",
    "Lease",
    "LeaseStore",
    "NewFile",
    "NewJob",
    "NewWorker",
    "NonceStore",
    "NotCancellable",
    "NotProved",
    "Page",
    "Placement",
    "Proof",
    "Purged",
    "QueueFull",
    "QueueStats",
    "QuotaExceeded",
    "Registration",
    "Renewal",
    "Stale",
    "Standing",
    "Store",
    "StoreUnavailable",
    "TokenPair",
    "TooManyBatches",
    "TooManyWorkers",
    "TypeStats",
    "VersionConflict",
    "Versioned",
    "WorkerFacts",
    "WorkerRecord",
    "WorkerStore",
    "open_store",
]
