"""What this machine is as a donor: its settings, its GPU, and an id that outlives its worker."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from distributed.diagnostics import nvml
from platformdirs import user_runtime_path

from ..grid.config import load_settings
from ..grid.donors import Donor
from ..grid.job_types import runnable_types
from .facts import Report, Statement

VARIABLE = "IDLEGRID_DONOR"
"""Environment variable with a whole donor as JSON (the fields of `Donor`), in place of the settings: for clusters
that start many.
"""

_held: list[IO[bytes]] = []
"""Locks of this process's slots: open until the process ends, however it ends."""


def local_donor(
    worker_name: str | None, environ: Mapping[str, str] | None = None, config_path: Path | None = None
) -> Donor:
    """The donor that a worker on this machine is.

    `worker_name`: the name it was given, None if it has none of its own. Raises ConfigError on settings that aren't
    allowed, and ValueError, KeyError or TypeError on a variable `IDLEGRID_DONOR` that is no donor.
    """
    environ = os.environ if environ is None else environ
    if VARIABLE in environ:
        return Statement.from_wire({"donor": json.loads(environ[VARIABLE]), "report": {}}).donor
    settings = load_settings(config_path, environ=environ).settings
    gpu_model, gpu_memory_gb, gpu_count = visible_gpu()
    return settings.to_donor(
        id=_stable_id(settings.name or "", worker_name, environ),
        gpu_model=gpu_model,
        gpu_memory_gb=gpu_memory_gb,
        gpu_count=gpu_count,
        supported_types=runnable_types(),
    )


def to_variable(donor: Donor) -> str:
    """The donor as the value of `IDLEGRID_DONOR`."""
    return json.dumps(Statement(donor, Report()).to_wire()["donor"])


def visible_gpu() -> tuple[str | None, float, int]:
    """Model, memory in GB (10^9 bytes) and number of the GPUs that this process may use: one each under
    dask-cuda-worker.
    """
    if nvml.device_get_count() < 1:
        return None, 0.0, 0
    facts: dict[str, Any] = nvml.one_time()
    return facts["name"], float(facts["memory-total"] or 0) / 1e9, 1


def _stable_id(name: str, worker_name: str | None, environ: Mapping[str, str]) -> str:
    """An id of this worker's place on this machine: 16 hex digits, the same after a restart."""
    device = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    place = f"gpu {device}" if device else worker_name or f"slot {_slot()}"
    told = json.dumps([_machine_id(), socket.gethostname(), name, place])
    return blake2b(told.encode(), digest_size=8).hexdigest()


def _machine_id() -> str:
    for path in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        if path.is_file() and (text := path.read_text().strip()):
            return text
    return f"{uuid.getnode():012x}"


def _slot() -> int:
    """The lowest number that no other worker of this user on this machine holds."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # no such locks on this system: the process id is unique, though not stable
        return os.getpid()
    folder = user_runtime_path("idlegrid", ensure_exists=True)
    number = 0
    while True:
        lock = (folder / f"slot-{number}.lock").open("ab")
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            lock.close()
            number += 1
            continue
        _held.append(lock)
        return number
