"""What a machine tells: from a driver that a test speaks for, from real terminals, and from files."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from idlegrid.api.donor.sensors import (
    VARIABLE,
    Family,
    FileSensors,
    Gpu,
    Idle,
    MachineSensors,
    idle_hint,
    machine_sensors,
    terminals,
)
from idlegrid.grid.donor_guard import GpuProgram, Readings

GB = 10**9


class Driver:
    """NVML's functions, as `pynvml` names them."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.computing, self.drawing, self.silent = [], [], set()

    def _say(self, name, value):
        if name in self.silent:
            raise self.NVMLError(f"{name} is not supported")
        return value

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802 - the library's names
        return self._say("memory", SimpleNamespace(total=24 * GB, used=5 * GB))

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        return self._say("use", SimpleNamespace(gpu=37))

    def nvmlDeviceGetTemperature(self, handle, kind):  # noqa: N802
        return self._say("heat", 61)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return self._say("computing", self.computing)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):  # noqa: N802
        return self._say("drawing", self.drawing)


def using(pid, memory):
    return SimpleNamespace(pid=pid, usedGpuMemory=memory)


@pytest.fixture
def stranger():
    """A process that is none of ours, as far as `ours` says."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.wait(30)
    process.stdin.close()


def test_the_gpu_and_who_else_uses_it(stranger):
    driver = Driver()
    driver.computing = [using(os.getpid(), GB), using(stranger, 2 * GB)]
    driver.drawing = [using(stranger, GB), using(2**22 + 1, GB)]  # the last one has gone
    told = Gpu(driver, None, lambda pid: pid == os.getpid()).read()
    assert (told.temperature, told.utilisation, told.memory_gb, told.used_gb) == (61, 37, 24, 5)
    [program] = told.programs
    assert (program.pid, program.memory_gb, program.computes) == (stranger, 2.0, True)


def test_what_the_driver_does_not_tell_is_unknown_and_said():
    driver = Driver()
    driver.silent = {"heat", "computing"}
    told = Gpu(driver, None, lambda pid: False).read()
    assert (told.temperature, told.programs) == (None, None)
    assert told.unknown == ("the driver does not tell which programs use the GPU",)
    assert Gpu(Driver(), None, lambda pid: False, sees_all=False).read().programs is None


def test_our_own_processes_are_known_by_their_ancestors(stranger):
    family = Family(os.getpid())
    assert family(os.getpid())
    assert family(stranger)
    assert not family(os.getppid())
    assert not family(2**22 + 1)


def test_typing_in_a_terminal_is_seen():
    ours, theirs = pty.openpty()
    try:
        os.write(ours, b"ls\n")
        os.read(theirs, 10)
        assert terminals(Path(os.ttyname(theirs)).parent, time.time()) < 60
    finally:
        os.close(ours)
        os.close(theirs)


def test_no_terminal_tells_nothing(tmp_path):
    assert terminals(tmp_path, time.time()) is None
    assert terminals(tmp_path / "missing", time.time()) is None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("b false\nt 0", 0.0),
        ("b true\nt 940000000", 60.0),
        ("b true\nt 0", None),
        ("Failed to get property", None),
        (None, None),
    ],
)
def test_the_desktops_hint(said, seconds):
    assert idle_hint(said, 1000.0) == seconds


def test_the_least_idle_source_counts_and_none_is_told():
    assert Idle([lambda: 9.0, lambda: None, lambda: 3.0]).seconds() == 3.0
    readings = MachineSensors(None, Idle([])).read()
    assert readings.idle_seconds is None
    assert "only_when_idle_minutes has no effect" in readings.unknown[0]


def test_a_file_stands_in_and_a_broken_one_changes_nothing(tmp_path):
    file = tmp_path / "readings.json"
    sensors = machine_sensors(environ={VARIABLE: str(file)})
    assert isinstance(sensors, FileSensors)
    assert sensors.read() == Readings()
    program = {"pid": 1, "name": "game", "memory_gb": 2.0, "computes": False}
    file.write_text(json.dumps({"on_battery": True, "programs": [program], "of_a_newer_version": 1}))
    told = sensors.read()
    assert (told.on_battery, told.programs) == (True, (GpuProgram(**program),))
    file.write_text("{")
    assert sensors.read() == told


def test_this_machine_answers_whatever_it_has():
    readings = machine_sensors(environ={}).read()
    assert readings.on_battery in (None, False, True)
