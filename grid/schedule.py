"""The week of a donor: on which days and between which times its owner lends the machine, by its own wall clock."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from .suggest import did_you_mean

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WHOLE_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_EVERY_DAY = "daily"
_DAY, _WEEK = 24 * 60, 7 * 24 * 60
"""Minutes."""
_LONGEST = 500
_PART = re.compile(r"(?P<days>[a-z]+(?:\s*-\s*[a-z]+)?)(?:\s+(?P<start>\d\d?:\d\d)\s*-\s*(?P<end>\d\d?:\d\d))?")
_FORM = "write days and times such as mon-fri 18:00-08:00, with commas in between"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Windows that come every week. Two schedules are equal when they open and shut at the same times.

    ``mon-fri 18:00-08:00, sat-sun 00:00-24:00``: days, ranges of days (also over the weekend: fri-mon) or ``daily``,
    each with times. A window whose end comes before its start ends on the next day; days without times share the next
    ones (``mon, wed 08:00-12:00``). Raises ValueError on a text that no owner can mean.
    """

    text: str = field(compare=False)
    """As its owner wrote it."""
    spans: tuple[tuple[int, int], ...] = field(init=False, repr=False)
    """From and until, in minutes since Monday 00:00: ascending, apart from each other, within one week."""
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        spans = _merged(_parsed(self.text))
        object.__setattr__(self, "spans", spans)
        object.__setattr__(self, "_starts", tuple(start for start, _ in spans))

    @property
    def always(self) -> bool:
        """Whether it never shuts."""
        return self.spans == ((0, _WEEK),)

    def covers(self, local: datetime) -> bool:
        """Whether a window is open when the donor's wall clock shows `local`."""
        return self._covers(local.weekday() * _DAY + local.hour * 60 + local.minute)

    def _covers(self, minute: int) -> bool:
        index = bisect_right(self._starts, minute) - 1
        return index >= 0 and minute < self.spans[index][1]

    def turns(self, weekday: int) -> list[tuple[int, int]]:
        """Hour and minute of all times of a day (0: Monday) at which it may open or shut."""
        edges = {edge % _WEEK for span in self.spans for edge in span}
        return sorted(divmod(edge % _DAY, 60) for edge in edges if edge // _DAY == weekday)

    def meets(self, start: int, end: int) -> bool:
        """Whether it is ever open between these full hours of a day; `end` before `start`: over midnight."""
        edges = {*self._starts, *(day * _DAY + start * 60 for day in range(7))}
        hours = range(start, end) if start < end else (*range(start, 24), *range(end))
        return any(self._covers(edge) and edge % _DAY // 60 in hours for edge in edges)


def _parsed(text: str) -> Iterable[tuple[int, int]]:
    """The windows one by one, some perhaps beyond the end of the week."""
    if len(text) > _LONGEST:
        raise ValueError(f"a schedule of {len(text)} characters; allowed: up to {_LONGEST}")
    waiting: list[int] = []
    windows: list[tuple[int, int]] = []
    for part in (part.strip() for part in text.lower().split(",")):
        found = _PART.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is no part of a schedule; {_FORM}")
        waiting += _days(found["days"])
        if found["start"] is not None:
            start, end = _minute(found["start"]), _minute(found["end"])
            if start in (end, _DAY):
                raise ValueError(f"{part!r} has no length; for the whole day write 00:00-24:00")
            windows += ((day * _DAY + start, day * _DAY + end + (_DAY if end < start else 0)) for day in waiting)
            waiting = []
    if waiting:
        raise ValueError(f"{text!r} ends with days that have no times; {_FORM}")
    return windows


def _days(text: str) -> list[int]:
    if text == _EVERY_DAY:
        return list(range(7))
    first, *last = (_day(name.strip()) for name in text.split("-"))
    return [(first + offset) % 7 for offset in range((last[0] - first) % 7 + 1)] if last else [first]


def _day(name: str) -> int:
    for names in (DAYS, _WHOLE_NAMES):
        if name in names:
            return names.index(name)
    raise ValueError(f"{name!r} is no day; allowed: {', '.join(DAYS)}, {_EVERY_DAY}.{did_you_mean(name, DAYS)}")


def _minute(text: str) -> int:
    hour, minute = map(int, text.split(":"))
    if minute > 59 or hour * 60 + minute > _DAY:
        raise ValueError(f"{text!r} is no time; allowed: 00:00 to 24:00")
    return hour * 60 + minute


def _merged(windows: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    cut = [piece for start, end in windows for piece in ((start, min(end, _WEEK)), (0, end - _WEEK)) if piece[1] > 0]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(cut):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)
