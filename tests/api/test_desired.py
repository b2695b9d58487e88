"""What the desired state asks of the service, and what is reported. Pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from idlegrid.api.desired import Change, Deploy, Scale, Withdraw, deployment_of, report_of, steps
from idlegrid.grid.deployments import DeploymentSpec, DeploymentState, HeldLayers
from idlegrid.pipelines.llm.deployment import Deployment, Held, Phase
from idlegrid.pipelines.llm.service import Served

A, B = Deployment(model="a"), Deployment(model="b")


@pytest.mark.parametrize(
    ("served", "wanted", "due"),
    [
        ([], [], []),
        ([A], [A], []),
        ([], [A, B], [Deploy(A), Deploy(B)]),
        ([A, B], [B], [Withdraw("a")]),
        ([A], [replace(A, replicas=3)], [Scale("a", 3)]),
        ([A], [replace(A, stages=2)], [Change(replace(A, stages=2))]),
        (
            [A],
            [replace(A, replicas=2, dtype="float32")],
            [Change(replace(A, replicas=2, dtype="float32"))],
        ),
        ([A], [B], [Withdraw("a"), Deploy(B)]),
    ],
)
def test_steps(served, wanted, due):
    def by_model(deployments):
        return {one.model: one for one in deployments}

    assert steps(by_model(served), by_model(wanted)) == due


def test_a_specification_as_a_deployment():
    spec = DeploymentSpec(model="m", layers=((0, 2), (2, 4)), region="oceania", options={"chunk": 8})
    made = deployment_of(spec)
    assert (made.layers, made.region, made.options, made.gpu_memory_gb) == (spec.layers, "oceania", {"chunk": 8}, 0.0)
    assert deployment_of(spec.change(device="cuda")).gpu_memory_gb is None
    assert deployment_of(spec.change(gpu_memory_gb=3.0)).gpu_memory_gb == 3.0
    with pytest.raises(ValueError, match="must begin at 2"):
        deployment_of(spec.change(layers=((0, 2), (3, 4))))


@pytest.mark.parametrize(
    ("ready", "replicas", "state"),
    [
        (0, 1, DeploymentState.PLACING),
        (1, 2, DeploymentState.PARTIAL),
        (2, 2, DeploymentState.READY),
        (0, 0, DeploymentState.READY),
    ],
)
def test_a_report(ready, replicas, state):
    held = Held("d", range(2, 4), Phase.LOADING, 7, 0.012345, "measured")
    served = Served(
        id="m",
        aliases=(),
        replicas=replicas,
        ready=ready,
        facts=None,
        losses=1,
        why="so",
        coverage=(held,),
        num_layers=4,
    )
    report = report_of(served, 5)
    assert (report.state, report.version, report.why, report.losses) == (state, 5, "so", 1)
    assert report.coverage == (HeldLayers("d", 2, 4, "loading", 7, 12.0, "measured"),)
