"""How many jobs this machine began today and within the last hour: what its owner is told."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from .face import JobLine

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


class Tally:
    """Counts starts, each once, however often a job is heard of. No clock."""

    def __init__(self) -> None:
        self._starts: set[tuple[str, datetime]] = set()

    def heard(self, lines: Iterable[JobLine], now: datetime) -> None:
        """Jobs that run or ran."""
        self._starts |= {(line.job_id, line.started_at) for line in lines}
        self._starts = {one for one in self._starts if one[1] > now - DAY}

    def last_hour(self, now: datetime) -> int:
        """Begun within the last 60 minutes."""
        return sum(at > now - HOUR for _, at in self._starts)

    def today(self, now: datetime, time_zone: str) -> int:
        """Begun since midnight in the owner's time zone."""
        zone = ZoneInfo(time_zone)
        day = now.astimezone(zone).date()
        return sum(at.astimezone(zone).date() == day for _, at in self._starts)
