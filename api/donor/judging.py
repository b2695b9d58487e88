"""From everything that is known of an agent: what it wants of its worker process, and the one word for its state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from .face import AgentState
from .work import Want


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known at one moment."""

    now: datetime
    time_zone: str
    """The owner's, for the words."""
    ready: bool = False
    """The worker process takes work, or would."""
    running: int = 0
    leaving: str | None = None
    """Why the agent ends when nothing runs any more; None: it doesn't."""
    draining: str | None = None
    """Why it takes nothing new, though it stays; None: it does."""
    stopping: bool = False
    """It ends now, whatever runs."""
    paused: bool = False
    """By its owner."""
    paused_until: datetime | None = None
    guarded: str | None = None
    """Why the machine is not free for work now: battery, heat, its owner, another program. None: it is."""
    held: str | None = None
    """Why nothing new may begin, though what runs may end. None: it may begin."""
    closed: bool = False
    """Outside the owner's hours."""
    opens_at: datetime | None = None
    away: str | None = None
    """Why the grid can't be reached; None: it can."""
    refused: str | None = None
    """Why the grid does not want this machine; None: it does."""


def wanted(facts: Facts) -> tuple[Want, str]:
    """What the worker process is to do, and why."""
    if facts.stopping:
        return Want.STOP, "stopped by its owner"
    if facts.paused:
        return Want.STOP, "paused by its owner"
    if facts.guarded is not None:
        return Want.STOP, facts.guarded
    if facts.leaving is not None or facts.draining is not None:
        return Want.FINISH, facts.leaving or facts.draining or ""
    if facts.refused is not None:
        return Want.FINISH, facts.refused
    if facts.closed:
        return Want.FINISH, "the owner's hours are over"
    return Want.WORK, ""


def judged(facts: Facts) -> tuple[AgentState, str]:
    """The state in one word, and its reason for people."""
    clock = _Clock(facts.now, ZoneInfo(facts.time_zone))
    if facts.leaving is not None or facts.stopping:
        rest = f"finishes {_jobs(facts.running)}, then leaves" if facts.running else "leaves, as nothing runs"
        return AgentState.DRAINING, f"{facts.leaving or 'stopped'}: {rest}"
    if facts.paused:
        until = f" until {clock.words(facts.paused_until)}" if facts.paused_until else " until you say `resume`"
        return AgentState.PAUSED, f"you paused it{until}; nothing runs here"
    if facts.guarded is not None:
        return AgentState.PAUSED, facts.guarded
    if facts.refused is not None:
        return AgentState.OFFLINE, facts.refused
    if facts.draining is not None:
        return AgentState.DRAINING, f"{facts.draining}: {_jobs(facts.running)} to finish, nothing new is taken"
    if facts.running:
        told = f"; {facts.away}, what runs goes on" if facts.away else ""
        told += f"; nothing new begins: {facts.held}" if facts.held else ""
        return AgentState.BUSY, f"works on {_jobs(facts.running)}{told}"
    if facts.closed:
        opens = f", they begin {clock.words(facts.opens_at)}" if facts.opens_at else ""
        return AgentState.PAUSED, f"outside your hours{opens}"
    if facts.held is not None:
        return AgentState.PAUSED, facts.held
    if facts.away is not None:
        return AgentState.OFFLINE, f"{facts.away}; tries again by itself"
    if not facts.ready:
        return AgentState.STARTING, "the worker process starts"
    return AgentState.ONLINE, "takes work as it comes"


@dataclass(frozen=True, slots=True)
class _Clock:
    now: datetime
    zone: ZoneInfo

    def words(self, moment: datetime) -> str:
        """A moment in the owner's zone, with the day only where it is another one."""
        local, today = moment.astimezone(self.zone), self.now.astimezone(self.zone)
        return f"{local:%H:%M}" if local.date() == today.date() else f"{local:%a %d %b, %H:%M}"


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs" if count else "nothing"
