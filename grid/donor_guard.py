"""May this machine work for others now? What its sensors tell, what its owner allows, and patience before it resumes.

A limit that is crossed stops work at once. Work resumes only after the reading has lain well on the other side, without
a break, for a while: however a signal trembles, the machine changes its mind at most once in that time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from .donors import Limits

BATTERY_REST, IN_USE_REST, HEAT_REST, MEMORY_REST = 30.0, 5.0, 10.0, 10.0
PROGRAM_REST = 60.0
"""Seconds without a program of the owner before work resumes: who starts one again and again should find it free."""
SHORTEST_REST = min(BATTERY_REST, IN_USE_REST, HEAT_REST, MEMORY_REST, PROGRAM_REST)
COOL = 10.0
"""°C below the limit at which the GPU has cooled down."""
TOO_HOT = 5.0
"""°C above the limit at which what runs stops, too."""
PROGRAM_GB, PROGRAM_GONE_GB = 0.5, 0.4
"""GPU memory from which a program that only draws counts as one that needs the GPU, and below which it doesn't."""
MEMORY_BACK = 5.0
"""Percent of the GPU's memory that others must give back before work resumes."""


class PauseReason(StrEnum):
    """Why a machine does not work for others. The value goes to the grid, the words only to the owner."""

    OWNER = "paused"
    BATTERY = "on_battery"
    IN_USE = "in_use"
    PROGRAM = "other_gpu_program"
    HEAT = "gpu_temperature"
    MEMORY = "gpu_memory"


class Act(StrEnum):
    """What follows, from mild to strict."""

    WORK = "work"
    HOLD = "hold"
    """Take nothing new; what runs goes on."""
    FREE = "free"
    """Hand back what runs, and free the device now."""


_STRICTNESS = {Act.WORK: 0, Act.HOLD: 1, Act.FREE: 2}


@dataclass(frozen=True, slots=True)
class GpuProgram:
    """A program that uses the GPU and is none of ours."""

    pid: int
    name: str
    memory_gb: float | None
    """None: the driver doesn't tell."""
    computes: bool
    """It has a compute context; else it only draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What the machine tells at one moment. None: it can't tell, and what nobody can tell stops no work."""

    on_battery: bool | None = None
    idle_seconds: float | None = None
    """Since somebody last touched keyboard or mouse, or typed in a terminal."""
    gpu_temperature: float | None = None
    """°C."""
    gpu_utilisation: float | None = None
    """Percent; for people."""
    gpu_memory_gb: float | None = None
    """That the GPU has, in GB."""
    gpu_memory_used_gb: float | None = None
    """In use by anybody, in GB."""
    programs: tuple[GpuProgram, ...] | None = None
    """That are none of ours."""
    unknown: tuple[str, ...] = ()
    """What can't be told on this machine, and why: one sentence each, for the owner."""

    @property
    def others_memory_gb(self) -> float | None:
        """GPU memory that programs of others hold, in GB."""
        if self.programs is None:
            return None
        return sum(program.memory_gb or 0.0 for program in self.programs)


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """What the machine does now. Truthy while it works."""

    act: Act = Act.WORK
    reason: PauseReason | None = None
    detail: str = ""
    """One sentence for the owner, with the values that decided."""

    def __bool__(self) -> bool:
        return self.act is Act.WORK

    @property
    def free_now(self) -> bool:
        """Whether what runs is handed back."""
        return self.act is Act.FREE


@dataclass(frozen=True, slots=True)
class Latch:
    """One limit that was crossed, or not."""

    tripped: bool = False
    calm_since: float | None = None
    """Since when, without a break, the reading has been well on the other side. None: it is not."""

    def heard(self, *, trips: bool, calm: bool, now: float, rest: float) -> Latch:
        """After one more reading: it `trips` the limit, lies well on the other side (`calm`), or in between."""
        if trips:
            return _TRIPPED
        if not self.tripped:
            return _FREE
        if not calm:
            return _TRIPPED
        since = now if self.calm_since is None else self.calm_since
        return _FREE if now - since >= rest else Latch(True, since)


_FREE, _TRIPPED = Latch(), Latch(True)


@dataclass(frozen=True, slots=True)
class GuardState:
    """All that is remembered from one reading to the next."""

    battery: Latch = field(default=_FREE)
    in_use: Latch = field(default=_FREE)
    program: Latch = field(default=_FREE)
    heat: Latch = field(default=_FREE)
    too_hot: Latch = field(default=_FREE)
    memory: Latch = field(default=_FREE)
    told: tuple[tuple[PauseReason, str], ...] = ()
    """The words of each limit that is crossed, from when it last was."""


def judge(
    state: GuardState, readings: Readings, limits: Limits, now: float, *, paused: bool = False
) -> tuple[GuardState, GuardVerdict]:
    """What follows from one more reading, and what to remember.

    `now`: seconds of a clock that never goes back. `paused`: by the owner; takes effect, and ends, at once.
    """
    battery, in_use = _battery(state.battery, readings, limits, now), _in_use(state.in_use, readings, limits, now)
    program, memory = _program(state.program, readings, limits, now), _memory(state.memory, readings, limits, now)
    heat, too_hot = _heat(state, readings, limits, now)
    found = [
        (program, Act.FREE, PauseReason.PROGRAM),
        (in_use, Act.FREE, PauseReason.IN_USE),
        (battery, Act.FREE, PauseReason.BATTERY),
        (too_hot, Act.FREE, PauseReason.HEAT),
        (heat, Act.HOLD, PauseReason.HEAT),
        (memory, Act.HOLD, PauseReason.MEMORY),
    ]
    old = dict(state.told)
    said = {
        reason: _words(reason, readings, limits) or old.get(reason, "") for latch, _, reason in found if latch.tripped
    }
    after = GuardState(battery, in_use, program, heat, too_hot, memory, tuple(said.items()))
    if paused:
        return after, GuardVerdict(Act.FREE, PauseReason.OWNER, "paused by its owner")
    crossed = [(act, reason) for latch, act, reason in found if latch.tripped]
    if not crossed:
        return after, GuardVerdict()
    act, reason = max(crossed, key=lambda one: _STRICTNESS[one[0]])
    return after, GuardVerdict(act, reason, said[reason])


def _battery(latch: Latch, readings: Readings, limits: Limits, now: float) -> Latch:
    on = limits.pause_on_battery and readings.on_battery is True
    if not limits.pause_on_battery:
        return _FREE
    return latch.heard(trips=on, calm=not on, now=now, rest=BATTERY_REST)


def _in_use(latch: Latch, readings: Readings, limits: Limits, now: float) -> Latch:
    wanted = limits.only_when_idle_minutes * 60.0
    if not wanted:
        return _FREE
    used = readings.idle_seconds is not None and readings.idle_seconds < wanted
    return latch.heard(trips=used, calm=not used, now=now, rest=IN_USE_REST)


def _program(latch: Latch, readings: Readings, limits: Limits, now: float) -> Latch:
    if not limits.pause_for_other_gpu_programs:
        return _FREE
    programs = readings.programs or ()
    trips = any(_needs_gpu(program, PROGRAM_GB) for program in programs)
    calm = not any(_needs_gpu(program, PROGRAM_GONE_GB) for program in programs)
    return latch.heard(trips=trips, calm=calm, now=now, rest=PROGRAM_REST)


def _needs_gpu(program: GpuProgram, least_gb: float) -> bool:
    return program.computes or (program.memory_gb or 0.0) >= least_gb


def _heat(state: GuardState, readings: Readings, limits: Limits, now: float) -> tuple[Latch, Latch]:
    most, read = limits.max_gpu_temperature, readings.gpu_temperature
    if not most:
        return _FREE, _FREE
    calm = read is None or read < most - COOL
    return (
        state.heat.heard(trips=read is not None and read >= most, calm=calm, now=now, rest=HEAT_REST),
        state.too_hot.heard(trips=read is not None and read >= most + TOO_HOT, calm=calm, now=now, rest=HEAT_REST),
    )


def _memory(latch: Latch, readings: Readings, limits: Limits, now: float) -> Latch:
    """Others hold so much of the GPU's memory that none of the owner's share for us is left."""
    held, total = readings.others_memory_gb, readings.gpu_memory_gb
    share = 100.0 * held / total if held is not None and total else 0.0
    most = limits.max_gpu_memory_percent
    return latch.heard(trips=share >= most, calm=share < most - MEMORY_BACK, now=now, rest=MEMORY_REST)


def _words(reason: PauseReason, readings: Readings, limits: Limits) -> str:
    """Why, by this reading; empty when it is no longer this reading that says so."""
    match reason:
        case PauseReason.BATTERY if readings.on_battery:
            return "it runs on battery"
        case PauseReason.IN_USE if readings.idle_seconds is not None:
            return f"somebody uses it; works after {limits.only_when_idle_minutes:g} idle minutes"
        case PauseReason.PROGRAM if needing := [one for one in readings.programs or () if _needs_gpu(one, PROGRAM_GB)]:
            return f"{', '.join(_named(one) for one in needing[:3])} uses the GPU"
        case PauseReason.HEAT if readings.gpu_temperature is not None:
            most = limits.max_gpu_temperature
            return f"the GPU has {readings.gpu_temperature:.0f} °C, allowed are {most:g}; works below {most - COOL:g}"
        case PauseReason.MEMORY if readings.others_memory_gb is not None:
            return f"other programs hold {readings.others_memory_gb:.1f} GB of the GPU's memory"
    return ""


def _named(program: GpuProgram) -> str:
    return program.name if program.memory_gb is None else f"{program.name} ({program.memory_gb:.1f} GB)"
