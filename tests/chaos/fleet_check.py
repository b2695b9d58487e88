"""Did any donor run more than its owner allowed? Read from the table of attempts, beside the diaries of the donors.

The table has the database's clock, the diaries this machine's: they are one machine's. Nothing here runs anything.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from idlegrid.grid.acceptance import is_open
from idlegrid.grid.donors import Limits

TOLERANCE = 1.0
"""Seconds that a beginning may be late on its way to the database."""
ON_ITS_WAY = 5.0
"""The same for an attempt that was given up, and so never ran: a busy service may hear of its beginning after that."""
GIVEN_UP = frozenset({"handed_back", "refused_by_donor", "died", "lost", "released"})


@dataclass(frozen=True, slots=True)
class Begun:
    """One row of the table, of an attempt that a worker began. Unix seconds."""

    worker_id: str
    incarnation: str
    begun_at: float
    ended_at: float | None
    outcome: str | None


@dataclass
class Diary:
    """What one donor's owner, or an accident, did to it, in order. Unix seconds."""

    shut: list[tuple[float, float | None]] = field(default_factory=list)
    """From, and until (None: it still is), nothing may begin."""
    gone: list[float] = field(default_factory=list)
    """Nothing of this donor runs at this moment: its process is dead, or has given up all that it ran."""

    def shuts(self, at: float) -> None:
        if not self.shut or self.shut[-1][1] is not None:
            self.shut.append((at, None))

    def opens(self, at: float) -> None:
        if self.shut and self.shut[-1][1] is None:
            self.shut[-1] = (self.shut[-1][0], at)


@dataclass
class Findings:
    """What the check saw."""

    violations: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    """Of the violations."""
    most_at_once: dict[str, int] = field(default_factory=dict)
    """Donor → how many of its attempts ran at the same time."""
    begun: Counter[str] = field(default_factory=Counter)
    """Donor → how many attempts it began."""

    def add(self, kind: str, worker_id: str, what: str) -> None:
        self.kinds[kind] += 1
        self.violations.append(f"{kind}: {worker_id} {what}")


def check(attempts: Iterable[Begun], limits: Mapping[str, Limits], diaries: Mapping[str, Diary]) -> Findings:
    """Every attempt against the limits and the diary of its donor."""
    found, by_worker = Findings(), defaultdict(list)
    for attempt in attempts:
        by_worker[attempt.worker_id].append(attempt)
    for worker_id, allowed in limits.items():
        mine = sorted(by_worker[worker_id], key=lambda one: one.begun_at)
        diary = diaries.get(worker_id, Diary())
        found.begun[worker_id] = len(mine)
        _moments(found, worker_id, mine, allowed, diary)
        _at_once(found, worker_id, mine, allowed, diary)
        _hourly(found, worker_id, mine, allowed)
    return found


def _moments(found: Findings, worker_id: str, mine: Sequence[Begun], allowed: Limits, diary: Diary) -> None:
    for one in mine:
        late = ON_ITS_WAY if one.outcome in GIVEN_UP else TOLERANCE
        now = datetime.fromtimestamp(one.begun_at, UTC)
        if not is_open(allowed, now) and not is_open(allowed, now - timedelta(seconds=late)):
            found.add("outside hours", worker_id, f"began one at {now:%H:%M:%S}")
        for since, until in diary.shut:
            if since + late < one.begun_at < (until or float("inf")):
                found.add("while shut", worker_id, f"began one {one.begun_at - since:.1f} s in ({one.outcome})")


def _at_once(found: Findings, worker_id: str, mine: Sequence[Begun], allowed: Limits, diary: Diary) -> None:
    steps: list[tuple[float, int]] = []
    for one in mine:
        if (end := _end(one, sorted(diary.gone))) is not None:
            steps += [(one.begun_at, 1), (max(end, one.begun_at), -1)]
    running = most = 0
    for _, change in sorted(steps):  # an end before a beginning at the same moment
        running += change
        most = max(most, running)
    found.most_at_once[worker_id] = most
    if most > allowed.max_concurrent_jobs:
        found.add("concurrency", worker_id, f"ran {most} at once, allows {allowed.max_concurrent_jobs}")


def _end(one: Begun, gone: Sequence[float]) -> float | None:
    """When it ended at its donor. None: not known, nobody heard of it again."""
    index = bisect_left(gone, one.begun_at)
    killed = gone[index] if index < len(gone) else None
    if one.outcome == "lost" and killed is None:
        return None
    ends = [at for at in (one.ended_at, killed) if at is not None]
    return min(ends, default=float("inf"))


def _hourly(found: Findings, worker_id: str, mine: Sequence[Begun], allowed: Limits) -> None:
    cap = allowed.max_jobs_per_hour
    for first, last in zip(mine, mine[cap:], strict=False) if cap else ():
        if last.begun_at - first.begun_at < 3600:
            found.add("hourly cap", worker_id, f"began {len(mine)} within the hour, allows {cap}")
            return


def incarnations(attempts: Iterable[Begun]) -> Counter[str]:
    """Donor → how many processes of it began something."""
    seen = {(one.worker_id, one.incarnation) for one in attempts}
    return Counter(worker_id for worker_id, _ in seen)
