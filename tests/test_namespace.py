"""The built wheel imports as `idlegrid.…` from a folder that is full of our folders' names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("grid", "scheduler_plugins", "actors", "pipelines", "api")

PROGRAM = """
import pathlib, sys
import idlegrid.grid.jobs, idlegrid.grid.catalogue, idlegrid.grid.config, idlegrid.scheduler_plugins.scheduler
import idlegrid.actors.resident, idlegrid.actors.models, idlegrid.pipelines.embedding, idlegrid.api.cli
for name, module in sorted(sys.modules.items()):
    if name.startswith("idlegrid.") and getattr(module, "__file__", None):
        assert pathlib.Path(module.__file__).is_relative_to(sys.argv[1]), (name, module.__file__)
assert idlegrid.grid.catalogue.models(), "data files are missing from the wheel"
tiny = idlegrid.actors.models.resolve("idlegrid-tiny", fetch=False)
assert tiny.is_relative_to(sys.argv[1]) and (tiny / "model.safetensors").is_file(), tiny
print("imported", len([name for name in sys.modules if name.startswith("idlegrid.")]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built and installed into a folder of its own."""
    base = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(base), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    [wheel] = base.glob("idlegrid-*.whl")
    site = base / "site"
    install = [*pip, "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return site


def run(installed, folder):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(installed)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_it_imports_from_a_hostile_folder(installed, tmp_path):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package was imported')")
    done = run(installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("imported")


@pytest.mark.slow
def test_the_folder_is_hostile_indeed(installed, tmp_path):
    """The control: a package that was installed under a bare name would have been shadowed."""
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "__init__.py").write_text("raise RuntimeError('the wrong package was imported')")
    done = subprocess.run([sys.executable, "-c", "import grid"], cwd=tmp_path, capture_output=True, text=True)
    assert "the wrong package was imported" in done.stderr
