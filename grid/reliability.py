"""How far a donor can be relied on: a score from 0 to 1 out of four terms, and the facts that it is made of.

40 % success rate of jobs, 30 % online stability, 20 % latency against the grid's median, 10 % long-term history. Every
term starts at `NEUTRAL` and is pulled from there by facts: a prior of a few imagined jobs and sessions keeps one
failure from ruining a new donor, and one success from crowning it (the posterior mean of a beta distribution).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Self

NEUTRAL = 0.75
"""Score, and each of its terms, of a donor of which nothing is known."""
SUCCESS_WEIGHT, STABILITY_WEIGHT, LATENCY_WEIGHT, SENIORITY_WEIGHT = 0.4, 0.3, 0.2, 0.1

PRIOR_JOBS = 8.0
"""So many jobs, at the neutral rate, stand for what isn't known yet."""
PRIOR_SESSIONS = 4.0
"""So many sessions, likewise."""
JOB_MEMORY = 200.0
"""The success rate looks back about so many jobs: a good donor that breaks is seen soon, a mended one recovers."""
GOOD_SESSION_SECONDS = 4 * 3600.0
"""A mean session of this length earns half of the session-length term."""
LATENCY_MEMORY = 50.0
"""The latency ratio is an average over about so many jobs."""
SENIORITY_DAYS = 10.0
"""After so many days online, half of the long way from neutral to 1 is done."""
_RATIO_BOUNDS = (0.01, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is known of a donor's past. Events give a new one; nothing here reads a clock."""

    jobs_done: int = 0
    """Over its whole life."""
    jobs_failed: int = 0
    """Over its whole life; failures that are the donor's, not the job's."""
    recent_done: float = 0.0
    """The same two with older jobs fading (`JOB_MEMORY`)."""
    recent_failed: float = 0.0
    latency_ratio: float = 1.0
    """Service time over the grid's median for that type and model, geometric mean, older jobs fading. Below 1: fast."""
    sessions: int = 0
    """Ended sessions."""
    session_seconds: float = 0.0
    """Time online in all ended sessions, in s."""
    unexpected_ends: int = 0
    """Sessions that ended without a goodbye."""
    online_since: datetime | None = None
    """Start (UTC) of the session that is going on. None: offline."""
    first_seen: datetime | None = None
    """Start (UTC) of its first session."""

    def after_job(self, ok: bool, latency_ratio: float | None = None) -> Self:
        """With one more finished job. `latency_ratio`: its service time over the grid's median; None: not known.

        Raises ValueError on a ratio that isn't a positive number.
        """
        keep = 1.0 - 1.0 / JOB_MEMORY
        return replace(
            self,
            jobs_done=self.jobs_done + ok,
            jobs_failed=self.jobs_failed + (not ok),
            recent_done=self.recent_done * keep + ok,
            recent_failed=self.recent_failed * keep + (not ok),
            latency_ratio=self.latency_ratio if latency_ratio is None else _blend(self.latency_ratio, latency_ratio),
        )

    def after_session(self, seconds: float, expected: bool) -> Self:
        """With one more ended session; `expected`: it said goodbye. Raises ValueError when `seconds` is below 0."""
        if not 0.0 <= seconds < math.inf:
            raise ValueError(f"a session lasted {seconds!r} s; it must be 0 or more")
        return replace(
            self,
            sessions=self.sessions + 1,
            session_seconds=self.session_seconds + seconds,
            unexpected_ends=self.unexpected_ends + (not expected),
            online_since=None,
        )

    def joined(self, now: datetime) -> Self:
        """With a session that starts at `now` (UTC); one that is going on already goes on."""
        return replace(self, online_since=self.online_since or now, first_seen=self.first_seen or now)

    def left(self, now: datetime, expected: bool) -> Self:
        """With the session that is going on ended at `now` (UTC); unchanged when there is none."""
        return self if self.online_since is None else self.after_session(self.session_so_far(now), expected)

    def beside(self, other: Self) -> Self:
        """With what somebody else saw of the same donor at other times or other work: what both count is added up.

        The session that is going on is the one of whoever has known it longer.
        """
        jobs, others = self.recent_done + self.recent_failed, other.recent_done + other.recent_failed
        keep = min(1.0, JOB_MEMORY / (jobs + others)) if jobs + others else 1.0
        ratio = self.latency_ratio
        if others:
            ratio = math.exp((math.log(ratio) * jobs + math.log(other.latency_ratio) * others) / (jobs + others))
        return replace(
            self,
            jobs_done=self.jobs_done + other.jobs_done,
            jobs_failed=self.jobs_failed + other.jobs_failed,
            recent_done=(self.recent_done + other.recent_done) * keep,
            recent_failed=(self.recent_failed + other.recent_failed) * keep,
            latency_ratio=ratio,
            sessions=self.sessions + other.sessions,
            session_seconds=self.session_seconds + other.session_seconds,
            unexpected_ends=self.unexpected_ends + other.unexpected_ends,
            online_since=_earlier(self.online_since, other.online_since),
            first_seen=_earlier(self.first_seen, other.first_seen),
        )

    def jobs_only(self) -> Self:
        """Without its sessions."""
        return replace(self, sessions=0, session_seconds=0.0, unexpected_ends=0, online_since=None, first_seen=None)

    def to_wire(self) -> dict[str, Any]:
        """As a dict of JSON types; what is nothing is left out."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        told = {name: value for name, value in values.items() if value != getattr(_BLANK, name)}
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in told.items()}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """The inverse of `to_wire`. Fields that this version doesn't know are ignored.

        Raises TypeError and ValueError on what is no history.
        """
        known = {item.name: wire[item.name] for item in fields(cls) if item.name in wire}
        for name in ("online_since", "first_seen"):
            if known.get(name) is not None:
                known[name] = datetime.fromisoformat(known[name])
        return cls(**known)

    def session_so_far(self, now: datetime) -> float:
        """Length of the session that is going on, in s; 0 when offline."""
        return 0.0 if self.online_since is None else max(0.0, (now - self.online_since).total_seconds())

    def online_seconds(self, now: datetime) -> float:
        """Time online in all sessions, the one that is going on included, in s."""
        return self.session_seconds + self.session_so_far(now)


_BLANK = History()


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _blend(mean: float, ratio: float) -> float:
    if not 0.0 < ratio < math.inf:
        raise ValueError(f"latency_ratio is {ratio!r}; it must be above 0 and finite")
    low, high = _RATIO_BOUNDS
    return math.exp(math.log(mean) + (math.log(min(max(ratio, low), high)) - math.log(mean)) / LATENCY_MEMORY)


@dataclass(frozen=True, slots=True)
class Score:
    """The four terms, each 0 to 1."""

    success: float
    stability: float
    latency: float
    seniority: float

    def to_wire(self) -> dict[str, float]:
        """Total and terms, to three digits."""
        terms = {"success": self.success, "stability": self.stability}
        terms |= {"latency": self.latency, "seniority": self.seniority}
        return {name: round(value, 3) for name, value in {"total": self.total, **terms}.items()}

    @property
    def total(self) -> float:
        """The reliability score, 0 to 1."""
        return (
            SUCCESS_WEIGHT * self.success
            + STABILITY_WEIGHT * self.stability
            + LATENCY_WEIGHT * self.latency
            + SENIORITY_WEIGHT * self.seniority
        )


def says(outcome: str | None, job_status: str, job_error: str | None) -> bool | None:
    """What an attempt at a job that is over says of its donor: True for good, False for ill, None for neither.

    A donor is not blamed for a job that failed everywhere, that killed several donors, or that its owner handed back;
    it is for one that it lost, and for a failure where another donor then succeeded.
    """
    if outcome == "completed":
        return True
    if outcome in ("died", "lost"):
        return None if job_error in ("poisoned", "lost") else False
    return False if outcome == "failed" and job_status == "completed" else None


def ratio_of(latency_term: float) -> float:
    """The inverse of `latency`: a donor's service times over the grid's medians. Positive, and finite."""
    low, high = _RATIO_BOUNDS
    return min(max((1.0 / max(latency_term, 1e-6) - 1.0) / (1.0 / NEUTRAL - 1.0), low), high)


def score(history: History, now: datetime) -> Score:
    """The score at `now` (UTC); time counts only through the session that is going on."""
    online = history.online_seconds(now)
    return Score(
        success=success(history.recent_done, history.recent_failed),
        stability=stability(online, history.sessions, history.unexpected_ends),
        latency=latency(history.latency_ratio),
        seniority=seniority(history.jobs_done, history.jobs_failed, online),
    )


def success(done: float, failed: float) -> float:
    """The share of jobs that succeed: rises with `done`, falls with `failed`."""
    return _smoothed(done, failed, PRIOR_JOBS)


def stability(online_seconds: float, sessions: int, unexpected_ends: int) -> float:
    """Half the mean length of sessions, half the share of sessions that ended with a goodbye.

    A length counts from one unexpected end to the next: who leaves with a goodbye only pauses its session, so a
    graceful leave costs nothing, however early it comes. Rises with `online_seconds`, falls with `unexpected_ends`.
    """
    prior_seconds = GOOD_SESSION_SECONDS * NEUTRAL / (1.0 - NEUTRAL)
    mean_seconds = (online_seconds + prior_seconds) / (unexpected_ends + 1.0)
    length = mean_seconds / (mean_seconds + GOOD_SESSION_SECONDS)
    return (length + _smoothed(sessions - unexpected_ends, unexpected_ends, PRIOR_SESSIONS)) / 2.0


def latency(ratio: float) -> float:
    """1 for an instant answer, neutral at the grid's median (`ratio` 1), towards 0 the slower it is."""
    return 1.0 / (1.0 + ratio * (1.0 / NEUTRAL - 1.0))


def seniority(done: int, failed: int, online_seconds: float) -> float:
    """Half the success rate of its whole life, half the days it has been online: trust that takes long to earn."""
    days = online_seconds / 86400.0
    tenure = NEUTRAL + (1.0 - NEUTRAL) * days / (days + SENIORITY_DAYS)
    return (_smoothed(done, failed, PRIOR_JOBS) + tenure) / 2.0


def _smoothed(good: float, bad: float, prior: float) -> float:
    return (good + prior * NEUTRAL) / (good + bad + prior)
