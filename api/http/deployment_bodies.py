"""What administrators say of deployments, and what they are told."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, JsonValue, field_validator, model_validator

from ...grid.deployments import missing_layers
from ...grid.regions import check_region
from ...grid.store import DeploymentRecord, Lease
from .bodies import Body
from .jobs_bodies import RegionCode

Name = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A model: a name of the catalogue, a Hugging Face id, a folder."""
Engine = Literal["auto", "torch", "transformers", "vllm"]
Dtype = Literal["auto", "float32", "float16", "bfloat16", "float64"]
Device = Literal["auto", "cpu", "cuda"]
Layer = Annotated[int, Field(ge=0, le=10_000, strict=True)]
Layers = Annotated[
    list[Annotated[list[Layer], Field(min_length=2, max_length=2)]],
    Field(min_length=1, max_length=1000, description="Of each stage: its first layer and the one after its last."),
]
MAX_OPTIONS = 10_000
"""Characters of JSON that an engine's options may have."""


class _Wanted(Body):
    """What both requests may say. Whatever is not said stays as it is, or has its default."""

    source: Name | None = Field(None, description="Where workers find the weights. Null: under the model's name.")
    engine: Engine = "torch"
    dtype: Dtype = "auto"
    device: Device = "auto"
    replicas: int = Field(1, ge=0, le=10_000, strict=True, description="0: none for now.")
    stages: int | None = Field(
        None,
        ge=0,
        le=1000,
        strict=True,
        description="Split each replica over so many workers; 0: as many as it takes. Null: not split.",
    )
    layers: Layers | None = Field(None, description="The stages, given by their ranges of layers.")
    roles: list[Literal["hybrid"]] = Field(["hybrid"], min_length=1, max_length=1)
    options: dict[str, JsonValue] = Field({}, description="Of the engine.")
    region: RegionCode | None = Field(None, description="Where it should stand. Null: no preference.")
    allow_cross_region: bool = Field(True, strict=True, description="False: it may stand in its region only.")
    gpu_memory_gb: float | None = Field(
        None, ge=0, le=10_000, allow_inf_nan=False, description="Of a replica. Null: what is known of the model."
    )

    @field_validator("region")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return None if value is None else check_region(value)

    @model_validator(mode="after")
    def _not_endless(self) -> Self:
        try:
            size = len(json.dumps(self.options, allow_nan=False))
        except ValueError as error:
            raise ValueError(f"options can't be kept: {error}") from None
        if size > MAX_OPTIONS:
            raise ValueError(f"options may have {MAX_OPTIONS} characters of JSON at most")
        return self


class DeploymentBody(_Wanted):
    """A model that is to be served."""

    model: Name = Field(description="A name of the catalogue, a Hugging Face id, or a folder of the workers.")


class DeploymentPatch(_Wanted):
    """What is to be changed of a deployment. Whatever is not said stays."""

    def changes(self) -> dict[str, Any]:
        """The fields that were said; how a model is split is one thing with two forms."""
        said = self.model_dump(exclude_unset=True)
        if said.get("stages") is not None and "layers" not in said:
            said["layers"] = None
        if said.get("layers") is not None and "stages" not in said:
            said["stages"] = None
        return said


class HeldDocument(BaseModel):
    """Layers of a model on a worker."""

    worker_id: str = Field(description="Empty while a worker is looked for.")
    first: int
    stop: int = Field(description="The layer after the last one.")
    phase: str = Field(description="`placing`, `loading`, `ready` …")
    replica: int = Field(description="The same for all stages of a replica.")
    layer_ms: float | None = Field(
        description="One token of a single session through one layer there, in ms. Null: the model is not split."
    )
    speed: str = Field(description="Where `layer_ms` comes from: `measured`, `probed` or `presumed`; empty with null.")


class ServingDocument(BaseModel):
    """Which process of the grid serves the deployments."""

    holder: str
    place: str | None = Field(description="Base URL at which the other processes reach it.")
    alive: bool = Field(description="False: nothing was heard of it for some seconds; what is reported is old.")

    @classmethod
    def of(cls, lease: Lease | None) -> Self | None:
        return None if lease is None else cls(holder=lease.holder, place=lease.place, alive=lease.held)


class DeploymentDocument(BaseModel):
    """A deployment: what is wanted, and how it stands."""

    model: str
    version: int = Field(description="Of what is wanted; the ETag.")
    wanted: bool = Field(description="False: it was withdrawn, and ends.")
    source: str | None
    engine: str
    dtype: str
    device: str
    replicas: int
    stages: int | None
    layers: list[list[int]] | None
    roles: list[str]
    options: dict[str, Any]
    region: str | None
    allow_cross_region: bool
    gpu_memory_gb: float | None
    changed_by: str
    created_at: datetime
    updated_at: datetime
    state: str = Field(description="`waiting`, `placing`, `partial`, `ready`, `refused` or `ending`.")
    ready: int = Field(description="Replicas that serve.")
    losses: int = Field(description="How often a stream lost its replica and went on elsewhere.")
    why: str = Field(description="Why it does not serve as it should. Empty: it does.")
    num_layers: int | None = Field(description="Of the model. Null while nobody knows.")
    coverage: list[HeldDocument] = Field(description="Who holds which layers.")
    missing: list[list[int]] = Field(description="Ranges of layers that nobody serves.")
    reported_version: int = Field(description="The version that the report is about; 0: none yet.")
    reported_at: datetime | None = Field(description="When the report was written. It is when something changes.")

    @classmethod
    def of(cls, record: DeploymentRecord) -> Self:
        report = record.report
        return cls(
            **record.spec.to_wire(),
            version=record.version,
            wanted=record.wanted,
            changed_by=record.actor,
            created_at=record.created_at,
            updated_at=record.updated_at,
            state=report.state.value if record.wanted else "ending",
            ready=report.ready,
            losses=report.losses,
            why=report.why,
            num_layers=report.num_layers,
            coverage=[
                HeldDocument(
                    worker_id=held.donor_id,
                    first=held.first,
                    stop=held.stop,
                    phase=held.phase,
                    replica=held.replica,
                    layer_ms=held.layer_ms,
                    speed=held.speed,
                )
                for held in report.coverage
            ],
            missing=[[gap.start, gap.stop] for gap in missing_layers(report.coverage, report.num_layers)],
            reported_version=report.version,
            reported_at=record.reported_at,
        )


class DeploymentList(BaseModel):
    """All deployments, in the order in which they were made."""

    deployments: list[DeploymentDocument]
    serving: ServingDocument | None = Field(description="Who serves them. Null: nobody ever did.")
