"""The owner's week: which hours allow work, where now is. Pure; exact to the minute, also when the clock changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from ...grid.acceptance import closes_at, is_open, opens_at
from ...grid.donors import Limits
from ...grid.schedule import Schedule

DAYS = 7
_DAY_MINUTES = 24 * 60
_MOST_TURNS = 10_000
"""Turns of open and closed within a week; a schedule by the minute has as many."""


@dataclass(frozen=True, slots=True)
class Hour:
    """One cell of the grid."""

    share: float
    """Part of the hour that allows work, 0 to 1."""
    now: bool


@dataclass(frozen=True, slots=True)
class Day:
    """One row of the grid."""

    date: date
    today: bool
    hours: tuple[Hour, ...]
    """24 of them, by the wall clock."""
    spans: str
    """The same in words: ``18:00–24:00``, ``all day``, ``not at all``."""


def limits_of(values: Mapping[str, Any], time_zone: str) -> Limits:
    """The owner's limits out of the load control in force; `time_zone` (IANA) where it names none.

    Raises ValueError or TypeError on values that are none.
    """
    known = {item.name for item in fields(Limits)}
    told = {name: value for name, value in values.items() if name in known and value is not None}
    if isinstance(told.get("schedule"), str):
        told["schedule"] = Schedule(told["schedule"])
    return Limits(**{"time_zone": time_zone} | told)


def week(limits: Limits, now: datetime) -> tuple[Day, ...]:
    """Seven days from today on, by the wall clock of the limits' own time zone. `now` is aware."""
    zone = ZoneInfo(limits.time_zone)
    local = now.astimezone(zone)
    days = [local.date() + timedelta(days=number) for number in range(DAYS)]
    begin = datetime.combine(days[0], time(), zone)
    spans = list(_open_spans(limits, begin, datetime.combine(days[-1] + timedelta(days=1), time(), zone)))
    return tuple(_day(day, spans, local) for day in days)


def _open_spans(limits: Limits, begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """When work is allowed within [begin, end): begin and end of each span, UTC, in order."""
    moment, end = begin.astimezone(UTC), end.astimezone(UTC)
    for _turn in range(_MOST_TURNS):
        if moment >= end:
            return
        if is_open(limits, moment):
            closing = min(closes_at(limits, moment) or end, end)
            yield moment, closing
            moment = closing
        else:
            opening = opens_at(limits, moment)
            if opening is None or opening <= moment:
                return
            moment = opening


def _day(day: date, spans: list[tuple[datetime, datetime]], local: datetime) -> Day:
    zone = local.tzinfo
    begin, end = (datetime.combine(day + timedelta(days=more), time(), zone) for more in (0, 1))
    minutes = [
        (_minute(max(one, begin), day, zone), _minute(min(other, end), day, zone))
        for one, other in spans
        if one < end and other > begin
    ]
    today = day == local.date()
    hours = tuple(
        Hour(sum(_overlap(span, hour * 60, hour * 60 + 60) for span in minutes) / 60, today and hour == local.hour)
        for hour in range(24)
    )
    return Day(day, today, hours, _words(minutes))


def _minute(moment: datetime, day: date, zone: Any) -> int:
    """Minute of `day` that the wall clock shows; the day's end is its last."""
    wall = moment.astimezone(zone)
    return _DAY_MINUTES if wall.date() > day else wall.hour * 60 + wall.minute


def _overlap(span: tuple[int, int], begin: int, end: int) -> int:
    return max(0, min(span[1], end) - max(span[0], begin))


def _words(spans: list[tuple[int, int]]) -> str:
    if spans == [(0, _DAY_MINUTES)]:
        return "all day"
    clock = [f"{begin // 60:02}:{begin % 60:02}–{end // 60:02}:{end % 60:02}" for begin, end in spans]
    return ", ".join(clock) or "not at all"


def next_morning(now: datetime, time_zone: str, hour: int = 8) -> datetime:
    """Tomorrow at that hour by the owner's wall clock (UTC)."""
    zone = ZoneInfo(time_zone)
    return datetime.combine(now.astimezone(zone).date() + timedelta(days=1), time(hour), zone).astimezone(UTC)
