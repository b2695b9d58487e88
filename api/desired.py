"""What the desired state of language models asks of the service that serves them, and what it reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..grid.deployments import DeploymentReport, DeploymentSpec, DeploymentState, HeldLayers
from ..pipelines.llm.deployment import Deployment

if TYPE_CHECKING:
    from ..pipelines.llm.service import Served


def deployment_of(spec: DeploymentSpec) -> Deployment:
    """For the service. Raises ValueError on what can't be wanted."""
    memory = spec.gpu_memory_gb
    if memory is None and spec.device != "cuda":
        memory = 0.0  # on a donor without a GPU a model takes no memory of one: what it needs can't be told beforehand
    return Deployment(
        model=spec.model,
        source=spec.source,
        engine=spec.engine,
        replicas=spec.replicas,
        dtype=spec.dtype,
        device=spec.device,
        options=dict(spec.options),
        region=spec.region,
        allow_cross_region=spec.allow_cross_region,
        gpu_memory_gb=memory,
        stages=spec.stages,
        layers=spec.layers,
    )


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Serve a model no more."""

    model: str


@dataclass(frozen=True, slots=True)
class Deploy:
    """Begin to serve a model."""

    deployment: Deployment


@dataclass(frozen=True, slots=True)
class Scale:
    """Serve a model by another number of replicas; what runs goes on."""

    model: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Change:
    """Serve a model in another way: what serves it goes on until the other is there."""

    deployment: Deployment


Step = Withdraw | Deploy | Scale | Change


def steps(served: Mapping[str, Deployment], wanted: Mapping[str, Deployment]) -> list[Step]:
    """What makes `served` into `wanted`, by model; places are given back before others are asked for. Pure."""
    leave: list[Step] = [Withdraw(model) for model in served if model not in wanted]
    come: list[Step] = []
    for model, deployment in wanted.items():
        before = served.get(model)
        if before is None:
            come.append(Deploy(deployment))
        elif deployment != replace(before, replicas=deployment.replicas):
            come.append(Change(deployment))
        elif before.replicas != deployment.replicas:
            come.append(Scale(model, deployment.replicas))
    return [*leave, *come]


def report_of(served: Served, version: int) -> DeploymentReport:
    """What the service says of a model, for the store."""
    state = DeploymentState.PLACING
    if served.changing:
        state = DeploymentState.PLACING
    elif served.ready >= served.replicas:
        state = DeploymentState.READY
    elif served.ready:
        state = DeploymentState.PARTIAL
    return DeploymentReport(
        state=state,
        version=version,
        ready=served.ready,
        losses=served.losses,
        why=served.why,
        num_layers=served.num_layers,
        coverage=tuple(
            HeldLayers(
                held.donor_id,
                held.layers.start,
                held.layers.stop,
                held.phase.value,
                held.replica,
                None if held.layer_seconds is None else float(f"{held.layer_seconds * 1000:.2g}"),
                held.speed,
            )
            for held in served.coverage
        ),
    )
