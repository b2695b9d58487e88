"""How long will a job wait? From what waits before it, how long such work takes, and how much runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_INSTANT = 1e-6
"""Seconds that work takes at least: a measurement may say 0."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Places that take the same work."""

    types: frozenset[str]
    """Job types that may run there."""
    slots: int
    """Jobs that run there at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What there is to do before a new job is looked at."""

    ahead: Mapping[str, float] = field(default_factory=dict)
    """Job type → jobs that wait and go first."""
    running: Mapping[str, int] = field(default_factory=dict)
    """Job type → jobs that run."""
    service_seconds: Mapping[str, float] = field(default_factory=dict)
    """Job type → how long one takes, measured. A type that never finished is missing."""


def estimate(job_type: str, backlog: Backlog, places: Sequence[Capacity]) -> float | None:
    """Seconds until a job of this type starts. None: nobody takes the type, or what is ahead was never measured.

    The places that take the type are one station with their slots; of other types ahead of it, each gets the share of
    its own places that lies in this station. With a slot free it starts at once; else those ahead fill the free slots.
    The first slot frees soon, since running jobs end at times spread evenly over their service times (what just starts
    is not: it takes its whole time), and short ones end more often. A few jobs ahead take what the running ones leave;
    many go through all slots, one turn after the other.
    """
    slots = _slots(job_type, places)
    if slots <= 0:
        return None
    ahead = _contending(job_type, backlog.ahead, places)
    running = _contending(job_type, backlog.running, places)
    free, waiting = max(0.0, slots - sum(running.values())), sum(ahead.values())
    if waiting < free or not (ahead or running):
        return 0.0
    if any(other not in backlog.service_seconds for other in (*ahead, *running)):
        return None
    seconds = {other: max(_INSTANT, took) for other, took in backlog.service_seconds.items()}
    if waiting:
        for other, count in ahead.items():
            running[other] = running.get(other, 0.0) + count * free / waiting
    behind = waiting - free
    ends = sum(count / seconds[other] for other, count in running.items())  # slots that free in a second
    first = (1 + free / slots) / (ends + 1 / max(seconds[other] for other in running))
    work = sum(count * seconds[other] for other, count in ahead.items())
    turns = work * behind / waiting / slots if waiting else 0.0
    many = min(1.0, behind / slots)
    return first + many * turns + (1 - many) * behind / ends


def _slots(job_type: str, places: Sequence[Capacity], other: str | None = None) -> int:
    """Slots of the places that take the type (and the other type too)."""
    return sum(place.slots for place in places if job_type in place.types and (other is None or other in place.types))


def _contending(job_type: str, jobs: Mapping[str, float], places: Sequence[Capacity]) -> dict[str, float]:
    """How many of the jobs come into the way of a job of this type, by type; types that never do are left out."""
    found: dict[str, float] = {}
    for other, count in jobs.items():
        shared, everywhere = _slots(job_type, places, other), _slots(other, places)
        if count > 0 and shared > 0:
            found[other] = count * shared / everywhere
    return found
