"""What really happened with each donor, from the scheduler's transitions: the facts behind its reliability."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
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
    stored: History | None = None
    """What the grid's store knows of it: its durable jobs, and its stays if it registered. None: not told yet."""

    @property
    def past(self) -> History:
        """All that is known: what the store knows, and what this scheduler saw and the store can't."""
        if self.stored is None:
            return self.history
        knows_stays = self.stored.sessions or self.stored.online_since is not None
        seen = self.history.jobs_only() if knows_stays else self.history
        return self.stored.beside(seen)


class Ledger:
    """Accounts of all donors ever seen by this scheduler, and the grid's median service times. Knows neither clock
    nor Dask.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._usual: Mapping[str, float] = {}
        self.fed = False
        """Whether a store tells what becomes of durable jobs: then they are not counted here as well."""
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
        self.measured(donor_id, kind, seconds)

    def measured(self, donor_id: str, kind: Hashable, seconds: float) -> None:
        """A job of this kind took so long, whatever became of it."""
        account, ms = self.account(donor_id), seconds * 1e3
        mean = account.mean_latency_ms
        account.mean_latency_ms = ms if mean is None else mean + (ms - mean) / _MEAN_OVER
        self._measure(kind, seconds)

    def told(self, histories: Mapping[str, History], usual: Mapping[str, float]) -> None:
        """What the store knows: donor → its past, and job type → how long such work usually takes, in s."""
        self.fed, self._usual = True, usual
        for donor_id, history in histories.items():
            self.account(donor_id).stored = history

    def failed(self, donor_id: str) -> None:
        """A job ended in its own exception."""
        self.account(donor_id).job_errors += 1

    def median(self, kind: Hashable) -> float | None:
        """The grid's median service time for a kind of job in s, None before the first."""
        running = self._medians.get(kind)
        return None if running is None else running.value()

    def usual(self, kind: tuple[str, str | None]) -> float | None:
        """How long a kind of job (type and model) usually takes in s: as seen here, else what the store knows of its
        type. None: nobody knows."""
        seen = self.median(kind)
        return self._usual.get(kind[0]) if seen is None else seen

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
        return score(self.account(donor_id).past, now)

    def standing(self, donor_id: str, now: datetime) -> dict[str, Any]:
        """The fields of `Donor` that the ledger knows better than the donor itself."""
        account = self.account(donor_id)
        latency = account.mean_latency_ms
        # Rounded, so that the index is not sorted anew for every job.
        return {
            "reliability": round(self.score(donor_id, now).total, 3),
            "avg_latency_ms": None if latency is None else float(f"{latency:.2g}"),
            "pace": float(f"{account.past.latency_ratio:.2g}"),
        }
