"""How many jobs this machine began today and within the last hour: what its owner is told, and what the hourly cap
counts. In a file, so that neither forgets anything when the agent ends, however it ends.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from .face import JobLine
from .state import write_private

logger = logging.getLogger(__name__)

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
Start = tuple[str, datetime]
"""Of a job: its id and when (aware)."""


class Tally:
    """Counts starts, each once, however often a job is heard of. No clock."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: of the file, which gets a line for each start; None: nothing is kept."""
        self._path = path
        self._starts = set(_read(path)) if path is not None else set[Start]()

    @property
    def starts(self) -> Collection[Start]:
        """Within the last day, as far as they are known."""
        return self._starts

    def heard(self, lines: Iterable[JobLine], now: datetime) -> None:
        """Jobs that run or ran."""
        new = {(line.job_id, line.started_at) for line in lines} - self._starts
        old = {one for one in self._starts if one[1] <= now - DAY}
        self._starts = (self._starts | new) - old
        if self._path is None or not (new or old):
            return
        try:
            _append(self._path, new)
            if old:
                write_private(self._path, "".join(map(_line, sorted(self._starts))))
        except OSError as error:
            logger.warning("%s can't be written (%s): a restart forgets what began", self._path, error.strerror)

    def last_hour(self, now: datetime) -> int:
        """Begun within the last 60 minutes."""
        return sum(at > now - HOUR for _, at in self._starts)

    def today(self, now: datetime, time_zone: str) -> int:
        """Begun since midnight in the owner's time zone."""
        zone = ZoneInfo(time_zone)
        day = now.astimezone(zone).date()
        return sum(at.astimezone(zone).date() == day for _, at in self._starts)


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
