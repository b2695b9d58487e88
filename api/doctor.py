"""What can keep this machine from working in a grid: each check a function that says what it found and what to do."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil

from ..grid.config import ConfigError, Settings, load_settings
from .ports import obstacle

MIN_FREE_GB = 10.0
"""Free disk below which a model may not fit."""
REACH = 3.0
"""Seconds that a connection to the scheduler may take."""


class Health(StrEnum):
    """How a finding is meant."""

    OK = "ok"
    NOTE = "note"
    """Works, but something is missing that some people want."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    health: Health
    found: str
    advice: str = ""
    """What to do; empty when all is well."""


def examine(config: Path | None = None) -> Iterator[Finding]:
    """Every finding, in the order in which a person would look. A configuration that can't be read ends it."""
    yield from examine_machine(config)
    try:
        settings = load_settings(config).settings
    except ConfigError:
        return  # told already
    yield from _scheduler(settings)
    yield from _ports(settings)


def examine_machine(config: Path | None = None) -> Iterator[Finding]:
    """What matters wherever work is done. A configuration that can't be read ends it."""
    yield _python()
    yield from _packages()
    try:
        load_settings(config)
    except ConfigError as error:
        yield Finding(
            "configuration", Health.PROBLEM, str(error), "mend it; `idlegrid config show` lists what is allowed"
        )
        return
    yield Finding("configuration", Health.OK, "every key and value is allowed")
    yield _gpu()
    yield _memory()
    yield _disk()
    yield _model()


def _python() -> Finding:
    return Finding("python", Health.OK, f"{platform.python_version()} in {sys.prefix}")


def _packages() -> Iterator[Finding]:
    for name, wanted in _pinned():
        found = version(name)
        health = Health.OK if found == wanted else Health.PROBLEM
        advice = "" if found == wanted else f"pip install {name}=={wanted}: schedulers and workers must match"
        yield Finding(name, health, found, advice)
    for extra, package in (("worker", "torch"), ("audio", "soundfile"), ("image", "diffusers"), ("api", "fastapi")):
        if installed := _installed(package):
            yield Finding(f"extra {extra}", Health.OK, f"{package} {installed}")
        else:
            advice = f"pip install 'idlegrid[{extra}]'"
            yield Finding(f"extra {extra}", Health.NOTE, f"{package} is not installed", advice)


def _installed(package: str) -> str | None:
    """The installed version of a package, None without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _pinned() -> Iterator[tuple[str, str]]:
    """What idlegrid's own metadata demands in exactly one version: (name, version)."""
    for requirement in requires("idlegrid") or ():
        if exact := re.fullmatch(r"([\w-]+)==([\w.]+)", requirement):
            yield exact[1], exact[2]


def _gpu() -> Finding:
    from distributed.diagnostics import nvml

    count = nvml.device_get_count()
    if count:
        name = nvml.one_time().get("name", "unknown")
        cuda = _installed("dask-cuda") is not None
        advice = "" if cuda else "pip install 'idlegrid[gpu]' for one worker per GPU with its memory managed"
        return Finding("gpu", Health.OK if cuda else Health.NOTE, f"{count} × {name}", advice)
    return Finding("gpu", Health.NOTE, "no NVIDIA GPU is visible", "work runs on the CPU; with a GPU check its driver")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free, {os.cpu_count()} cores"
    if memory.available < 2e9:
        return Finding("memory", Health.PROBLEM, found, "a worker needs about 2 GB: close something")
    return Finding("memory", Health.OK, found)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.home()).free / 1e9
    if free < MIN_FREE_GB:
        return Finding(
            "disk", Health.NOTE, f"{free:.1f} GB free", f"models need room: {MIN_FREE_GB:g} GB or more is safe"
        )
    return Finding("disk", Health.OK, f"{free:.1f} GB free")


def _model() -> Finding:
    from ..grid import catalogue

    name = catalogue.canonical(None, "embedding")
    if _installed("huggingface-hub") is None:
        return Finding(
            "model", Health.NOTE, "models load only with the extra `worker`", "pip install 'idlegrid[worker]'"
        )
    from ..actors.models import ModelNotFound, resolve

    try:
        return Finding("model", Health.OK, f"{name} is at {resolve(name, fetch=False)}")
    except ModelNotFound:
        return Finding(
            "model", Health.NOTE, f"{name} is not on this machine", "it is fetched from the hub at first use"
        )


def _scheduler(settings: Settings) -> Iterator[Finding]:
    """Whether the configured scheduler can be reached; nothing without one."""
    address = settings.scheduler.address
    if address is None:
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except OSError as error:
        advice = "is it running, and does a firewall let you through? `idlegrid status` asks it"
        yield Finding("scheduler", Health.PROBLEM, f"{address} does not answer: {error.strerror or error}", advice)
    else:
        yield Finding("scheduler", Health.OK, f"{address} answers")


def _ports(settings: Settings) -> Iterator[Finding]:
    places = {
        "api": (settings.api.host, settings.api.port),
        "scheduler": (settings.scheduler.host, settings.scheduler.port),
        "dashboard": (settings.scheduler.host, settings.scheduler.dashboard_port),
    }
    for name, (host, port) in places.items():
        error = obstacle(host, port)
        if error is not None:
            advice = f"something listens there already (a grid?); or set another {name} port"
            yield Finding(f"port {name}", Health.NOTE, f"{host}:{port}: {error.strerror or error}", advice)
        else:
            yield Finding(f"port {name}", Health.OK, f"{host}:{port} is free" if port else "any free one")
