"""The donor's page as HTML, out of the agent's status. Pure; Jinja escapes whatever a name, a job or a log may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, StrictUndefined, Template

from ...grid.config.donor import LoadControl
from ...grid.config.fields import settings_of
from ...grid.config.time_zone import local_time_zone
from ...grid.reliability import LATENCY_WEIGHT, SENIORITY_WEIGHT, STABILITY_WEIGHT, SUCCESS_WEIGHT
from .face import AgentState, AgentStatus, JobLine, LogLine, ScoreTerms
from .page_week import Day, limits_of, next_morning, week

SECTION = "load_control"
WORDS: Mapping[AgentState, str] = {
    AgentState.STARTING: "Starting",
    AgentState.ONLINE: "Ready for work",
    AgentState.BUSY: "Working",
    AgentState.PAUSED: "Paused",
    AgentState.DRAINING: "Finishing",
    AgentState.OFFLINE: "Not connected",
}
SAID: Mapping[str, str] = {
    "paused": "Paused. What ran was handed back; nobody counts that against you.",
    "started": "Work is taken again.",
    "finishing": "What runs is finished; then the agent leaves the grid and ends.",
    "saved": "Saved.",
}
"""What was done, by the word in the URL: no text of a URL is ever shown."""
TERMS: tuple[tuple[str, str, float, str], ...] = (
    (
        "success",
        "Success",
        SUCCESS_WEIGHT,
        (
            "The share of jobs that end well. Jobs fail where memory or disk runs short: take fewer at a time, or "
            "lower the share of GPU memory. A job that you hand back by pausing does not count."
        ),
    ),
    (
        "stability",
        "Stability",
        STABILITY_WEIGHT,
        (
            "Long stays that end with a goodbye. Leave by Finish or Pause before you switch the machine off; a stay "
            "that breaks off costs."
        ),
    ),
    (
        "latency",
        "Speed",
        LATENCY_WEIGHT,
        (
            "Your time for a job against the median of the grid for the same work. It rises where other programs leave "
            "the GPU alone and fewer jobs run side by side."
        ),
    ),
    (
        "seniority",
        "History",
        SENIORITY_WEIGHT,
        "Days online and jobs done well over all the time. It grows by itself, and slowly.",
    ),
)
"""Term of the score, its name here, its weight, and how to raise it."""


@dataclass(frozen=True, slots=True)
class Field:
    """One setting of the load control, as the form shows it."""

    key: str
    """With its section, as `AgentFace.set` takes it."""
    label: str
    description: str
    allowed: str
    value: str
    """As people write it; empty: not set."""
    unset: str
    """What empty means, in a word."""
    switch: bool
    """Either true or false."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term of the score."""

    title: str
    weight: float
    value: float
    how: str


def render(
    status: AgentStatus,
    log: Sequence[LogLine],
    now: datetime,
    *,
    said: str = "",
    typed: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> str:
    """The whole page at `now` (aware).

    `said`: a key of `SAID`; `typed`: what the form holds in place of the values in force; `errors`: setting → why not.
    """
    zone_name = time_zone_of(status)
    clock = _Clock(now, ZoneInfo(zone_name))
    return _template().render(
        status=status,
        word=WORDS[status.state],
        paused=status.state in (AgentState.PAUSED, AgentState.DRAINING),
        said=SAID.get(said, ""),
        week=_week(status, now, zone_name),
        zone=zone_name,
        morning=next_morning(now, zone_name),
        fields=settings(status),
        typed=typed or {},
        errors=errors or {},
        terms=terms(status.score) if status.score else (),
        log=log,
        at=clock.at,
        took=clock.took,
    )


def settings(status: AgentStatus) -> tuple[Field, ...]:
    """The settings of the load control, in the order of the documentation, with the values in force."""
    return tuple(
        Field(
            key=item.key,
            label=item.key.removeprefix(f"{SECTION}.").replace("_", " ").capitalize().replace("gpu", "GPU"),
            description=item.description,
            allowed=item.allowed + (f", in {item.unit}" if item.unit else ""),
            value=_written(status.limits.get(item.key.removeprefix(f"{SECTION}."), item.default)),
            unset=item.unset,
            switch=isinstance(item.default, bool),
        )
        for item in settings_of(LoadControl, f"{SECTION}.")
    )


def terms(score: ScoreTerms) -> tuple[Term, ...]:
    """The four terms of the score, the weightiest first."""
    return tuple(Term(title, weight, getattr(score, name), how) for name, title, weight, how in TERMS)


def time_zone_of(status: AgentStatus) -> str:
    """The owner's time zone (IANA): of the limits, else the machine's."""
    return str(status.limits.get("time_zone") or local_time_zone())


def _week(status: AgentStatus, now: datetime, time_zone: str) -> tuple[Day, ...]:
    """Empty where the limits in force are none that this version knows."""
    try:
        return week(limits_of(status.limits, time_zone), now)
    except (TypeError, ValueError):
        return ()


def _written(value: Any) -> str:
    """A value of a setting as people write it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(getattr(value, "text", value))  # a schedule is what its owner wrote


@dataclass(frozen=True, slots=True)
class _Clock:
    """Instants and lengths as the owner reads them."""

    now: datetime
    zone: ZoneInfo

    def at(self, moment: datetime, *, seconds: bool = False) -> str:
        """``14:05`` today, ``Tue 14:05`` within a week, else with the date."""
        local, today = moment.astimezone(self.zone), self.now.astimezone(self.zone).date()
        days = abs((local.date() - today).days)
        day = "" if days == 0 else f"{local:%a} " if days < 7 else f"{local:%Y-%m-%d} "
        return f"{day}{local:%H:%M:%S}" if seconds else f"{day}{local:%H:%M}"

    def took(self, job: JobLine) -> str:
        """How long a job ran, or has run so far."""
        exact = max(0.0, ((job.ended_at or self.now) - job.started_at).total_seconds())
        if exact < 10:
            return f"{exact:.1f} s"
        length = round(exact)
        hours, minutes, seconds = length // 3600, length // 60 % 60, length % 60
        return (
            f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
        )


@cache
def _template() -> Template:
    """Compiled once a process."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((files(__package__) / "page.html").read_text(encoding="utf-8"))
