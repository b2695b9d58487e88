"""When a donor is open: its daily hours and its week, both by the wall clock of its own time zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from .donors import Limits

_DAY = timedelta(days=1)
_WINDOWS = 21
"""Windows looked at for one that is long enough: three a day for a week."""
_REMEMBERED = 4096
_known: dict[Limits, tuple[datetime, datetime | None]] = {}
"""Since when and until when limits are known to be open: closing is found by search, and asked for every decision."""


def has_hours(limits: Limits) -> bool:
    """Whether the owner allows work at some times only."""
    return limits.schedule is not None or limits.working_hours_start != limits.working_hours_end


def is_open(limits: Limits, now: datetime) -> bool:
    """Whether `now` (aware) lies in the daily hours and in the week's schedule, by the donor's own wall clock."""
    start, end, schedule = limits.working_hours_start, limits.working_hours_end, limits.schedule
    if start == end and schedule is None:
        return True
    local = now.astimezone(ZoneInfo(limits.time_zone))
    if start is not None and end is not None and start != end:
        hour = local.hour
        if not (start <= hour < end if start < end else hour >= start or hour < end):
            return False
    return schedule is None or schedule.covers(local)


def opens_at(limits: Limits, now: datetime) -> datetime:
    """The first moment (UTC) from `now` on at which it is open: `now` itself when it is."""
    return now.astimezone(UTC) if is_open(limits, now) else _next_turn(limits, now, opened=True)


def closes_at(limits: Limits, now: datetime) -> datetime | None:
    """The first moment (UTC) from `now` on at which it is shut: `now` itself when it is. None: it never shuts."""
    if limits.working_hours_start == limits.working_hours_end and (limits.schedule is None or limits.schedule.always):
        return None
    known = _known.get(limits)
    if known is not None and known[1] is not None and known[0] <= now < known[1]:
        return known[1]
    if not is_open(limits, now):
        return now.astimezone(UTC)
    turn = _next_turn(limits, now, opened=False)
    if len(_known) >= _REMEMBERED:
        _known.clear()
    _known[limits] = (now, turn)
    return turn


def open_for(limits: Limits, seconds: float, now: datetime) -> bool:
    """Whether it is open at `now` and stays so for `seconds`."""
    if not has_hours(limits):
        return True
    closes = closes_at(limits, now)
    return closes is None or (now < closes and (closes - now).total_seconds() >= seconds)


def opens_for(limits: Limits, seconds: float, now: datetime) -> datetime | None:
    """The first opening after `now` (which may be the window that is open) that lasts for `seconds`.

    None: none of the next windows does.
    """
    moment = opens_at(limits, now)
    for _ in range(_WINDOWS):
        closes = closes_at(limits, moment)
        if closes is None or (closes - moment).total_seconds() >= seconds:
            return moment
        moment = opens_at(limits, closes)
    return None


def describe(limits: Limits, now: datetime) -> str:
    """The hours in words, with the wall clock."""
    local = now.astimezone(ZoneInfo(limits.time_zone))
    daily = limits.working_hours_start != limits.working_hours_end
    hours = f"{limits.working_hours_start}-{limits.working_hours_end}" if daily else ""
    if limits.schedule is None:
        return f"works {hours} {limits.time_zone}, it is {local:%H:%M} there"
    both = " and ".join(part for part in (hours, limits.schedule.text) if part)
    return f"works {both} {limits.time_zone}, it is {local:%a %H:%M} there"


def _next_turn(limits: Limits, now: datetime, *, opened: bool) -> datetime:
    """The first moment after `now` at which it opens (or shuts), which it hasn't at `now`.

    That is only where the wall clock shows a time at which hours or schedule turn, or is put forward or back over one.
    """
    zone = ZoneInfo(limits.time_zone)
    day = now.astimezone(zone).date() - _DAY  # a clock put back over midnight shows yesterday again
    while True:
        turns = [
            moment
            for wall in _times(limits, day)
            for moment in _moments_of(day, wall, zone)
            if moment > now and is_open(limits, moment) is opened
        ]
        if turns:
            return min(turns)
        day += _DAY


def _times(limits: Limits, day: date) -> set[time]:
    """The times of a day at which hours or schedule may turn."""
    hours = (limits.working_hours_start, limits.working_hours_end)
    times = {time(hour) for hour in hours if hour is not None}
    if limits.schedule is not None:
        times |= {time(hour, minute) for hour, minute in limits.schedule.turns(day.weekday())}
    return times


def _moments_of(day: date, at: time, zone: ZoneInfo) -> list[datetime]:
    """The moments (UTC) at which the wall clock may reach or pass a time of `day`.

    One on most days. When the clock changes over that time: both readings, and the change itself, which no wall time
    names.
    """
    wall = datetime.combine(day, at, tzinfo=zone)
    readings = sorted({wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1)})
    return readings + [_clock_change(before, after, zone) for before, after in pairwise(readings)]


def _clock_change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The moment in (before, after] from which the zone's offset is that of `after`, to the second."""
    offset = after.astimezone(zone).utcoffset()
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return before + timedelta(seconds=high)
