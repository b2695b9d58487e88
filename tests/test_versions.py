"""pyproject.toml, the lock, environment.yml and the page on versions say the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
BASE = [Requirement(line) for line in PROJECT["dependencies"]]
LOCK = {
    match["name"]: Version(match["version"])
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if (match := re.match(r"(?P<name>[\w.-]+)==(?P<version>\S+)", line))
}
LOCKED = [
    requirement
    for requirement in [
        *BASE,
        *(one for name in ("api", "worker", "image", "audio", "redis", "dev") for one in EXTRAS[name]),
    ]
    if requirement.name != "idlegrid"
]


def conda_requirements() -> dict[str, str]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    found = {}
    for line in [*conda, *pip]:
        name, rest = re.match(r"([\w\[\],.-]+?)((?:[=<>].*)?)$", line).groups()
        found[name] = re.sub(r"^=(?!=)", "==", rest)
    return found


@pytest.mark.parametrize("requirement", LOCKED, ids=lambda requirement: requirement.name)
def test_the_lock_satisfies_every_range(requirement):
    name = re.sub(r"[-_.]+", "-", requirement.name).lower()
    assert requirement.specifier.contains(LOCK[name], prereleases=True)


@pytest.mark.parametrize(
    ("name", "conda_name"),
    [
        ("dask", "dask"),
        ("distributed", "distributed"),
        ("bokeh", "bokeh"),
        ("pyarrow", "pyarrow"),
        ("dask-cuda", "dask-cuda"),
        ("distributed-ucxx-cu13", "distributed-ucxx"),
        ("vllm", "vllm"),
        ("transformers", "transformers"),
        ("sentence-transformers", "sentence-transformers"),
    ],
)
def test_environment_yml_has_the_same_range(name, conda_name):
    ours = next(one for one in [*BASE, *(one for extra in EXTRAS.values() for one in extra)] if one.name == name)
    theirs = Requirement(f"{name}{conda_requirements()[conda_name]}")
    assert theirs.specifier == ours.specifier


def test_the_lock_keeps_cuda_out():
    assert LOCK["torch"].local == "cpu"
    assert not [name for name in LOCK if name.startswith(("nvidia-", "triton"))]


def test_dask_matches_dask_cuda():
    """dask-cuda 26.10 pins both to exactly this release."""
    assert LOCK["dask"] == LOCK["distributed"] == Version("2026.7.1")


def test_the_page_on_versions_names_every_binding_pin():
    page = (ROOT / "docs/decisions/0004-versions.md").read_text().replace(" ", "")
    for name in ("dask-cuda", "distributed-ucxx-cu13", "vllm", "transformers"):
        [requirement] = {one for extra in EXTRAS.values() for one in extra if one.name == name}
        bounds = sorted(str(requirement.specifier).split(","), key=lambda bound: not bound.startswith(">"))
        assert ",".join(bounds) in page, f"{name}{bounds} is not in docs/decisions/0004-versions.md"
    assert f"dask==distributed=={LOCK['dask']}" in page
    assert f"torch=={LOCK['torch']}" in page


def test_the_base_install_has_no_engine_and_no_web_server():
    assert not {one.name for one in BASE} & {"torch", "transformers", "fastapi", "uvicorn", "vllm", "dask-cuda"}
