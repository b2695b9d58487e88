"""What can keep this machine from working in a grid."""

from __future__ import annotations

import shutil
import socket
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import psutil
import pytest

from idlegrid.api import doctor
from idlegrid.api.doctor import Health, examine


def findings(config=None):
    return {finding.check: finding for finding in examine(config)}


@pytest.fixture
def settings(tmp_path):
    """Writes a config.yaml."""

    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def test_a_machine_that_can_work(settings):
    found = findings(settings("api: {port: 0}\nscheduler: {port: 0, dashboard_port: 0}\n"))
    assert [finding for finding in found.values() if finding.health is Health.PROBLEM] == []
    assert found["dask"].found == "2026.7.1"
    assert found["configuration"].health is Health.OK
    assert "all-MiniLM-L6-v2 is at" in found["model"].found
    assert all(finding.advice for finding in found.values() if finding.health is not Health.OK)


def test_another_dask(monkeypatch, settings):
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "2020.1.0" if name == "distributed" else real(name))
    found = findings()["distributed"]
    assert found.health is Health.PROBLEM
    assert "pip install distributed==2026.7.1" in found.advice


def test_a_missing_extra_is_a_note(monkeypatch):
    real = doctor.version

    def version(name):
        if name == "torch":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    found = findings()["extra worker"]
    assert (found.health, found.advice) == (Health.NOTE, "pip install 'idlegrid[worker]'")


def test_a_bad_configuration_ends_the_examination(settings):
    found = findings(settings("regoin: asia-east\n"))
    assert list(found)[-1] == "configuration"
    assert found["configuration"].health is Health.PROBLEM
    assert "Did you mean 'region'" in found["configuration"].found


def test_little_memory_and_disk(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9, total=8e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3e9))
    found = findings()
    assert found["memory"].health is Health.PROBLEM
    assert "1.0 of 8.0 GB free" in found["memory"].found
    assert (found["disk"].health, found["disk"].found) == (Health.NOTE, "3.0 GB free")


def test_ports_and_a_scheduler_that_answers(settings):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        found = findings(settings(f"api: {{port: {port}}}\nscheduler: {{address: 'tcp://127.0.0.1:{port}'}}\n"))
    assert found["port api"].health is Health.NOTE
    assert "another api port" in found["port api"].advice
    assert found["scheduler"].health is Health.OK


def test_a_scheduler_that_does_not_answer(settings):
    found = findings(settings("scheduler: {address: 'tcp://127.0.0.1:1'}\n"))["scheduler"]
    assert found.health is Health.PROBLEM
    assert "tcp://127.0.0.1:1 does not answer" in found.found


def test_a_gpu(monkeypatch):
    from distributed.diagnostics import nvml

    monkeypatch.setattr(nvml, "device_get_count", lambda: 2)
    monkeypatch.setattr(nvml, "one_time", lambda: {"name": "H100"})
    found = findings()["gpu"]
    assert found.found == "2 × H100"
    assert found.health is Health.NOTE
    assert "idlegrid[gpu]" in found.advice
