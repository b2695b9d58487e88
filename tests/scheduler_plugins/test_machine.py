"""Who this machine is: an id that stays, and settings or a variable that say the rest."""

import os
import subprocess
import sys

import pytest
from small_cluster import donor

from idlegrid.grid.config import ConfigError
from idlegrid.scheduler_plugins import machine
from idlegrid.scheduler_plugins.machine import VARIABLE, local_donor, to_variable


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no config.yaml here
    monkeypatch.setattr(machine, "user_runtime_path", lambda *_args, **_options: tmp_path)


def test_the_settings_say_what_the_donor_is():
    environ = {"GPU_REGION": "oceania", "GPU_MAX_CONCURRENT_JOBS": "3", "GPU_WORKER_NAME": "attic"}
    found = local_donor("w", environ)
    assert (found.region, found.limits.max_concurrent_jobs, found.name) == ("oceania", 3, "attic")
    assert "embedding" in found.supported_types
    with pytest.raises(ConfigError):
        local_donor("w", {"GPU_REGION": "atlantis"})


def test_the_id_stays_and_tells_workers_apart():
    ids = [local_donor(name, {}).id for name in ("x", "y")]
    assert ids == [local_donor(name, {}).id for name in ("x", "y")]
    assert len({*ids, local_donor("x", {"CUDA_VISIBLE_DEVICES": "1,0"}).id}) == 3
    assert local_donor("y", {"CUDA_VISIBLE_DEVICES": "1"}).id == local_donor("x", {"CUDA_VISIBLE_DEVICES": "1,0"}).id


def test_nameless_workers_take_the_first_free_place_and_give_it_back(tmp_path):
    """Two at a time are two donors; after a restart they are the same two."""
    code = (
        "import sys, pathlib; from idlegrid.scheduler_plugins import machine;"
        f"machine.user_runtime_path = lambda *a, **k: pathlib.Path({str(tmp_path)!r});"
        "print(machine.local_donor(None, {}).id, flush=True); sys.stdin.read()"
    )

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return process, process.stdout.readline().strip()

    (first, a), (second, b) = start(), start()
    assert a != b
    first.kill()
    first.wait()
    again, c = start()
    assert c == a
    for process in (first, second, again):
        process.kill()
        process.communicate()


def test_a_variable_names_a_whole_donor():
    wanted = donor("from afar", region="europe-west", working_hours_start=1, working_hours_end=2)
    assert local_donor("w", {VARIABLE: to_variable(wanted), "GPU_REGION": "oceania"}) == wanted
    with pytest.raises((ValueError, KeyError)):
        local_donor("w", {VARIABLE: "{}"})


@pytest.mark.skipif(os.name != "posix", reason="the file is Linux's")
def test_the_machine_has_an_id():
    assert machine._machine_id()
