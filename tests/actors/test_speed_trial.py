"""A trial of this machine, once, in time."""

import time

import pytest

from idlegrid.actors import speed_trial
from idlegrid.grid.layers.speed import Source, Speed


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Less memory and time than on a donor: figures are not the point here."""
    monkeypatch.setattr(speed_trial, "_known", {})
    monkeypatch.setattr(speed_trial, "_CPU", speed_trial._Size(2, 1 << 20, 512, 8))
    monkeypatch.setattr(speed_trial, "READING", 0.02)
    monkeypatch.setattr(speed_trial, "COMPUTING", 0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_measured(dtype):
    speed = Speed.from_wire(speed_trial.trial("cpu", dtype))
    assert (speed.device, speed.dtype, speed.source, speed.layer_bytes) == ("cpu", dtype, Source.PROBED, 0)
    assert speed.read_bytes_s > 0
    assert speed.compute_bytes_s > 0


def test_a_process_is_tried_once_for_each_dtype(monkeypatch):
    first = speed_trial.trial("cpu", "float32")
    monkeypatch.setattr(speed_trial, "measure", None)
    assert speed_trial.trial("cpu", "float32") == first
    with pytest.raises(TypeError):
        speed_trial.trial("cpu", "bfloat16")


def test_a_device_that_is_very_slow_is_not_waited_for():
    """Its first round is all that there is time for, and what that came to is said."""
    ran = []

    def slow():
        ran.append(None)
        time.sleep(0.03)

    assert speed_trial._pass_seconds([slow] * 100, speed_trial._at_once, 0.05) >= 0.029
    assert len(ran) <= 2
    settled = []
    assert speed_trial._pass_seconds([lambda: None], lambda: settled.append(None), 0.005) > 0
    assert settled, "a pass is over when its device says so"
