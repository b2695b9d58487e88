"""How many jobs this machine began today and within the last hour: what its owner is told, and what the hourly cap
counts. In a file, so that neither forgets anything when the agent ends, however it ends.
"""

from __future__ import annotations

import json
import logging
import os
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from .face import JobLine
from .state import write_private

logger = logging.getLogger(__name__)

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
MOST = 100_000
"""Starts that are kept: of a machine that begins more of them in a day, the oldest are forgotten."""
STALE = 1000
"""Lines of the file that say nothing any more, before it is written anew; more if more of it is alive."""
Start = tuple[str, datetime]
"""Of a job: its id and when (aware)."""


class Tally:
    """Counts starts, each once, however often a job is heard of. No clock."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: of the file, which gets a line for each start; None: nothing is kept."""
        self._path = path
        self._known = set(_read(path)) if path is not None else set[Start]()
        self._by_time = sorted(self._known, key=_at)
        self._stale = 0

    @property
    def starts(self) -> Collection[Start]:
        """Within the last day, as far as they are known; oldest first."""
        return tuple(self._by_time)

    def heard(self, lines: Iterable[JobLine], now: datetime) -> None:
        """Jobs that run or ran."""
        new = {(line.job_id, line.started_at) for line in lines} - self._known
        for one in new:
            insort(self._by_time, one, key=_at)
        self._known |= new
        self._forget(now)
        if self._path is None or not new:
            return
        try:
            _append(self._path, new)
            if self._stale > max(STALE, len(self._by_time)):
                write_private(self._path, "".join(map(_line, self._by_time)))
                self._stale = 0
        except OSError as error:
            logger.warning("%s can't be written (%s): a restart forgets what began", self._path, error.strerror)

    def _forget(self, now: datetime) -> None:
        over = max(bisect_right(self._by_time, now - DAY, key=_at), len(self._by_time) - MOST)
        self._known.difference_update(self._by_time[:over])
        self._stale += over
        del self._by_time[:over]

    def last_hour(self, now: datetime) -> int:
        """Begun within the last 60 minutes."""
        return len(self._by_time) - bisect_right(self._by_time, now - HOUR, key=_at)

    def today(self, now: datetime, time_zone: str) -> int:
        """Begun since midnight in the owner's time zone."""
        midnight = datetime.combine(now.astimezone(ZoneInfo(time_zone)).date(), time.min, ZoneInfo(time_zone))
        return len(self._by_time) - bisect_left(self._by_time, midnight, key=_at)


def _at(start: Start) -> datetime:
    return start[1]


def _line(start: Start) -> str:
    return json.dumps([start[0], start[1].isoformat()]) + "\n"


def _append(path: Path, starts: Iterable[Start]) -> None:
    """At once, in one piece; readable by this user alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, "".join(map(_line, starts)).encode())
    finally:
        os.close(descriptor)


def _read(path: Path) -> Iterator[Start]:
    """What makes no sense, such as a line that was cut, is left out."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        try:
            job_id, at = json.loads(line)
            start = str(job_id), datetime.fromisoformat(at)
        except (ValueError, TypeError):
            continue
        if start[1].tzinfo is not None:
            yield start
