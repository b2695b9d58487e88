"""How far a job is: what a progress bar shows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .pulse import Pulse

_MEMORY = 30.0
_FEW = 3
"""Units in half a minute that say less of the speed than the whole run does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look at a running job."""

    rows: int
    """Rows in finished parts, those of earlier runs included."""
    rows_total: int
    errors: int
    """Rows of finished parts that have an error."""
    units: int
    units_total: int
    rows_per_second: float
    """Over the last half minute of this run, or all of it; 0 until the first unit is done."""
    eta_seconds: float | None
    """Expected rest. None: not known yet."""
    workers: int
    """Workers connected now."""
    under_way: tuple[Pulse, ...] = ()
    """Where workers are within their units, for work whose rows take long."""
    notice: str = ""
    """Something the user should know: what is waited for, what is done again."""


@dataclass(slots=True)
class Meter:
    """Rows per second over a moving window; the clock is an argument."""

    started: float
    done: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def add(self, rows: int, now: float) -> None:
        self.done.append((now, rows))
        self.total += rows
        while self.done and self.done[0][0] < now - _MEMORY:
            self.done.popleft()

    def rate(self, now: float) -> float:
        """Rows per second: over the last half minute, or over the whole run while too little comes in half a minute."""
        recent = [count for when, count in tuple(self.done) if when >= now - _MEMORY]  # others ask, from their threads
        if len(recent) < _FEW:
            return self.total / max(now - self.started, 1e-9)
        rows = sum(recent)
        return rows / max(min(now - self.started, _MEMORY), 1e-9) if rows else 0.0

    def eta(self, rows_left: int, now: float) -> float | None:
        rate = self.rate(now)
        return rows_left / rate if rate else None
