"""How long requests wait while nobody can hold some layers: longer for a donor that may come back. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

LACK = 5.0
"""Seconds from the loss on, while no donors are there that could hold the model."""
RETURN = 45.0
"""Seconds from the loss on, for a donor whose process ended while the other stages stayed loaded: it may be starting
again."""


@dataclass(frozen=True, slots=True)
class Lacking:
    """Nobody holds some layers, and nobody loads them."""

    since: float
    """When they were lost, or first could not be placed: seconds of a monotonic clock."""
    awaited: frozenset[str] = frozenset()
    """Donors that held some of them, whose processes are gone, while the other stages are there."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds; see `LACK` and `RETURN`."""

    lack: float = LACK
    back: float = RETURN

    def of(self, lacking: Lacking) -> float:
        """Seconds that this lack may last."""
        return max(self.lack, self.back) if lacking.awaited else self.lack


class Lacks(Protocol):
    """A fleet, as far as this module sees it."""

    @property
    def lacking(self) -> Lacking | None:
        """None: a replica serves, or is on its way."""


class Lack:
    """How long nobody could hold the model, at a stretch, while one request waits."""

    def __init__(self, fleet: Lacks, limits: Limits, *, fresh: bool) -> None:
        """`fresh`: the request was not begun when the loss came: it waits for `Limits.lack` of its own at least."""
        self._fleet, self._limits, self._fresh = fleet, limits, fresh
        self._seen = float("inf")

    def lasts(self, now: float) -> bool:
        """Whether it has lasted too long. To be asked again and again, by the clock of `Lacking.since`."""
        lacking = self._fleet.lacking
        if lacking is None:
            self._seen = float("inf")
            return False
        self._seen = min(self._seen, now)
        own = self._seen + self._limits.lack if self._fresh else self._seen
        return now >= max(own, lacking.since + self._limits.of(lacking))
