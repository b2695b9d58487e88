"""What a worker process tells its agent of its jobs: never what is in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from .face import JobLine

REMEMBERED = 50
"""Jobs that ended, and refusals, that are kept."""
HOUR = 3600.0
ROOM = 1000
"""Starts after which those that are older than an hour are looked for; then twice as many as were left."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Work that was sent here and that the owner's limits do not allow."""

    job_id: str
    reason: str
    at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """One report, and what earlier processes of the same worker left of theirs."""

    running: tuple[JobLine, ...] = ()
    finished: tuple[JobLine, ...] = ()
    """Newest first; at most `REMEMBERED`."""
    loaded: tuple[str, ...] = ()
    """Ids of the models that are resident."""
    gpu_memory_used_gb: float = 0.0
    """By anybody."""
    refused: tuple[Refusal, ...] = ()
    """Newest first; at most `REMEMBERED`."""
    address: str = ""
    """Of the Dask worker; empty for a process without Dask."""


def line_to_wire(line: JobLine) -> dict[str, Any]:
    """A line as JSON types; instants as Unix seconds."""
    wire: dict[str, Any] = {"job_id": line.job_id, "type": line.type, "started_at": line.started_at.timestamp()}
    if line.ended_at is not None:
        wire |= {"ended_at": line.ended_at.timestamp(), "outcome": line.outcome}
    return wire


def line_from_wire(wire: Mapping[str, Any]) -> JobLine:
    """The inverse of `line_to_wire`. Raises KeyError, TypeError or ValueError."""
    ended = wire.get("ended_at")
    return JobLine(
        str(wire["job_id"]),
        str(wire["type"]),
        datetime.fromtimestamp(float(wire["started_at"]), UTC),
        None if ended is None else datetime.fromtimestamp(float(ended), UTC),
        None if ended is None else str(wire.get("outcome")),
    )


class Reports:
    """Puts the reports of one process after another together. No clock, no I/O."""

    def __init__(self) -> None:
        self._finished: deque[JobLine] = deque(maxlen=REMEMBERED)
        self._refused: deque[Refusal] = deque(maxlen=REMEMBERED)
        self._ended: set[tuple[str, datetime]] = set()
        self._starts: dict[tuple[str, datetime], float] = {}
        self._room = ROOM
        self.latest = WorkerReport()

    def remember(self, starts: Iterable[tuple[str, datetime]]) -> None:
        """Jobs that were started when nobody listened yet: before a restart of the agent."""
        self._starts |= {start: start[1].timestamp() for start in starts}

    def heard(self, wire: Mapping[str, Any]) -> WorkerReport:
        """One report. What makes no sense raises KeyError, TypeError or ValueError, and changes nothing."""
        running = tuple(line_from_wire(line) for line in wire.get("running", ()))
        finished = [line_from_wire(line) for line in wire.get("finished", ())]
        refused = [Refusal(str(one["job_id"]), str(one["reason"]), float(one["at"])) for one in wire.get("refused", ())]
        told = WorkerReport(
            running=running,
            loaded=tuple(map(str, wire.get("loaded", ()))),
            gpu_memory_used_gb=float(wire.get("gpu_memory_used_gb", 0.0)),
            address=str(wire.get("address", "")),
        )
        for line in finished:
            self._add(line)
        for one in refused:
            if one not in self._refused:
                self._refused.appendleft(one)
        for line in (*running, *finished):
            self._starts[line.job_id, line.started_at] = line.started_at.timestamp()
        if len(self._starts) > self._room:
            self.starts(max(self._starts.values()))
            self._room = max(ROOM, 2 * len(self._starts))
        self.latest = replace(told, finished=tuple(self._finished), refused=tuple(self._refused))
        return self.latest

    def gone(self, now: datetime, outcome: str) -> WorkerReport:
        """The process has ended: what it was last heard to run ended with it, with this outcome."""
        for line in self.latest.running:
            self._add(replace(line, ended_at=now, outcome=outcome))
        self.latest = replace(self.latest, running=(), finished=tuple(self._finished), loaded=(), gpu_memory_used_gb=0)
        return self.latest

    def starts(self, now: float) -> list[float]:
        """When jobs were started within the last hour (Unix seconds, oldest first): the next process counts on."""
        self._starts = {key: at for key, at in self._starts.items() if at > now - HOUR}
        return sorted(self._starts.values())

    def _add(self, line: JobLine) -> None:
        name = (line.job_id, line.started_at)
        if name in self._ended:
            return
        if len(self._finished) == REMEMBERED:
            oldest = self._finished[-1]
            self._ended.discard((oldest.job_id, oldest.started_at))
        self._ended.add(name)
        self._finished.appendleft(line)
