"""The owner's limits, enforced where the work arrives: whatever a scheduler sends, no more than they allow is begun.

The same rule that the scheduler asks (`grid.acceptance.decide`), with what this machine itself knows: its own clock,
its own count of what runs and what was begun within the hour, and its own measure of the GPU's memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from ...grid.acceptance import decide, standing
from ...grid.donors import Donor, Load
from ...grid.jobs import Ask
from ...grid.verdicts import Verdict

HOUR = 3600.0
REMEMBERED = 50
"""Refusals that are kept."""

Now = Callable[[], datetime]
Draw = Callable[[str, str, datetime], float]
"""Name of a piece of work, donor's id, instant → its lot, in [0, 1)."""
Memory = Callable[[], tuple[float, frozenset[str]]]
"""GPU memory in GB that work of this process can't have, since others use it; and the ids of resident models."""


@dataclass(frozen=True, slots=True)
class Declined:
    """Work that was sent here and not begun."""

    job_id: str
    reason: str
    at: datetime


class SlotGuard:
    """Counts what this donor's process does and says what it may begin. Thread-safe.

    Everything that `take` accepted must be given back with `give`.
    """

    def __init__(
        self,
        donor: Donor,
        *,
        now: Now = lambda: datetime.now(UTC),
        memory: Memory = lambda: (0.0, frozenset()),
        draw: Draw = lambda name, donor_id, now: 0.0,
    ) -> None:
        """`draw`: the lot of a piece of work at this donor; without one, whatever comes was drawn before."""
        self._donor, self._now, self._memory, self._draw = donor, now, memory, draw
        self._lock = threading.Lock()
        self._running: dict[str, bool] = {}
        self._starts: deque[float] = deque()
        self._paused = self._draining = False
        self._declined: deque[Declined] = deque(maxlen=REMEMBERED)

    @property
    def donor(self) -> Donor:
        """The facts and limits in force."""
        return self._donor

    @property
    def declined(self) -> list[Declined]:
        """What was refused, oldest first."""
        with self._lock:
            return list(self._declined)

    def set_donor(self, donor: Donor) -> None:
        """New facts or limits, for what begins from now on. Raises ValueError: another donor's."""
        if donor.id != self._donor.id:
            raise ValueError(f"a donor keeps its id: it is {self._donor.id!r} and can't become {donor.id!r}")
        self._donor = donor

    def hold(self, *, paused: bool | None = None, draining: bool | None = None) -> None:
        """What the owner said. None: as before."""
        with self._lock:
            self._paused = self._paused if paused is None else paused
            self._draining = self._draining if draining is None else draining

    def started_before(self, at: Collection[float]) -> None:
        """Unix seconds at which earlier processes of this donor began work: the hourly cap counts them."""
        with self._lock:
            self._starts = deque(sorted({*self._starts, *at}))

    def load(self) -> Load:
        """What this donor does now."""
        with self._lock:
            return self._load(self._now())

    def standing(self) -> Verdict:
        """Whether it takes any work at all now."""
        return standing(self._donor, self.load(), self._now())

    def take(self, name: str, ask: Ask) -> Verdict:
        """Begin a piece of work if the limits allow it; refused, it is remembered as `declined`."""
        now = self._now()
        used, loaded = self._memory() if ask.gpu_memory_gb > 0 else (0.0, frozenset[str]())
        with self._lock:
            lot = self._draw(name, self._donor.id, now)
            verdict = decide(ask, self._donor, self._load(now, used, loaded), now, lot)
            if not verdict:
                self._declined.append(Declined(name, verdict.reason.value, now))
                return verdict
            self._running[name] = True
            self._starts.append(now.timestamp())
            return verdict

    def give(self, name: str) -> None:
        """It ended."""
        with self._lock:
            self._running.pop(name, None)

    def secede(self, names: Collection[str]) -> None:
        """These run on, but need no slot any more."""
        with self._lock:
            for name in names:
                if name in self._running:
                    self._running[name] = False

    def _load(self, now: datetime, used: float = 0.0, loaded: frozenset[str] = frozenset()) -> Load:
        while self._starts and self._starts[0] <= now.timestamp() - HOUR:
            self._starts.popleft()
        return Load(
            running=sum(self._running.values()),
            started_last_hour=len(self._starts),
            hourly_slot_frees_at=self._starts[0] + HOUR if self._starts else None,
            gpu_memory_used_gb=used,
            loaded=loaded,
            paused=self._paused,
            draining=self._draining,
        )
