"""What really happened with each donor, from the scheduler's transitions: the facts behind its reliability."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..grid.reliability import History, Score, score

_WINDOW = 255
"""Service times that a median looks back on."""
_KINDS = 1024
"""Pairs of job type and model whose medians are kept; the longest unused goes first."""
_SHORTEST = 1e-3
"""Medians below this many seconds say more about the scheduler than about the donor, and are not compared with."""
_MEAN_OVER = 50.0
"""A donor's average latency looks back about so many jobs."""


class RunningMedian:
    """The median of the last `_WINDOW` values, in bounded memory."""

    __slots__ = ("_latest", "_ordered")

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._ordered: list[float] = []

    def add(self, value: float) -> None:
        """One more value; the oldest leaves the window."""
        self._latest.append(value)
        insort(self._ordered, value)
        if len(self._latest) > _WINDOW:
            del self._ordered[bisect_left(self._ordered, self._latest.popleft())]

    def value(self) -> float | None:
        """The median (of an even number: the upper one), None before the first value."""
        return self._ordered[len(self._ordered) // 2] if self._ordered else None


@dataclass(slots=True)
class Account:
    """One donor's past, kept under its id, so that it outlives its workers."""

    history: History = field(default_factory=History)
    mean_latency_ms: float | None = None
    """Service time of its finished jobs, older ones fading, in ms."""
    job_errors: int = 0
    """Jobs that ended in their own exception: told to whoever submitted them, and not held against the donor."""
    interrupted: int = 0
    """Jobs that were lost because the worker died under them: held against the donor."""


class Ledger:
    """Accounts of all donors ever seen by this scheduler, and the grid's median service times. Knows neither clock
    nor Dask.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._medians: OrderedDict[Hashable, RunningMedian] = OrderedDict()

    def account(self, donor_id: str) -> Account:
        """The account of a donor; a new one for a donor never seen."""
        account = self._accounts.get(donor_id)
        if account is None:
            account = self._accounts[donor_id] = Account()
        return account

    def joined(self, donor_id: str, now: datetime) -> None:
        """A session starts."""
        account = self.account(donor_id)
        account.history = account.history.joined(now)

    def left(self, donor_id: str, now: datetime, *, expected: bool, interrupted: int) -> None:
        """A session ended: with a goodbye (`expected`) or without, and with so many jobs lost."""
        account = self.account(donor_id)
        account.history = account.history.left(now, expected)
        for _ in range(interrupted):
            self.interrupted(donor_id)

    def interrupted(self, donor_id: str) -> None:
        """A job was lost because the worker died under it."""
        account = self.account(donor_id)
        account.interrupted += 1
        account.history = account.history.after_job(ok=False)

    def finished(self, donor_id: str, kind: Hashable, seconds: float) -> None:
        """A job of this kind (type and model) gave its result after `seconds` of work."""
        account = self.account(donor_id)
        median = self.median(kind)
        known = median is not None and median >= _SHORTEST and seconds > 0.0
        account.history = account.history.after_job(
            ok=True, latency_ratio=seconds / median if known and median else None
        )
        mean, ms = account.mean_latency_ms, seconds * 1e3
        account.mean_latency_ms = ms if mean is None else mean + (ms - mean) / _MEAN_OVER
        self._measure(kind, seconds)

    def failed(self, donor_id: str) -> None:
        """A job ended in its own exception."""
        self.account(donor_id).job_errors += 1

    def median(self, kind: Hashable) -> float | None:
        """The grid's median service time for a kind of job in s, None before the first."""
        running = self._medians.get(kind)
        return None if running is None else running.value()

    def _measure(self, kind: Hashable, seconds: float) -> None:
        running = self._medians.get(kind)
        if running is None:
            if len(self._medians) >= _KINDS:
                self._medians.popitem(last=False)
            running = self._medians[kind] = RunningMedian()
        else:
            self._medians.move_to_end(kind)
        running.add(seconds)

    def score(self, donor_id: str, now: datetime) -> Score:
        """The donor's reliability in its four terms."""
        return score(self.account(donor_id).history, now)

    def standing(self, donor_id: str, now: datetime) -> dict[str, Any]:
        """The fields of `Donor` that the ledger knows better than the donor itself."""
        account = self.account(donor_id)
        latency = account.mean_latency_ms
        # Rounded, so that the index is not sorted anew for every job.
        return {
            "reliability": round(self.score(donor_id, now).total, 3),
            "avg_latency_ms": None if latency is None else float(f"{latency:.2g}"),
            "pace": float(f"{account.history.latency_ratio:.2g}"),
        }
