"""What a worker says of itself to the scheduler: the donor's facts and its report, as plain msgpack types."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..grid.donors import Donor, Limits
from ..grid.layers.speed import Speed
from ..grid.schedule import Schedule

KEY = "idlegrid"
"""Name of our entry in a worker's metrics, and of the topic on which a worker pushes changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What only the worker itself knows of its load. Jobs assigned and started are counted by the scheduler."""

    sequence: int = 0
    """Raised by every change, so that a slow heartbeat never undoes a push that overtook it."""
    gpu_memory_used_gb: float = 0.0
    """In use on the GPU by anybody, in GB. 0 without a GPU."""
    loaded: frozenset[str] = frozenset()
    """Ids of the models that are resident."""
    paused: bool = False
    draining: bool = False
    elsewhere: int = 0
    """Slots that work holds which came another way than through the scheduler (direct mode)."""
    speeds: tuple[Speed, ...] = ()
    """How fast it computes layers, as far as it was measured (`grid.layers.measured`)."""
    links: Mapping[str, float] = field(default_factory=dict)
    """Donor id → seconds of a round trip, of those that stages here have links with."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One message of a worker: who it is and how it is."""

    donor: Donor
    report: Report

    def to_wire(self) -> dict[str, Any]:
        """As a dict of msgpack types."""
        donor, schedule = _plain(asdict(self.donor)), self.donor.limits.schedule
        donor["limits"]["schedule"] = None if schedule is None else schedule.text
        report = _plain(asdict(replace(self.report, speeds=())))
        return {"donor": donor, "report": report | {"speeds": [one.to_wire() for one in self.report.speeds]}}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Statement:
        """The inverse of `to_wire`. Fields that this version doesn't know are ignored.

        Raises KeyError, TypeError or ValueError when what is needed is missing or has the wrong type: such a worker
        counts as one without facts, and gets no work.
        """
        said = _known(Donor, wire["donor"])
        if not isinstance(said.get("id"), str) or not said["id"]:
            raise ValueError(f"a donor's id is a non-empty text, not {said.get('id')!r}")
        said["limits"] = _limits(said.get("limits", {}))
        for name in ("supported_types", "models"):
            said[name] = frozenset(map(str, said.get(name, ())))
        report = _known(Report, wire["report"])
        report["loaded"] = frozenset(map(str, report.get("loaded", ())))
        report["speeds"] = _speeds(report.get("speeds", ()))
        report["links"] = {str(donor_id): float(seconds) for donor_id, seconds in report.get("links", {}).items()}
        return cls(Donor(**said), Report(**report))


def _speeds(wire: Sequence[Mapping[str, Any]]) -> tuple[Speed, ...]:
    """Those that this version can read: a donor without them is presumed to be as fast as it looks."""
    found: list[Speed] = []
    for one in wire:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            found.append(Speed.from_wire(one))
    return tuple(found)


def _limits(wire: Mapping[str, Any]) -> Limits:
    said = _known(Limits, wire)
    schedule = said.get("schedule")
    return Limits(**{**said, "schedule": None if schedule is None else Schedule(schedule)})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return sorted(value) if isinstance(value, frozenset) else value


def _known(cls: type[Any], wire: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in wire.items() if name in names}
