"""`npx gpu-worker`, packed and run as its users do: from nothing to idlegrid's own program, without a network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "npx"
WAIT = 120.0
"""Seconds that one command may take on a busy machine."""


def tool(name):
    """A program that these tests can't do without."""
    found = shutil.which(name)
    assert found, (
        f"{name} is not on this machine: the wrapper's tests need Node 18 or newer (apt-get install nodejs npm)"
    )
    return found


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False, **options)


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """What `npm publish` would send: the archive, and the package in it."""
    tool("npm")
    out = tmp_path_factory.mktemp("packed")
    done = run([sys.executable, ROOT / "scripts" / "pack-npx", out])
    assert done.returncode == 0, done.stderr
    [archive] = out.glob("*.tgz")
    with tarfile.open(archive) as file:
        file.extractall(out, filter="data")
    return archive, out / "package"


@pytest.fixture(scope="session")
def variables(tmp_path_factory):
    """Environment of a user who has never run it. idlegrid's dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("user")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("GPU_", "IDLEGRID_", "XDG_"))}
    return kept | {
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "npm_config_cache": str(folder / "npm"),
        "npm_config_offline": "true",
        "npm_config_update_notifier": "false",
        "GPU_WORKER_HOME": str(folder / "data"),
        "GPU_WORKER_PIP_ARGS": "--no-deps --no-index --ignore-installed --quiet",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PYTHONWARNINGS": "ignore",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="session")
def wrapper(packed, variables):
    """The wrapper, past its first start."""
    words = [tool("node"), str(packed[1] / "bin" / "gpu-worker.js")]
    done = run([*words, "--help"], env=variables)
    assert done.returncode == 0, done.stderr
    return words


def base_of(variables):
    return Path(variables["GPU_WORKER_HOME"]) / "npx"


def test_it_has_the_version_of_the_program_that_it_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert json.loads((PACKAGE / "package.json").read_text())["version"] == project["version"]


def test_its_own_units():
    done = run([tool("node"), "--test", "test/"], cwd=PACKAGE)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestFromNothing:
    def test_npx_runs_the_package(self, packed, variables, tmp_path):
        archive, package = packed
        files = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
        [wheel] = [name for name in files if name.startswith("wheel/")]
        assert files - {wheel} == {
            "LICENSE", "README.md", "package.json", "bin/gpu-worker.js", "lib/environment.js", "lib/expected.js",
            "lib/hand_over.js", "lib/main.js", "lib/make_environment.py", "lib/python.js",
        }  # fmt: skip
        carried = set(zipfile.ZipFile(package / wheel).namelist())
        assert {f"idlegrid/api/donor/page.{kind}" for kind in ("html", "css", "js")} <= carried
        shutil.copy(archive, tmp_path)
        words = [tool("npx"), "--yes", f"./{archive.name}"]
        done = run([*words, "status"], env=variables, cwd=tmp_path)
        assert done.returncode == 1, done.stderr  # as the program ends: there is no agent
        assert "gpu-worker join" in done.stdout + done.stderr
        assert (base_of(variables) / "gpu-worker.json").is_file()
        again = run([*words, "--help"], env=variables, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert "Usage: gpu-worker" in again.stdout
        assert "the first time" not in again.stderr

    def test_words_answers_and_the_exit_code_pass(self, wrapper, variables, tmp_path):
        wrong = run([*wrapper, "start", "--no-such-option"], env=variables)
        assert wrong.returncode == 2
        assert "--no-such-option" in wrong.stderr
        odd = run([*wrapper, "set", "no such key; echo *", 'it\'s "quoted"'], env=variables)
        assert odd.returncode == 2
        assert "no such key; echo *" in odd.stderr
        home = tmp_path / "home"
        (home / "state").mkdir(parents=True)
        (home / "state" / "state.json").write_text("{}")
        asked = run([*wrapper, "uninstall", "--home", str(home)], env=variables, input="n\n")
        assert asked.returncode == 1, asked.stdout + asked.stderr
        assert (home / "state" / "state.json").exists()

    @pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
    def test_signals_pass(self, wrapper, variables, sent, tmp_path):
        """A worker that pulls leaves in order when it is told, and the exit code is its own."""
        command = [*wrapper, "pull", "http://127.0.0.1:9", "--token", "x", "--drain-timeout", "1"]
        process = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=tmp_path, start_new_session=True,
        )  # fmt: skip
        try:
            said = ""
            while "127.0.0.1:9" not in said:  # it has begun
                line = process.stdout.readline()
                assert line, said
                said += line
            process.send_signal(sent)
            rest, _ = process.communicate(timeout=WAIT)
            assert process.returncode == 0, said + rest
        finally:
            end(process)

    def test_killed_half_way_started_thrice_at_once_and_removed(self, wrapper, variables, tmp_path):
        """kill -9 of the whole group while the environment is made; then three starts make it once; then it goes."""
        own = variables | {"GPU_WORKER_HOME": str(tmp_path)}
        first = subprocess.Popen(
            [*wrapper, "--help"], env=own, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until(lambda: list(base_of(own).glob("*/pyvenv.cfg")))
        finally:
            end(first)
        assert not list(base_of(own).glob("*/ready.json"))
        starts = [
            subprocess.Popen([*wrapper, "--help"], env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        try:
            said = [one.communicate(timeout=WAIT) for one in starts]
        finally:
            for one in starts:
                end(one)
        assert [one.returncode for one in starts] == [0, 0, 0], said
        assert all("Usage: gpu-worker" in text for text, _ in said)
        assert sum("waiting for it" in error for _, error in said) == 2
        assert len(list(base_of(own).glob("*/ready.json"))) == 1
        done = run([*wrapper, "uninstall", "--yes", "--home", str(tmp_path / "agent")], env=own)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "environment of npx" in done.stdout
        assert not base_of(own).exists()

    def test_what_pip_refuses_is_told_and_leaves_nothing(self, wrapper, variables, tmp_path):
        own = variables | {"GPU_WORKER_HOME": str(tmp_path), "GPU_WORKER_SPEC": "idlegrid==99"}
        done = run([*wrapper, "status"], env=own)
        assert done.returncode == 1
        assert "the environment could not be made" in done.stderr
        assert not [path for path in base_of(own).iterdir() if path.is_dir()]

    def test_a_folder_with_other_files_is_left_alone(self, wrapper, variables, tmp_path):
        own = variables | {"GPU_WORKER_HOME": str(tmp_path)}
        (tmp_path / "npx").mkdir()
        (tmp_path / "npx" / "precious").write_text("x")
        done = run([*wrapper, "status"], env=own)
        assert done.returncode == 1
        assert "holds other files" in done.stderr
        assert (tmp_path / "npx" / "precious").exists()

    def test_without_a_python_it_says_what_to_do(self, variables):
        named = variables | {"GPU_WORKER_PYTHON": "/no/python", "GPU_WORKER_HOME": "/nonexistent"}
        done = run([tool("node"), str(PACKAGE / "bin" / "gpu-worker.js"), "status"], env=named)
        assert done.returncode == 1
        assert "GPU_WORKER_PYTHON names /no/python" in done.stderr
        assert "    at " not in done.stderr  # a message, no stack


def until(holds):
    deadline = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL) if os.getpgid(process.pid) == process.pid else process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
