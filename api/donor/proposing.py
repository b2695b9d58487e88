"""What a machine could lend: looked at, proposed, and explained to its owner in plain words. Pure, but for the look."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil

from ...grid import catalogue
from ...grid.config import Settings
from ...grid.config.time_zone import local_time_zone
from ...grid.job_types import job_types, missing_packages
from ...grid.regions import REGIONS

SHARE = 0.5
"""Of main memory, that a model may take on a machine without a GPU."""
_REGION_OF_AREA = {"Africa": "europe-west", "America": "america-north", "Australia": "oceania", "Pacific": "oceania"}


def _cities(names: str) -> frozenset[str]:
    return frozenset(names.split())


_EUROPE_EAST = _cities(
    "Athens Belgrade Bratislava Bucharest Budapest Chisinau Helsinki Istanbul Kiev Kyiv Ljubljana Minsk Moscow Prague "
    "Riga Sarajevo Skopje Sofia Tallinn Vilnius Warsaw Zagreb"
)
_ASIA_EAST = _cities("Chongqing Harbin Hong_Kong Macau Pyongyang Seoul Shanghai Taipei Tokyo Ulaanbaatar Vladivostok")
_AMERICA_SOUTH = _cities(
    "Asuncion Bahia Belem Bogota Buenos_Aires Caracas Cayenne Fortaleza Guayaquil Guyana La_Paz Lima Manaus "
    "Montevideo Paramaribo Recife Santiago Sao_Paulo"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was found."""

    gpu_model: str | None
    """None: no GPU."""
    gpu_memory_gb: float
    memory_gb: float
    """Main memory."""
    cores: int
    time_zone: str


def look() -> Machine:
    """This machine."""
    from ...scheduler_plugins.machine import visible_gpu

    model, memory, _ = visible_gpu()
    return Machine(
        gpu_model=model,
        gpu_memory_gb=memory,
        memory_gb=psutil.virtual_memory().total / 1e9,
        cores=psutil.cpu_count() or 1,
        time_zone=local_time_zone(),
    )


def likely_region(time_zone: str) -> str | None:
    """The region in which a machine with this time zone most likely stands; None: it says nothing."""
    area, _, city = time_zone.partition("/")
    city = city.rpartition("/")[2]
    if area == "Europe":
        return "europe-east" if city in _EUROPE_EAST else "europe-west"
    if area == "Asia":
        return "asia-east" if city in _ASIA_EAST else "asia-south"
    if area == "America" and (city in _AMERICA_SOUTH or "Argentina" in time_zone):
        return "america-south"
    return _REGION_OF_AREA.get(area)


def models_that_fit(machine: Machine, settings: Settings) -> dict[str, str]:
    """Job type → the model that this machine would serve it with; types that can't be served are left out."""
    memory = machine.gpu_memory_gb * settings.load_control.max_gpu_memory_percent / 100 or None
    found = {}
    for name, job_type in sorted(job_types().items()):
        if missing_packages(job_type):
            continue
        engine = getattr(settings.engines, name, None)
        named = None if engine is None else engine.model_id
        fits = catalogue.default_model(name, memory)
        if named is not None:
            found[name] = named
        elif fits is not None:
            found[name] = fits.id
    return found


def types_that_fit(machine: Machine, settings: Settings) -> tuple[str, ...]:
    """Job types to offer. Without a GPU only those whose model leaves room for the owner in main memory: placement
    asks a GPU how much it has, and a machine without one what it takes."""
    found = []
    for name, model in models_that_fit(machine, settings).items():
        listed = catalogue.find(model)
        if machine.gpu_model or listed is None or listed.gpu_memory_gb <= SHARE * machine.memory_gb:
            found.append(name)
    return tuple(found)


def proposal(machine: Machine, settings: Settings) -> dict[str, Any]:
    """Dotted key → value that is proposed where the owner has not said anything yet."""
    found: dict[str, Any] = {}
    if settings.name is None:
        found["name"] = f"worker-{secrets.token_hex(2)}"  # the machine's own name is nobody's business
    if (region := likely_region(machine.time_zone)) is not None:
        found["region"] = region
    if machine.gpu_model is None and settings.supported_types is None and (fit := types_that_fit(machine, settings)):
        found["supported_types"] = ",".join(fit)
    return found


def explained(machine: Machine, settings: Settings, server: str, *, pull: bool) -> Iterator[str]:
    """What will run here and what others will see, for the owner, line by line."""
    gpu = f"{machine.gpu_model} with {machine.gpu_memory_gb:.0f} GB" if machine.gpu_model else "no GPU: the CPU works"
    yield f"This machine: {gpu}, {machine.memory_gb:.0f} GB of memory, {machine.cores} cores."
    models = models_that_fit(machine, settings)
    wanted = settings.supported_types or tuple(models)
    yield "What will run here:"
    for name in wanted:
        slow = "" if machine.gpu_model or name == "embedding" else ", slow without a GPU"
        yield f"  {name} with {models.get(name, 'a model that the grid names')}{slow}"
    for name, job_type in sorted(job_types().items()):
        if missing := missing_packages(job_type):
            yield f"  not {name}: {', '.join(missing)} not installed here; gpu-worker install sees to that"
    if left := sorted(models.keys() - set(wanted)):
        yield f"  not {', '.join(left)}, unless you say so: gpu-worker set supported_types {','.join(sorted(models))}"
    limits = ", ".join(limits_in_words(settings.load_control.model_dump(), gpu=machine.gpu_model is not None))
    yield f"  within these limits: {limits}"
    yield "What others see:"
    where = ", ".join(part for part in (settings.city, settings.country, settings.region) if part)
    gpu = "the GPU's model and memory" if machine.gpu_model else "that it has no GPU"
    yield f"  the grid: the name {settings.name!r}, {where}, {gpu}, when it works and how"
    yield "  reliably, and the address that it calls from. Not your files, not your other programs."
    yield "  you, if you looked: what clients ask. It is computed in this machine's memory, and is theirs: leave it be."
    yield "Who can do what:"
    if pull:
        yield f"  it asks {server} for work. What comes is data, never code."
    else:
        yield f"  it joins the Dask cluster of {server}. Whoever runs that cluster can run code here, as you: do that"
        yield "  only with a grid that you trust like a colleague. With any other take --pull: there only data comes."
    if in_clear(server):
        yield f"  whoever sits between this machine and {server} can read what both say, this machine's keys included:"
        yield "  ask its operator for https."
    yield "It stops at once with `gpu-worker pause`, and your own programs always come first."


def in_clear(url: str) -> bool:
    """Whether what is said to a server can be read on its way."""
    place = urlsplit(url)
    return place.scheme == "http" and place.hostname not in ("localhost", "127.0.0.1", "::1")


def limits_in_words(limits: Mapping[str, Any], *, gpu: bool) -> Iterator[str]:
    """What an owner allows, by the keys of `load_control`, in a few words each. `gpu`: there is one."""
    yield f"{limits['max_concurrent_jobs']} at a time"
    if most := limits.get("max_jobs_per_hour"):
        yield f"{most} an hour"
    if (rate := limits.get("acceptance_rate", 1.0)) < 1.0:
        yield f"{rate:.0%} of what is offered"
    start, schedule = limits.get("working_hours_start"), limits.get("schedule")
    if start is not None:
        yield f"{start}:00 to {limits['working_hours_end']}:00"
    if schedule is not None:
        yield str(schedule)
    if start is None and schedule is None:
        yield "around the clock"
    elif zone := limits.get("time_zone"):
        yield f"by the clock of {zone}"
    if minutes := limits.get("only_when_idle_minutes"):
        yield f"after {minutes:g} min without anybody at it"
    if limits.get("pause_on_battery"):
        yield "not on battery"
    if gpu:
        yield from _of_the_gpu(limits)


def _of_the_gpu(limits: Mapping[str, Any]) -> Iterator[str]:
    yield f"{limits['max_gpu_memory_percent']:g} % of the GPU's memory"
    if degrees := limits.get("max_gpu_temperature"):
        yield f"below {degrees:g} °C"
    if limits.get("pause_for_other_gpu_programs"):
        yield "not beside other programs on the GPU"


REGION_LIST: Mapping[str, str] = {code: region.name for code, region in REGIONS.items()}
"""Code → name, to choose from."""
