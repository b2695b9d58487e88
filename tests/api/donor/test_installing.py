"""What an environment lacks, the systemd unit, the list of what was written; and the files under deploy/."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from idlegrid.api.donor import installing
from idlegrid.api.donor.installing import Written, missing_packages, pip_command, unit_of, wanted_extras, write_unit
from idlegrid.api.donor.state import Home
from idlegrid.api.donor.unit import escaped, unit_text
from idlegrid.api.ports import CannotStart

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def settings(text):
    """Key → values of a unit, comments left out."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if re.match(r"[A-Z]\w+=", line):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_extras_are_those_of_the_gpu_at_hand():
    assert wanted_extras(gpu=False) == ("worker", "audio", "image")
    assert wanted_extras(gpu=True, platform="linux") == ("worker", "audio", "image", "gpu")
    assert wanted_extras(gpu=True, platform="darwin") == ("worker", "audio", "image")


def test_what_is_missing_of_an_extra_is_named():
    assert missing_packages("worker") == ()
    assert "vllm" in missing_packages("vllm")
    assert missing_packages("nothing-of-the-kind") == ()


def test_pip_installs_this_version_here_and_no_cuda_without_a_gpu():
    command = pip_command(("worker",), gpu=False, environ={})
    assert command[:3] == (sys.executable, "-m", "pip")
    assert installing.CPU_INDEX in command
    assert re.fullmatch(r"idlegrid\[worker\]==[\w.]+", command[-1])
    assert installing.CPU_INDEX not in pip_command(("worker", "gpu"), gpu=True, environ={})
    assert installing.CPU_INDEX not in pip_command(("worker",), gpu=False, environ={"PIP_INDEX_URL": "https://mirror"})


def test_the_unit_is_hardened_and_takes_its_children_along(place):
    found = settings(unit_of(place, {}))
    for key, value in {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "KillMode": "mixed", "Restart": "always",
        "RestartPreventExitStatus": "0", "MemoryMax": "80%", "UMask": "0077", "WantedBy": "default.target",
        "ConditionPathExists": str(place.credentials),
    }.items():  # fmt: skip
        assert found[key] == [value], key
    assert "PrivateDevices" not in found  # the GPU would be gone
    [writable] = found["ReadWritePaths"]
    assert f"-{place.config.parent}" in writable.split()
    assert place.state.is_relative_to(next(p for p in writable.replace("-/", "/").split() if "/state" in p))


def test_a_home_of_its_own_is_named_in_the_unit(tmp_path):
    folder = tmp_path / 'odd "home" 100%'
    found = settings(unit_of(Home.find(folder), {"IDLEGRID_HOME": str(folder)}))
    [variable] = found["Environment"]
    assert variable == '"IDLEGRID_HOME=' + str(folder).replace("%", "%%").replace('"', '\\"') + '"'
    assert found["ReadWritePaths"][0].startswith('"-' + str(tmp_path))
    with pytest.raises(ValueError, match="line break"):
        escaped("a\nExecStart=/bin/evil")


def test_what_is_written_is_remembered(place):
    written = write_unit(place, {})
    assert installing.unit_path().read_text() == unit_of(place, {})
    assert installing.unit_path() in written.files
    assert all(folder.is_dir() for folder in written.folders)
    again = write_unit(place, {})
    assert again.folders == ()  # they are there
    remembered = Written.load(place)
    assert remembered.files == written.files
    assert set(remembered.folders) == set(written.folders)
    assert json.loads(installing.manifest_of(place).read_text())["files"] == [str(installing.unit_path())]


def test_where_nothing_can_be_written_it_says_so(place, monkeypatch):
    blocked = installing.unit_path().parent
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file is in the way")
    with pytest.raises(CannotStart, match="the unit can't be written"):
        write_unit(place, {})


def _analyze(*words):
    program = shutil.which("systemd-analyze")
    assert program, "these tests need systemd-analyze: apt-get install systemd"
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)


def test_systemd_understands_the_unit(place):
    write_unit(place, {})
    done = _analyze("verify", "--user", str(installing.unit_path()))
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_have_found_a_slip(place, tmp_path):
    """The control."""
    slipped = tmp_path / "slipped.service"
    slipped.write_text(unit_text((sys.executable,)).replace("KillMode=mixed", "KillMode=both"))
    assert "kill mode" in _analyze("verify", "--user", str(slipped)).stderr


def test_systemd_finds_the_unit_well_shut(place):
    write_unit(place, {})
    told = _analyze("security", "--user", "--offline=yes", str(installing.unit_path())).stdout
    exposure = re.search(r"exposure level for .*: ([\d.]+)", told)
    assert exposure is not None, told
    assert float(exposure[1]) < 5.0  # without the hardening it is above 9


def test_the_unit_lets_decoders_give_up_their_network():
    """What `actors.isolation.confinement.without_network` asks of the system, and no other namespace."""
    allowed = dict(line.split("=", 1) for line in unit_text().splitlines() if "=" in line and line[0] != "#")
    assert set(allowed["RestrictNamespaces"].split()) == {"user", "net"}


def test_the_unit_under_deploy_is_the_usual_one():
    assert (DEPLOY / "gpu-worker.service").read_text() == unit_text()


def instructions(text):
    """(instruction, its words) of a Dockerfile; continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def test_the_dockerfile_of_a_donor():
    """There is no engine here to build it with: what can be read of it is checked."""
    text = (DEPLOY / "Dockerfile.donor").read_text()
    found = instructions(text)
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "STOPSIGNAL", "HEALTHCHECK",
             "ENTRYPOINT", "CMD"}  # fmt: skip
    assert {word for word, _ in found} <= known
    last = [word for word, _ in found]
    said = dict(found[len(last) - last[::-1].index("FROM") :])  # of the last stage
    user = said["USER"].split(":")
    assert all(one.isdigit() and int(one) >= 10_000 for one in user)  # a number: Kubernetes can tell that it isn't root
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(said["ENTRYPOINT"]) == ["gpu-worker"]
    assert json.loads(said["CMD"])[0] == "start"
    assert json.loads(said["HEALTHCHECK"].partition("CMD ")[2]) == ["gpu-worker", "status", "--json"]
    assert last.index("USER") > max(i for i, word in enumerate(last) if word == "RUN")  # nothing runs as the user in it
    volume = said["VOLUME"]
    variables = dict(word.split("=", 1) for word in said["ENV"].split())
    for name in ("IDLEGRID_HOME", "XDG_CACHE_HOME", "HF_HOME"):  # all that is written lies in the volume
        assert variables[name].startswith(f"{volume}/")
    for word in ("--cap-drop ALL", "--read-only", "no-new-privileges", "--gpus all"):
        assert word in text
