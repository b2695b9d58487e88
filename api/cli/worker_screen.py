"""The one screen of `gpu-worker status`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..donor.face import AgentStatus, JobLine, ScoreTerms
    from ..donor.state import Home

SHOWN_JOBS = 5
WIDTH = 110
"""Columns of what is long."""
_RAISED_BY = {
    "success": "jobs that end well; if they fail: fewer at a time, or a smaller model",
    "stability": "long stays and orderly leaves: `drain` or `pause`, never the power switch",
    "latency": "fast answers: nothing else on the GPU while it works",
    "seniority": "time: it grows with every job",
}


def screen(status: AgentStatus, page: str | None) -> Iterator[str]:
    """Line by line."""
    yield f"{status.state.value.upper()}  {status.reason.rstrip('.')}, since {_clock(status.since)}"
    yield f"machine   {status.name} in {status.region}, worker {status.worker_id}, process {status.pid}"
    way = "asks for work over HTTP" if status.pull else "work comes by Dask"
    yield f"grid      {status.server}; {way}; takes {', '.join(status.types) or 'nothing'}"
    if status.certificate_expires_at is not None and not status.pull:
        yield f"tls       certificate good until {_clock(status.certificate_expires_at)}, renewed by itself"
    if status.opens_at is not None:
        yield f"hours     closed until {_clock(status.opens_at)}"
    elif status.closes_at is not None:
        yield f"hours     open until {_clock(status.closes_at)}"
    if (gpu := status.gpu) is not None:
        heat = "" if gpu.temperature_celsius is None else f", {gpu.temperature_celsius:.0f} °C"
        busy = "" if gpu.utilisation_percent is None else f", {gpu.utilisation_percent:.0f} % busy"
        yield f"gpu       {gpu.model}, {gpu.memory_used_gb:.1f} of {gpu.memory_total_gb:.1f} GB used{busy}{heat}"
    yield from _score(status.score)
    yield from _jobs(status)
    yield from _limits(status)
    if page is not None:
        yield f"page      {page}"


def not_running(home: Home) -> tuple[list[str], dict[str, Any]]:
    """What is known while no agent runs: as lines, and as a document."""
    from ...grid.credentials import BadCredentials
    from ..donor.joining import registered
    from ..donor.state import Kept

    kept = Kept.load(home.state)
    try:
        held = registered(home)
    except BadCredentials as error:
        return [f"NOT RUNNING  {error}"], {"state": "not running", "reason": str(error)}
    if held is None:
        reason = "this machine has joined no grid: gpu-worker join URL TOKEN"
        return [f"NOT RUNNING  {reason}"], {"state": "not running", "reason": reason, "worker_id": None}
    lines = ["NOT RUNNING  `gpu-worker start` starts it", f"machine   {kept.name}, worker {held.worker_id}"]
    if kept.paused:
        lines.append(f"paused    until {_clock(kept.paused_until) if kept.paused_until else 'you say `resume`'}")
    document = {"state": "not running", "reason": "the agent does not run", "worker_id": held.worker_id}
    return lines, document | {"name": kept.name, "region": kept.region, "server": held.server, "paused": kept.paused}


def _score(score: ScoreTerms | None) -> Iterator[str]:
    if score is None:
        yield "score     not told yet"
        return
    yield f"score     {score.total:.2f} of 1"
    for name, how in _RAISED_BY.items():
        yield f"  {name:<10}{getattr(score, name):.2f}  raised by {how}"


def _jobs(status: AgentStatus) -> Iterator[str]:
    yield f"jobs      {len(status.running)} now, {status.jobs_last_hour} within the hour, {status.jobs_today} today"
    for line in status.running:
        yield f"  {line.job_id} {line.type}, since {_clock(line.started_at)}"
    for line in status.finished[:SHOWN_JOBS]:
        yield f"  {line.job_id} {line.type}, {line.outcome}, {_seconds(line)}"


def _seconds(line: JobLine) -> str:
    return "" if line.ended_at is None else f"{(line.ended_at - line.started_at).total_seconds():.1f} s"


def _limits(status: AgentStatus) -> Iterator[str]:
    from ..donor.proposing import limits_in_words

    words = ", ".join(limits_in_words(status.limits, gpu=status.gpu is not None))
    told = f"{words} (configuration {status.config_version}; `gpu-worker set` changes it)"
    yield textwrap.fill(told, WIDTH, initial_indent="limits    ", subsequent_indent=" " * 10)


def _clock(moment: datetime) -> str:
    local = moment.astimezone()
    return f"{local:%H:%M}" if local.date() == datetime.now(local.tzinfo).date() else f"{local:%a %d %b %H:%M}"
