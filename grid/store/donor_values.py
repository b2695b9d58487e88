"""What the store keeps of donors that registered, as values. Instants are aware, UTC, of the database's clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..commands import Command, Order
from .rows import plain, to_json
from .values import WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """The right to register one worker, once; the token itself is not kept."""

    id: str
    prefix: str
    """The eight characters after ``ige_``."""
    owner: str | None
    """Whose workers come with it."""
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    worker_id: str | None
    """Who came with it."""
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWorker:
    """What a machine says of itself when it registers, checked."""

    name: str
    region: str
    country: str | None = None
    city: str | None = None
    gpu_model: str | None = None
    gpu_memory_gb: float = 0.0
    gpu_count: int = 0
    supported_types: frozenset[str] = frozenset()
    models: frozenset[str] | None = None
    """None: any model of its types."""
    direct_url: str | None = None
    role: str = "hybrid"
    config: Mapping[str, Any] = field(default_factory=dict)
    """The load control that it begins with."""


def facts_of(worker: NewWorker) -> dict[str, Any]:
    """What a machine says of itself, as the columns that keep it."""
    return {
        "name": plain(worker.name, 200),
        "region": worker.region,
        "country": plain(worker.country, 200),
        "city": plain(worker.city, 200),
        "gpu_model": plain(worker.gpu_model, 200),
        "gpu_memory_gb": worker.gpu_memory_gb,
        "gpu_count": worker.gpu_count,
        "supported_types": to_json(sorted(worker.supported_types)),
        "models": None if worker.models is None else to_json(sorted(worker.models)),
        "direct_url": worker.direct_url,
        "role": worker.role,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """What lets a worker in until it is renewed. Nowhere kept in this form."""

    token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    token_expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A worker that was just let in."""

    worker_id: str
    tokens: TokenPair
    signing_secret: str = field(repr=False)
    """Its ASCII bytes are the key of the worker's signatures and tickets."""
    config_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a worker stands with the grid, and what the token that was shown is worth."""

    worker_id: str
    registered: bool
    """It has credentials: nobody speaks for it without them."""
    token: str | None
    """Id of the access token, if the one shown is this worker's and is valid."""
    token_expires_at: datetime | None
    unshown: bool
    """The token is seen for the first time."""
    why: str
    """Why `token` is None, for who holds a token that once was good; '' for anybody else."""
    key: bytes | None = field(repr=False)
    """Of its signatures. None: it has none that is valid."""
    key_id: str | None
    """Of that key."""
    blocked: bool
    unlocked_at: float
    """Unix seconds of an administrator's last word; 0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A request whose signature is right, by a token and a key that were good a while ago."""

    token: str
    """Id of the access token."""
    key: str
    """Id of the signing secret."""
    nonce: str
    """What is in no other request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One heartbeat."""

    worker_id: str
    status: str
    """``online``, ``busy``, ``paused`` or ``draining``."""
    incarnation: str
    paused_reason: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    """The rest of it, plain JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a heartbeat is answered."""

    config_version: int
    commands: tuple[Order, ...]
    reliability: dict[str, float] | None
    """The score and its terms, as they were counted last."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A worker's remote configuration."""

    version: int
    config: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorRecord:
    """A worker with all that is kept of it."""

    worker: WorkerRecord
    registered: bool
    gpu_count: int
    models: frozenset[str] | None
    direct_url: str | None
    role: str
    owner: str | None
    incarnation: str | None
    paused_reason: str | None
    report: dict[str, Any]
    commands: tuple[Command, ...]
    config: Versioned
    reliability: dict[str, float] | None
    blocked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Something that was done with access to the grid."""

    seq: int
    at: datetime
    kind: str
    worker_id: str | None
    actor: str | None
    address: str | None
    detail: dict[str, Any]
