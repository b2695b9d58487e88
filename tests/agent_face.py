"""An agent's face in memory: what the donor's page shows and does, without a grid behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from idlegrid.api.donor.face import AgentState, AgentStatus, GpuNow, JobLine, LogLine, NotAllowed, ScoreTerms
from idlegrid.grid.config.donor import LoadControl

WEDNESDAY = datetime(2026, 3, 4, 13, 20, 5, tzinfo=UTC)


def some_status(now: datetime = WEDNESDAY, **changes: Any) -> AgentStatus:
    """A machine that works: two jobs run, some are done, its owner lends it at night and at noon."""

    def ago(**length: float) -> datetime:
        return now - timedelta(**length)

    status = AgentStatus(
        state=AgentState.BUSY,
        reason="2 of 2 jobs run",
        since=ago(minutes=7),
        worker_id="0d8b6c1f4a7e2935",
        name="this machine",
        region="europe-west",
        server="https://grid.example",
        pull=True,
        types=("embedding", "llm"),
        closes_at=now.replace(hour=6, minute=0, second=0) + timedelta(days=1),
        score=ScoreTerms(0.838, 0.91, 0.79, 0.82, 0.77),
        running=(
            JobLine("01JQ2V7K3M9XEXAMPLE00000A1", "llm", ago(seconds=41)),
            JobLine("01JQ2V7K3M9XEXAMPLE00000A2", "embedding", ago(minutes=2, seconds=3)),
        ),
        finished=(
            JobLine("01JQ2V7K3M9XEXAMPLE00000B1", "llm", ago(minutes=9), ago(minutes=8), "completed"),
            JobLine("01JQ2V7K3M9XEXAMPLE00000B2", "embedding", ago(minutes=31), ago(minutes=16), "handed_back"),
            JobLine("01JQ2V7K3M9XEXAMPLE00000B3", "llm", ago(hours=3), ago(hours=2, minutes=58), "failed"),
            JobLine("01JQ2V7K3M9XEXAMPLE00000B4", "llm", ago(days=1), ago(days=1, minutes=-1), "completed"),
        ),
        jobs_today=14,
        jobs_last_hour=3,
        limits=LoadControl(
            max_concurrent_jobs=2, schedule="mon-fri 12:30-07:00, sat-sun 00:00-24:00", time_zone="Europe/Berlin"
        ).model_dump(),
        gpu=GpuNow(
            model="NVIDIA RTX 4090",
            memory_total_gb=25.4,
            memory_used_gb=9.8,
            utilisation_percent=71.0,
            temperature_celsius=64.0,
        ),
        pid=4711,
    )
    return replace(status, **changes)


class FaceInMemory:
    """Keeps what it is told, and says in `calls` what that was."""

    def __init__(self, status: AgentStatus | None = None) -> None:
        self.now = status or some_status()
        self.calls: list[tuple[Any, ...]] = []
        self.log = [
            LogLine(1, WEDNESDAY - timedelta(minutes=12), "info", "joined the grid at https://grid.example"),
            LogLine(2, WEDNESDAY - timedelta(minutes=9), "warning", "the heartbeat took 2.1 s"),
            LogLine(3, WEDNESDAY - timedelta(minutes=8), "error", "job 01JQ2V7K3M9XEXAMPLE00000B3: out of memory"),
            LogLine(4, WEDNESDAY - timedelta(minutes=7), "info", "takes work: 2 jobs run"),
        ]

    def status(self) -> AgentStatus:
        return self.now

    async def pause(self, seconds: float | None) -> None:
        self.calls.append(("pause", seconds))
        self.now = replace(self.now, state=AgentState.PAUSED, reason="paused by you", running=())

    async def resume(self) -> None:
        self.calls.append(("resume",))
        self.now = replace(self.now, state=AgentState.ONLINE, reason="nothing to do yet")

    async def drain(self) -> None:
        self.calls.append(("drain",))
        self.now = replace(self.now, state=AgentState.DRAINING, reason="finishes 2 jobs, then leaves")

    async def set(self, key: str, value: str) -> None:
        self.calls.append(("set", key, value))
        self._change({key: value})

    async def set_many(self, values: Mapping[str, str]) -> None:
        self.calls.append(("set_many", dict(values)))
        self._change(values)

    def _change(self, values: Mapping[str, str]) -> None:
        named = {key.removeprefix("load_control."): key for key in values}
        wanted: dict[str, Any] = {**self.now.limits, **{name: values[key] or None for name, key in named.items()}}
        try:
            limits = LoadControl.model_validate(wanted)
        except ValidationError as error:
            found = [(named.get(str((*one["loc"], "")[0]), next(iter(values))), one["msg"]) for one in error.errors()]
            raise NotAllowed({key: f"{key} is {values[key]!r}: {told}" for key, told in found}) from None
        self.now = replace(self.now, limits=limits.model_dump())

    def log_lines(self, after: int = 0, limit: int = 200) -> list[LogLine]:
        return [line for line in self.log if line.number > after][-limit:]
