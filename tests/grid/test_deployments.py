"""What may be deployed, and which layers nobody serves."""

from __future__ import annotations

import pytest

from idlegrid.grid.catalogue import UnknownModel
from idlegrid.grid.deployments import (
    DeploymentReport,
    DeploymentSpec,
    DeploymentState,
    HeldLayers,
    check_model,
    missing_layers,
)


def test_values_come_back_as_they_were_and_a_later_version_may_say_more():
    spec = DeploymentSpec(model="m", layers=((0, 2), (2, 9)), options={"a": [1]})
    assert DeploymentSpec.from_wire(spec.to_wire() | {"hue": "blue"}) == spec
    report = DeploymentReport(state=DeploymentState.PARTIAL, coverage=(HeldLayers("d", 0, 2, "loading", 1),))
    assert DeploymentReport.from_wire(report.to_wire() | {"hue": "blue"}) == report
    before_speeds = {"donor_id": "d", "first": 0, "stop": 2, "phase": "loading", "replica": 1}
    assert DeploymentReport.from_wire(report.to_wire() | {"coverage": [before_speeds]}) == report
    assert spec.change(layers=[[0, 9]]).layers == ((0, 9),)
    with pytest.raises(TypeError):
        spec.change(hue="blue")


def test_names_of_models():
    assert check_model("qwen2.5-7b") == "Qwen/Qwen2.5-7B-Instruct"
    assert check_model("some/model") == "some/model"
    assert check_model("/a/folder") == "/a/folder"
    assert check_model("mine", source="/a/folder") == "mine"
    with pytest.raises(UnknownModel, match="idlegrid-tiny"):
        check_model("idlegrid-tinny")
    with pytest.raises(UnknownModel, match=r"is no language model.*embedding"):
        check_model("minilm")


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        ([], [range(12)]),
        ([(0, 12, "ready")], []),
        ([(0, 4, "ready"), (8, 12, "ready")], [range(4, 8)]),
        ([(0, 4, "ready"), (4, 8, "loading"), (8, 12, "ready")], [range(4, 8)]),
        ([(6, 12, "ready"), (0, 8, "ready")], []),
        ([(2, 4, "ready")], [range(2), range(4, 12)]),
    ],
)
def test_layers_that_miss(held, missing):
    coverage = [HeldLayers("d", first, stop, phase, 1) for first, stop, phase in held]
    assert missing_layers(coverage, 12) == missing
