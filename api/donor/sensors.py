"""What this machine tells of itself and of its owner: power, input, the GPU and who uses it.

What can't be told is None, with a sentence why, and stops no work: a headless server has no keyboard, a container sees
no other programs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Protocol

import psutil

from ...grid.donor_guard import GpuProgram, Readings

VARIABLE: Final = "IDLEGRID_SENSORS"
"""Path of a JSON file with the fields of `Readings`, in place of the machine's own sensors: for tests and trials."""
SLOW = 2.0
"""Seconds for which an answer that costs a process is believed."""
ANSWER = 1.0
"""Seconds that such a process has."""
_PTS = Path("/dev/pts")
_ALL_PROCESSES = "pid:[4026531836]"
"""Linux's first PID namespace: only there the driver's process ids are ours."""


class Sensors(Protocol):
    """What the guard reads, several times a second. May block for as long as a driver takes to answer."""

    def read(self) -> Readings:
        """How it is now. Raises nothing: what fails is None."""
        ...


class FileSensors:
    """Readings out of a file, which a test may replace at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = Readings()

    def read(self) -> Readings:
        with suppress(OSError, ValueError, TypeError, KeyError):
            self._last = readings_from(json.loads(self._path.read_text()))
        return self._last


def readings_from(document: Mapping[str, Any]) -> Readings:
    """Readings out of JSON; fields that this version doesn't know are ignored."""
    known = {field.name for field in fields(Readings)}
    said = {name: value for name, value in document.items() if name in known}
    if said.get("programs") is not None:
        said["programs"] = tuple(GpuProgram(**program) for program in said["programs"])
    said["unknown"] = tuple(said.get("unknown", ()))
    return Readings(**said)


class MachineSensors:
    """This machine's own. Belongs to one thread at a time."""

    def __init__(self, gpu: Gpu | None, idle: Idle) -> None:
        self._gpu, self._idle = gpu, idle
        self._battery = _Slow(_on_battery)

    def read(self) -> Readings:
        idle = self._idle.seconds()
        unknown = [] if idle is not None else [self._idle.why]
        told = self._gpu.read() if self._gpu is not None else GpuTold()
        return Readings(
            on_battery=self._battery(),
            idle_seconds=idle,
            gpu_temperature=told.temperature,
            gpu_utilisation=told.utilisation,
            gpu_memory_gb=told.memory_gb,
            gpu_memory_used_gb=told.used_gb,
            programs=told.programs,
            unknown=(*unknown, *told.unknown),
        )


def machine_sensors(device: int = 0, environ: Mapping[str, str] | None = None) -> Sensors:
    """The sensors of this machine, or the file that stands in for them. `device`: number of the GPU that is lent."""
    environ = os.environ if environ is None else environ
    if path := environ.get(VARIABLE):
        return FileSensors(Path(path))
    return MachineSensors(Gpu.found(device), Idle.found(environ))


# -- who sits at it


class Idle:
    """Seconds since somebody last used this machine: the least that any source tells."""

    def __init__(self, sources: list[Callable[[], float | None]], why: str = "") -> None:
        self._sources = sources
        self.why = (
            why or "nobody can tell here whether somebody uses this machine: only_when_idle_minutes has no effect"
        )

    @classmethod
    def found(cls, environ: Mapping[str, str]) -> Idle:
        """By X11 (`xprintidle`), by the desktop's word to logind (`busctl`), and by terminals; whatever is there."""
        sources: list[Callable[[], float | None]] = []
        if environ.get("DISPLAY") and (xprintidle := shutil.which("xprintidle")):
            sources.append(_Slow(lambda: _x11(xprintidle)))
        if busctl := shutil.which("busctl"):
            sources.append(_Slow(lambda: _logind(busctl, time.time())))
        if _PTS.is_dir():
            sources.append(lambda: terminals(_PTS, time.time()))
        return cls(sources)

    def seconds(self) -> float | None:
        """None: no source knows."""
        told = [seconds for source in self._sources if (seconds := source()) is not None]
        return min(told, default=None)


def terminals(folder: Path, now: float) -> float | None:
    """Seconds since something was last typed in a terminal; None without terminals. Exact to the kernel's 8 s."""
    latest = None
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.isdigit():
                with suppress(OSError):
                    latest = max(latest or 0.0, entry.stat().st_atime)
    return None if latest is None else max(0.0, now - latest)


def _x11(xprintidle: str) -> float | None:
    said = _asked(xprintidle)
    return float(said) / 1e3 if said is not None and said.isdigit() else None


def _logind(busctl: str, now: float) -> float | None:
    """The session's idle hint: false while its user is there, else since when."""
    session = "/org/freedesktop/login1/session/auto"
    words = ("get-property", "org.freedesktop.login1", session, "org.freedesktop.login1.Session")
    return idle_hint(_asked(busctl, *words, "IdleHint", "IdleSinceHint"), now)


def idle_hint(said: str | None, now: float) -> float | None:
    """Seconds idle, out of ``b true`` and ``t <µs since the epoch>``. None: there is no session to ask about."""
    words = (said or "").split()
    if words[:2] == ["b", "false"]:
        return 0.0
    if words[:3] != ["b", "true", "t"] or len(words) != 4 or not words[3].isdigit():
        return None
    since = int(words[3]) / 1e6
    return max(0.0, now - since) if since else None


def _asked(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _on_battery() -> bool | None:
    """None: it has no battery, or doesn't tell."""
    try:
        battery = psutil.sensors_battery()
    except (OSError, AttributeError, RuntimeError):
        return None
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged


class _Slow:
    """An answer that is believed for a while."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask, self._at, self._said = ask, float("-inf"), None

    def __call__(self) -> Any:
        if time.monotonic() - self._at >= SLOW:
            self._said, self._at = self._ask(), time.monotonic()
        return self._said


# -- the GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTold:
    """What the driver says of one GPU."""

    temperature: float | None = None
    utilisation: float | None = None
    memory_gb: float | None = None
    used_gb: float | None = None
    programs: tuple[GpuProgram, ...] | None = None
    unknown: tuple[str, ...] = ()


class Gpu:
    """One GPU, through NVML."""

    def __init__(self, nvml: Any, handle: Any, ours: Callable[[int], bool], *, sees_all: bool = True) -> None:
        """`nvml`: the module `pynvml`. `ours`: whether a process is one of ours. `sees_all`: the driver's process ids
        mean something here.
        """
        self._nvml, self._handle, self._ours, self._sees_all = nvml, handle, ours, sees_all

    @classmethod
    def found(cls, device: int) -> Gpu | None:
        """The GPU with that number; None where there is none, or nobody to ask about it."""
        from distributed.diagnostics import nvml

        if nvml.device_get_count() < 1:
            return None
        try:
            handle = nvml.pynvml.nvmlDeviceGetHandleByIndex(device)
        except nvml.pynvml.NVMLError:
            return None
        return cls(nvml.pynvml, handle, Family(os.getpid()), sees_all=_sees_all_processes())

    def read(self) -> GpuTold:
        """How it is now."""
        nvml, handle = self._nvml, self._handle
        memory = self._said(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        use = self._said(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        heat = self._said(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        programs, unknown = self._programs()
        return GpuTold(
            temperature=None if heat is None else float(heat),
            utilisation=None if use is None else float(use.gpu),
            memory_gb=None if memory is None else memory.total / 1e9,
            used_gb=None if memory is None else memory.used / 1e9,
            programs=programs,
            unknown=unknown,
        )

    def _programs(self) -> tuple[tuple[GpuProgram, ...] | None, tuple[str, ...]]:
        if not self._sees_all:
            return None, ("in a container nobody can tell whose programs use the GPU",)
        computing = self._said(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))
        drawing = self._said(lambda: self._nvml.nvmlDeviceGetGraphicsRunningProcesses(self._handle))
        if computing is None:
            return None, ("the driver does not tell which programs use the GPU",)
        found = {one.pid: (one, False) for one in drawing or ()} | {one.pid: (one, True) for one in computing}
        others = (_program(one, computes) for pid, (one, computes) in sorted(found.items()) if not self._ours(pid))
        return tuple(one for one in others if one is not None), ()

    def _said(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._nvml.NVMLError:  # not supported on this model, or the driver is being replaced
            return None


def _program(process: Any, computes: bool) -> GpuProgram | None:
    """None: it has gone."""
    try:
        name = str(psutil.Process(process.pid).name())
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        name = "a program"
    used = process.usedGpuMemory
    return GpuProgram(process.pid, name, None if used is None else used / 1e9, computes)


class Family:
    """Whether a process descends from this one; remembered for as long as it lives."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._known: dict[tuple[int, float], bool] = {}

    def __call__(self, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            key = (pid, process.create_time())
            if key not in self._known:
                if len(self._known) > 1000:
                    self._known.clear()
                self._known[key] = pid == self._root or any(one.pid == self._root for one in process.parents())
            return self._known[key]
        except psutil.Error:
            return False


def _sees_all_processes() -> bool:
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _ALL_PROCESSES
    except OSError:  # no such namespaces on this system
        return True
