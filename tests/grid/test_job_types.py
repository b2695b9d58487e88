"""The register of job types: built-ins and strangers through one door, a broken one harms no other."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
from pydantic import BaseModel

from idlegrid.grid import job_types as register
from idlegrid.grid.job_types import GROUP, JobType, UnknownJobTypeError, job_type, job_types, load
from idlegrid.grid.jobs import Ask


class Nothing(BaseModel):
    pass


class Echo:
    """A stranger's job type."""

    name = "echo"
    Params = Nothing
    Result = Nothing

    def ask(self, params: Nothing) -> Ask:
        return Ask(type=self.name)

    def run(self, params: Nothing) -> Nothing:
        return params


class Unnamed:
    Params = Nothing


class Untyped(Echo):
    name = "untyped"
    Params = dict


@pytest.fixture
def strangers(monkeypatch):
    """Entry points into a module that a stranger's package would bring."""
    module = ModuleType("strangers_package")
    module.ECHO, module.ECHO_TOO, module.UNNAMED, module.UNTYPED = Echo(), Echo(), Unnamed(), Untyped()
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def point(name: str, attribute: str, package: str = module.__name__) -> EntryPoint:
        return EntryPoint(name, f"{package}:{attribute}", GROUP)

    return point


def test_the_built_in_uses_the_same_door():
    assert "embedding" in job_types()
    assert job_type("embedding").name == "embedding"
    assert all(isinstance(found, JobType) for found in job_types().values())


def test_a_stranger_is_as_good_as_a_built_in(strangers):
    register = load([strangers("echo", "ECHO")])
    assert register["echo"].ask(Nothing()) == Ask(type="echo")
    assert not register.broken


@pytest.mark.parametrize(
    ("name", "attribute", "package", "what"),
    [
        ("gone", "X", "no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("gone", "GONE", "strangers_package", "AttributeError"),
        ("unnamed", "UNNAMED", "strangers_package", "it is a Unnamed without name, Result, ask, run"),
        ("untyped", "UNTYPED", "strangers_package", "its Params is .*dict.*; it must be a pydantic model class"),
        ("shout", "ECHO", "strangers_package", "it calls itself 'echo'"),
    ],
)
def test_a_broken_one_is_told_by_name_and_harms_no_other(strangers, name, attribute, package, what):
    register = load([strangers(name, attribute, package), strangers("echo", "ECHO")])
    assert list(register.types) == ["echo"]
    with pytest.raises(UnknownJobTypeError, match=f"{name!r} is installed but can't be used: {package}.*{what}"):
        register[name]


def test_a_name_that_two_packages_offer_belongs_to_neither(strangers):
    register = load([strangers("echo", "ECHO"), strangers("echo", "ECHO_TOO")])
    assert not register.types
    with pytest.raises(UnknownJobTypeError, match="ECHO and strangers_package:ECHO_TOO both offer it"):
        register["echo"]


def test_one_package_seen_twice_is_no_conflict(strangers):
    assert list(load([strangers("echo", "ECHO")] * 2).types) == ["echo"]


def test_an_unknown_type_comes_with_the_nearest_name():
    with pytest.raises(UnknownJobTypeError, match=r"unknown job type 'embeding'.*Did you mean 'embedding'\?"):
        job_type("embeding")
    with pytest.raises(UnknownJobTypeError, match="installed: none"):
        load([])["llm"]


def test_what_is_not_installed_is_not_offered(monkeypatch):
    assert register.runnable_types() >= {"embedding", "image_gen", "whisper"}
    real = register.find_spec
    monkeypatch.setattr(register, "find_spec", lambda name: None if name == "diffusers" else real(name))
    assert register.missing_packages(job_type("image_gen")) == ("diffusers",)
    assert job_types().keys() - register.runnable_types() == {"image_gen"}


@pytest.mark.parametrize("name", sorted(job_types()))
def test_a_type_names_what_it_imports_by_the_names_that_they_have(name):
    assert register.missing_packages(job_type(name)) == (), "all extras are installed where tests run"
