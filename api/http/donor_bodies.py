"""What registered workers and those who look after them say, and what they are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, Field, JsonValue, StringConstraints, field_validator

from ...grid.config.donor import LoadControl
from ...grid.config.kinds import JobTypes
from ...grid.regions import check_region
from ...grid.store import DonorRecord, Enrolment, NewWorker, TokenPair, Versioned
from .bodies import Body
from .jobs_bodies import RegionCode
from .worker_bodies import NAME

Words = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A name for people, in any script."""
_MODEL = r"^[A-Za-z0-9._:@/+-]{1,200}$"
MAX_GPU_INFO = 10_000
"""Characters of JSON that a heartbeat may tell of the GPU."""


class FactsBody(Body):
    """A machine as its owner offers it."""

    name: Words = Field(description="For people.")
    region: RegionCode
    country: Words | None = None
    city: Words | None = None
    gpu_model: Words | None = Field(None, description="Null: no GPU.")
    gpu_memory_gb: float = Field(0.0, ge=0, le=10_000, allow_inf_nan=False, description="Of one GPU.")
    gpu_count: int = Field(0, ge=0, le=1024, strict=True)
    supported_types: JobTypes = Field(description="Job types that it takes.")
    models: list[Annotated[str, Field(pattern=_MODEL)]] | None = Field(
        None, min_length=1, max_length=100, description="Model ids that it is restricted to. Null: any of its types."
    )
    direct_url: str | None = Field(None, max_length=255, description="Where clients reach it themselves.")
    role: Literal["hybrid", "prefill", "decode"] = "hybrid"

    @field_validator("region")
    @classmethod
    def _region(cls, value: str) -> str:
        return check_region(value)

    def worker(self, direct_url: str | None, config: Mapping[str, Any] = MappingProxyType({})) -> NewWorker:
        """The same for the store; `direct_url` and `config` were checked."""
        return NewWorker(
            name=self.name,
            region=self.region,
            country=self.country,
            city=self.city,
            gpu_model=self.gpu_model,
            gpu_memory_gb=self.gpu_memory_gb,
            gpu_count=self.gpu_count,
            supported_types=frozenset(self.supported_types),
            models=None if self.models is None else frozenset(self.models),
            direct_url=direct_url,
            role=self.role,
            config=config,
        )


class RegisterBody(FactsBody):
    """The same, with what its owner allows."""

    config: dict[str, JsonValue] | None = Field(None, description="The load control that it begins with.")


class AnnouncedDocument(BaseModel):
    """What became of an announcement."""

    changed: bool = Field(description="Something of it was news.")


class TlsDocument(BaseModel):
    """A worker's certificate for the Dask network; its key is in this answer and nowhere else."""

    certificate: str = Field(description="PEM; its OU is `worker`, its CN the worker's id.")
    key: str = Field(description="PEM (PKCS 8), not encrypted.")
    authority: str = Field(description="PEM of the CA's certificate, by which peers are checked.")
    expires_at: datetime


class TokensDocument(BaseModel):
    """Both tokens; they are in this answer and nowhere else."""

    token: str = Field(description="For the header X-Worker-Token.")
    refresh_token: str = Field(description="Good once; renews both.")
    token_expires_at: datetime
    tls: TlsDocument | None = Field(description="A new certificate. Null: the Dask network has no TLS.")

    @classmethod
    def of(cls, pair: TokenPair, tls: TlsDocument | None) -> Self:
        return cls(token=pair.token, refresh_token=pair.refresh_token, token_expires_at=pair.token_expires_at, tls=tls)


class RegisteredDocument(TokensDocument):
    """A worker that was let in."""

    worker_id: str
    signing_secret: str = Field(description="Its ASCII bytes are the key of the worker's signatures.")
    scheduler_address: str | None = Field(description="Of the Dask scheduler. Null: ask for jobs over HTTP.")
    config: dict[str, Any]
    config_version: int
    heartbeat_interval: float = Field(description="Seconds.")


class HeartbeatBody(Body):
    """A sign of life."""

    status: Literal["starting", "online", "busy", "paused", "draining", "offline"]
    gpu_memory_used_gb: float = Field(0.0, ge=0, le=10_000, allow_inf_nan=False)
    gpu_info: dict[str, JsonValue] | None = None
    running: int = Field(0, ge=0, le=100_000, strict=True, description="Jobs that run.")
    waiting: int = Field(0, ge=0, le=100_000, strict=True)
    kv_cache: float = Field(0.0, ge=0, le=100, allow_inf_nan=False, description="Use of the KV cache.")
    config_version: int = Field(0, ge=0, le=2**31 - 1, strict=True, description="The one that is in force there.")
    incarnation: str = Field(pattern=NAME, description="Which process of the worker speaks.")
    paused_reason: str | None = Field(None, max_length=500)

    @field_validator("gpu_info")
    @classmethod
    def _short(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            if value is not None and len(json.dumps(value, allow_nan=False)) > MAX_GPU_INFO:
                raise ValueError(f"it has more than {MAX_GPU_INFO} characters")
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        return value

    @property
    def kept_status(self) -> str:
        """As the grid keeps it: who starts takes nothing yet, and who speaks is not offline."""
        return {"starting": "paused", "offline": "online"}.get(self.status, self.status)


class ScoreDocument(BaseModel):
    """The reliability score, 0 to 1, and its terms."""

    total: float
    success: float
    stability: float
    latency: float
    seniority: float


class HeardDocument(BaseModel):
    """The answer to a sign of life."""

    config_changed: bool = Field(description="The grid has another configuration: fetch it.")
    config_version: int
    commands: list[Literal["drain", "resume", "restart", "shutdown"]] = Field(
        description="Said until a heartbeat shows that they were obeyed."
    )
    reliability: ScoreDocument | None = Field(description="Null: not counted yet.")
    heartbeat_interval: float = Field(description="Seconds until the next one.")
    token_expires_at: datetime | None = Field(description="Of the token that was shown.")
    scheduler_address: str | None = Field(description="Of the Dask scheduler, which may have moved. Null: none told.")


class RefreshBody(Body):
    """A refresh token to be spent."""

    refresh_token: str = Field(min_length=1, max_length=200)


class ConfigBody(Body):
    """Load control to be put in place of the one that there is."""

    config: dict[str, JsonValue] = Field(description="Keys of `load_control`; those that are left out are the donor's.")
    version: int | None = Field(None, ge=0, le=2**31 - 1, description="As If-Match, which wins.")


class ConfigDocument(BaseModel):
    """A worker's load control."""

    version: int
    config: dict[str, Any]

    @classmethod
    def of(cls, at: Versioned) -> Self:
        return cls(version=at.version, config=at.config)


class StatusDocument(BaseModel):
    """What the worker is from now on."""

    status: str


class EnrolmentBody(Body):
    """A machine to be let in."""

    valid_seconds: float = Field(86_400.0, gt=0, le=90 * 86_400, allow_inf_nan=False)
    owner: Words | None = Field(None, description="Whose machine it is.")


class EnrolmentDocument(BaseModel):
    """The right to register one machine, once."""

    id: str
    prefix: str = Field(description="The eight characters after `ige_`.")
    owner: str | None
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    worker_id: str | None = Field(description="Who came with it.")
    revoked_at: datetime | None

    @classmethod
    def of(cls, enrolment: Enrolment, **more: Any) -> Self:
        return cls(
            id=enrolment.id,
            prefix=enrolment.prefix,
            owner=enrolment.owner,
            created_at=enrolment.created_at,
            expires_at=enrolment.expires_at,
            used_at=enrolment.used_at,
            worker_id=enrolment.worker_id,
            revoked_at=enrolment.revoked_at,
            **more,
        )


class NewEnrolmentDocument(EnrolmentDocument):
    """One that was just made."""

    token: str = Field(description="For the header X-Enrolment-Token; shown this once.")
    join: str = Field(description="The line for the donor.")


class EnrolmentList(BaseModel):
    """The last thousand, newest first."""

    enrolments: list[EnrolmentDocument]


class DonorDocument(BaseModel):
    """A worker, for an administrator."""

    id: str
    name: str
    status: str
    registered: bool = Field(description="It has credentials of its own.")
    region: str | None
    country: str | None
    city: str | None
    gpu_model: str | None
    gpu_memory_gb: float
    gpu_count: int
    supported_types: list[str]
    models: list[str] | None
    role: str
    owner: str | None
    direct_url: str | None
    paused_reason: str | None
    config_version: int
    commands: list[str] = Field(description="Said, and not obeyed yet.")
    reliability: ScoreDocument | None
    total_jobs: int
    success_rate: float | None
    registered_at: AwareDatetime
    last_heartbeat: datetime | None
    blocked_at: datetime | None

    @classmethod
    def of(cls, donor: DonorRecord) -> Self:
        facts = donor.worker.facts
        return cls(
            id=facts.id,
            name=facts.name,
            status=facts.status,
            registered=donor.registered,
            region=facts.region,
            country=facts.country,
            city=facts.city,
            gpu_model=facts.gpu_model,
            gpu_memory_gb=facts.gpu_memory_gb,
            gpu_count=donor.gpu_count,
            supported_types=sorted(facts.supported_types),
            models=None if donor.models is None else sorted(donor.models),
            role=donor.role,
            owner=donor.owner,
            direct_url=donor.direct_url,
            paused_reason=donor.paused_reason,
            config_version=donor.config.version,
            commands=[command.order.value for command in donor.commands],
            reliability=None if donor.reliability is None else ScoreDocument.model_validate(donor.reliability),
            total_jobs=donor.worker.total_jobs,
            success_rate=donor.worker.success_rate,
            registered_at=donor.worker.registered_at,
            last_heartbeat=donor.worker.last_heartbeat,
            blocked_at=donor.blocked_at,
        )


class DonorList(BaseModel):
    """All workers in the store, by id."""

    workers: list[DonorDocument]


def load_control(given: dict[str, Any]) -> dict[str, Any]:
    """The keys that were given, checked as the donor's own configuration is. Raises ValidationError, ValueError.

    Hours are checked together: both or neither.
    """
    checked = LoadControl.model_validate(given)
    return checked.model_dump(mode="json", include=set(given))
